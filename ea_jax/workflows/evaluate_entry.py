"""From files to a report: read, embed where needed, check, evaluate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.data.pairs import Pairs, read_pairs
from ea_jax.data.qrels import read_qrels, read_side
from ea_jax.data.texts import read_texts
from ea_jax.data.vectors import encoder_facts
from ea_jax.errors import BadInput
from ea_jax.evaluation import Report, Trial, evaluate
from ea_jax.evaluation.dataset import check_vectors
from ea_jax.evaluation.evaluate import Protocol
from ea_jax.loading import load_adapters, load_encoder, load_quality_part, load_source_encoder
from ea_jax.registry.entry import Entry
from ea_jax.registry.fingerprint import check_provenance
from ea_jax.registry.spaces import find_space

ASK, MOST = 5, 2000  # where no column says who asks: one row in five, and 2,000 at the most


def judge(entry: Entry, trial: Trial, *, protocol: Protocol, seed: int, notes: Sequence[str]) -> Report:
    """Evaluate both purposes of an entry, with its quality part."""
    for name in ("x", "corpus_x"):
        vectors = getattr(trial, name)
        if vectors is not None:
            space = find_space(entry.source, entry.path.parent)
            check_vectors(name, vectors, entry.d_in, entry.source, space.unit_norm)
    adapters = load_adapters(entry)
    store, quality = adapters["store"], load_quality_part(entry, adapters["store"])
    return evaluate(store, trial, query=adapters["query"], quality=quality, protocol=protocol, seed=seed, notes=notes)


@dataclass(frozen=True)
class Given:
    """Files that a trial is made of: pairs, texts, or queries with their corpus, and judgments where there are any."""

    pairs: Sequence[Path] = ()
    texts: Sequence[Path] = ()
    queries: Path | None = None
    corpus: Path | None = None
    qrels: Path | None = None
    assume_source: bool = False  # whatever a file says of the encoder of its vectors

    def __post_init__(self) -> None:
        ways = [bool(self.pairs), bool(self.texts), self.queries is not None and self.corpus is not None]
        if sum(ways) != 1 or (self.queries is None) != (self.corpus is None):
            raise BadInput("Give one of --pairs, --texts, or both --queries and --corpus.")
        if self.qrels is not None and self.queries is None:
            raise BadInput("--qrels goes with --queries and --corpus, whose ids it names.")


def judged(entry: Entry, given: Given, *, protocol: Protocol, seed: int) -> Report:
    """Read the files, make a trial of them, and evaluate an entry on it.

    Raises:
        BadInput: The files are not what they should be; the message says which, where, and what to do.
    """
    for path in filter(None, (*given.pairs, given.queries, given.corpus)):
        if path.is_file() and (facts := encoder_facts(path)):
            check_provenance(entry, facts, str(path), given.assume_source)
    if given.queries is not None and given.corpus is not None:
        trial, notes = trial_of_vectors(entry, given.queries, given.corpus, given.qrels)
        if protocol == "qa" and given.qrels is None:
            trial = answered_in_order(trial)
            notes = [*notes, "There are no judgments: corpus row i is taken for the answer of query i."]
    elif given.texts:
        trial, notes = trial_of_texts(entry, given.texts, seed)
    else:
        trial, notes = trial_of_pairs(entry, given.pairs, seed)
    return judge(entry, trial, protocol=protocol, seed=seed, notes=notes)


def trial_of_pairs(entry: Entry, paths: Sequence[Path], seed: int) -> tuple[Trial, list[str]]:
    """Queries and corpus of pairs: by the column `query`, or drawn. Texts without x are embedded."""
    pairs, notes = read_pairs(paths), []
    if pairs.x is None:
        pairs = replace(pairs, x=_embedded(entry.source, pairs.text or [], entry))
        notes.append("The column x was made here, of the column text.")
    return _split(pairs, seed, notes)


def trial_of_texts(entry: Entry, paths: Sequence[Path], seed: int) -> tuple[Trial, list[str]]:
    """Queries and corpus of texts that both encoders embed here."""
    if not _local(entry.target, entry):
        raise BadInput(f"{entry.target} does not run here to embed the texts; give --pairs with its vectors as y.")
    found = read_texts(paths)
    pairs = Pairs(
        _embedded(entry.target, found.text, entry), _embedded(entry.source, found.text, entry), found.text, found.group
    )
    return _split(pairs, seed, [f"{found.duplicates:,} repeated texts were left out."] if found.duplicates else [])


def trial_of_vectors(entry: Entry, queries: Path, corpus: Path, qrels: Path | None) -> tuple[Trial, list[str]]:
    """A trial of two files, of queries and of a corpus.

    In parquet the columns are x, y, text, group and id, as far as they are there; a `.npy` file holds the queries' x,
    or the corpus's y. Ids are row numbers where there is no such column. Vectors that are not there are made of the
    texts where the model runs here.
    """
    a, b = read_side(queries, "x"), read_side(corpus, "y")
    for where, side, column, model in ((queries, a, "x", entry.source), (corpus, b, "y", entry.target)):
        if column not in side and not ("text" in side and _local(model, entry)):
            raise BadInput(
                f"{where} has no column {column}, vectors of {model}, which cannot be made here of its text."
            )
    ids = [side.get("id") or [str(i) for i in range(len(next(iter(side.values()))))] for side in (a, b)]
    relevant = None if qrels is None else read_qrels(qrels, ids[0], ids[1])
    notes = [*_complete(queries, a, entry), *_complete(corpus, b, entry)]
    return Trial(a["x"], b["y"], a.get("y"), b.get("x"), a.get("text"), b.get("text"), a.get("group"), relevant), notes


def answered_in_order(trial: Trial) -> Trial:
    """Judgments by which corpus row i answers query i.

    Raises:
        BadInput: There are not as many of both.
    """
    n, m = len(trial.x), len(trial.corpus_y)
    if n != m:
        raise BadInput(f"There are {n} queries and {m} answers; without --qrels, answer i is of query i. Align them.")
    return replace(trial, relevant={i: {i: 1.0} for i in range(n)})


def _split(pairs: Pairs, seed: int, notes: list[str]) -> tuple[Trial, list[str]]:
    x, y, n = pairs.x, pairs.y, len(pairs.y)
    assert x is not None
    if len(x) != n:
        raise BadInput(f"Column x has {len(x)} rows and column y {n}; both sides must be row-aligned.")
    asks = pairs.query
    if asks is None:
        asks = np.zeros(n, bool)
        asks[np.random.default_rng(seed).permutation(n)[: min(MOST, n // ASK)]] = True
        notes.append(f"No column says who asks: {asks.sum():,} rows drawn with seed {seed} ask, the others are asked.")

    def of(values: Sequence[str] | None, rows: np.ndarray) -> list[str] | None:
        return None if values is None else [values[i] for i in np.flatnonzero(rows).tolist()]

    text, group = pairs.text, pairs.group
    trial = Trial(x[asks], y[~asks], y[asks], x[~asks], of(text, asks), of(text, ~asks), of(group, asks))
    return trial, notes


def _embedded(model: str, texts: Sequence[str], entry: Entry) -> np.ndarray:
    encode = load_source_encoder(entry) if model == entry.source else load_encoder(model, root=entry.path.parent)
    return encode(list(texts))


def _complete(path: Path, side: dict[str, Any], entry: Entry) -> list[str]:
    """Add the vectors that can be made here of a side's texts; say which."""
    made = [
        (name, model)
        for name, model in (("x", entry.source), ("y", entry.target))
        if name not in side and "text" in side and _local(model, entry)
    ]
    for name, model in made:
        side[name] = _embedded(model, side["text"], entry)
    return [f"The column {name} of {path.name} was made here, of its column text." for name, _ in made]


def _local(model: str, entry: Entry) -> bool:
    return find_space(model, entry.path.parent).local
