"""From files to a report: read, embed where needed, check, evaluate."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.errors import BadInput
from ea_jax.evaluation import Report, Trial, evaluate
from ea_jax.evaluation.evaluate import Protocol
from ea_jax.evaluation.trial import check_vectors, read_qrels
from ea_jax.loading import load, load_encoder, load_quality, source_encoder
from ea_jax.registry import Entry, find_space
from ea_jax.tables import Pairs, read_pairs
from ea_jax.texts import read_texts
from ea_jax.vectors import read_vectors

ASK, MOST = 5, 2000  # where no column says who asks: one row in five, and 2,000 at the most


def judge(entry: Entry, trial: Trial, *, protocol: Protocol, seed: int, notes: Sequence[str]) -> Report:
    """Evaluate both purposes of an entry, with its quality part."""
    where: dict[str, Any] = {"flavor": entry.flavor, "root": entry.path.parent}
    a, b = entry.source, entry.target
    for name in ("x", "corpus_x"):
        vectors = getattr(trial, name)
        if vectors is not None:
            space = find_space(a, entry.path.parent)
            check_vectors(name, vectors, entry.d_in, a, space.unit_norm)
    store, query = load(a, b, **where), load(a, b, purpose="query", **where)
    quality = load_quality(a, b, **where)
    return evaluate(store, trial, query=query, quality=quality, protocol=protocol, seed=seed, notes=notes)


def trial_of_pairs(entry: Entry, paths: Sequence[Path], seed: int) -> tuple[Trial, list[str]]:
    """Queries and corpus of pairs: by the column `query`, or drawn. Texts without x are embedded."""
    pairs, notes = read_pairs(paths), []
    if pairs.x is None:
        pairs = replace(pairs, x=_embedded(entry.source, pairs.text or [], entry))
        notes.append("The column x was made here, of the column text.")
    return _split(pairs, seed, notes)


def trial_of_texts(entry: Entry, paths: Sequence[Path], seed: int) -> tuple[Trial, list[str]]:
    """Queries and corpus of texts that both encoders embed here."""
    if not find_space(entry.target, entry.path.parent).local:
        raise BadInput(f"{entry.target} does not run here to embed the texts; give --pairs with its vectors as y.")
    found = read_texts(paths)
    pairs = Pairs(
        _embedded(entry.target, found.text, entry), _embedded(entry.source, found.text, entry), found.text, found.group
    )
    return _split(pairs, seed, [f"{found.duplicates:,} repeated texts were left out."] if found.duplicates else [])


def trial_of_vectors(queries: Path, corpus: Path, qrels: Path | None) -> tuple[Trial, list[str]]:
    """A trial of two files of vectors; without judgments for `qa`, query i is answered by corpus row i.

    In parquet the columns are x, y, text, group and id, as far as they are there; a `.npy` file holds the queries' x,
    or the corpus's y. Ids are row numbers where there is no such column.
    """
    a, b = _columns(queries, "x"), _columns(corpus, "y")
    if a.get("x") is None or b.get("y") is None:
        lacks, column = (queries, "x") if a.get("x") is None else (corpus, "y")
        raise BadInput(f"{lacks} has no column {column}; queries need source vectors x, the corpus native vectors y.")
    relevant, notes = None, []
    ids = [side.get("id") or [str(i) for i in range(len(side[v]))] for side, v in ((a, "x"), (b, "y"))]
    if qrels is not None:
        relevant = read_qrels(qrels, ids[0], ids[1])
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
    encode = source_encoder(entry) if model == entry.source else load_encoder(model, root=entry.path.parent)
    return encode(list(texts))


def _columns(path: Path, alone: str) -> dict[str, Any]:
    if path.suffix == ".npy":
        return {alone: read_vectors(path)}
    from pyarrow import parquet

    if not path.is_file() or path.suffix != ".parquet":
        raise BadInput(f"{path} is no file of vectors: .npy or .parquet is.")
    names = parquet.read_schema(path).names
    found: dict[str, Any] = {name: read_vectors(path, name) for name in ("x", "y") if name in names}
    plain = [name for name in ("text", "group", "id") if name in names]
    table = parquet.read_table(path, columns=plain)
    return found | {name: [str(value) for value in table.column(name).to_pylist()] for name in plain}
