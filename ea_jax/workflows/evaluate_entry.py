"""Evaluate a registry entry on files: read them, embed their texts if needed, build an evaluation set."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ea_jax.data.columns import Columns
from ea_jax.data.pairs import Pairs, read_pairs
from ea_jax.data.qrels import read_columns, read_qrels
from ea_jax.data.texts import read_texts
from ea_jax.data.vectors import encoder_facts
from ea_jax.embeddings import VectorRule
from ea_jax.errors import BadInput
from ea_jax.evaluation import EvaluationSet, Report, evaluate
from ea_jax.evaluation.dataset import check_vectors
from ea_jax.evaluation.evaluate import Protocol
from ea_jax.loading import load_adapters, load_encoder, load_quality_part, load_source_encoder
from ea_jax.quality.source_check import check_source_sample
from ea_jax.registry.entry import Entry
from ea_jax.registry.fingerprint import check_source, vector_rule
from ea_jax.registry.spaces import find_space
from ea_jax.workflows.embed_texts import embed_texts

ROWS_PER_QUERY, MAX_QUERIES = 5, 2000  # at most one row in five is a query, and at most 2,000


@dataclass(frozen=True)
class EvaluationFiles:
    """The files of an evaluation: pairs, or texts, or queries and a corpus.

    Attributes:
        pairs: Files of pairs, as `read_pairs` takes them.
        texts: Files of texts, as `read_texts` takes them; both models must run locally.
        queries: A file of queries.
        corpus: A file of the corpus.
        qrels: Relevance judgments for the ids of queries and corpus.
        assume_source: Accept source vectors whose metadata names another encoder, or that look like another model's.
        columns: Names of the columns; those that are None are found.
        normalize: Rescale vectors of any length to unit length.
        store: URL of the store of which the pairs are a sample, which messages name.
        notes: Sentences to add to the report, such as how the files were made.

    Raises:
        BadInput: Not exactly one of the three is given, or judgments without queries and corpus.
    """

    pairs: Sequence[Path] = ()
    texts: Sequence[Path] = ()
    queries: Path | None = None
    corpus: Path | None = None
    qrels: Path | None = None
    assume_source: bool = False
    columns: Columns = field(default_factory=Columns)
    normalize: bool = False
    store: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        choices = [bool(self.pairs), bool(self.texts), self.queries is not None and self.corpus is not None]
        if sum(choices) != 1 or (self.queries is None) != (self.corpus is None):
            raise BadInput("Give one of pairs, texts, or both queries and corpus.")
        if self.qrels is not None and self.queries is None:
            raise BadInput("Judgments refer to ids of queries and corpus rows. Give queries and corpus with them.")


class PreparedSet(NamedTuple):
    """An evaluation set, and notes on how it was made."""

    evaluation_set: EvaluationSet
    notes: list[str]


def evaluate_files(entry: Entry, files: EvaluationFiles, *, protocol: Protocol, seed: int) -> Report:
    """Evaluate an entry on files.

    Raises:
        BadInput: A file is not as described in `EvaluationFiles`, or lacks a column that cannot be computed.
        FingerprintMismatch: Source vectors are not of the encoder that the adapter was fitted on.
    """
    for path in filter(None, (*files.pairs, files.queries, files.corpus)):
        if facts := encoder_facts(path, files.columns.source or "x"):
            check_source(entry.encoder, facts, str(path), entry.name, files.assume_source)
    if files.queries is not None and files.corpus is not None:
        evaluation_set, notes = read_queries_and_corpus(entry, files)
        if protocol == "qa" and files.qrels is None:
            evaluation_set = pair_by_row(evaluation_set)
            notes.append("There are no judgments: corpus row i is taken as the answer to query i.")
    elif files.texts:
        evaluation_set, notes = embed_text_files(entry, files, seed)
    else:
        evaluation_set, notes = read_pair_files(entry, files, seed)
    return evaluate_entry(
        entry,
        evaluation_set,
        protocol=protocol,
        seed=seed,
        notes=[*files.notes, *notes],
        assume_source=files.assume_source,
    )


def evaluate_entry(
    entry: Entry,
    evaluation_set: EvaluationSet,
    *,
    protocol: Protocol,
    seed: int,
    notes: Sequence[str],
    assume_source: bool = False,
) -> Report:
    """Evaluate an entry, with its adapters for both purposes and its quality part.

    Raises:
        BadInput: A vector is not as those of the source model are.
        FingerprintMismatch: Most source vectors look like another model's, and `assume_source` is not set.
    """
    unit_norm = find_space(entry.source, entry.path.parent).unit_norm
    for name in ("x", "corpus_x"):
        vectors = getattr(evaluation_set, name)
        if vectors is not None:
            check_vectors(name, vectors, entry.d_in, entry.source, unit_norm)
    adapters = load_adapters(entry)
    store, query, quality = adapters["store"], adapters["query"], load_quality_part(entry, adapters["store"])
    for name in ("x", "corpus_x"):
        if (vectors := getattr(evaluation_set, name)) is not None:
            check_source_sample(quality, vectors, name, assume_source)
    return evaluate(store, evaluation_set, query=query, quality=quality, protocol=protocol, seed=seed, notes=notes)


def read_pair_files(entry: Entry, files: EvaluationFiles, seed: int) -> PreparedSet:
    """Make an evaluation set of pairs. Without source vectors (x), their texts are embedded."""
    pairs, notes = read_pairs(files.pairs, columns=files.columns, rules=_rules(entry, files)), []
    if pairs.x is None:
        pairs = replace(pairs, x=_embed(entry.source, pairs.text or [], entry, files.store or str(files.pairs[0])))
        notes.append(f"The source vectors (x) were computed from the column text with {entry.source}.")
    return _split(pairs, seed, notes)


def embed_text_files(entry: Entry, files: EvaluationFiles, seed: int) -> PreparedSet:
    """Make an evaluation set of texts, which both models embed."""
    if not _is_local(entry.target, entry):
        raise BadInput(
            f"{entry.target} does not run locally, so texts cannot be embedded with it. Give pairs instead, with its "
            "vectors as column y."
        )
    texts = read_texts(files.texts, files.columns.text, files.columns.delimiter)
    notes = [f"{texts.duplicates:,} repeated texts were left out."] if texts.duplicates else []
    y, x = (_embed(model, texts.text, entry, str(files.texts[0])) for model in (entry.target, entry.source))
    return _split(Pairs(y, x, texts.text, texts.group), seed, notes)


def read_queries_and_corpus(entry: Entry, files: EvaluationFiles) -> PreparedSet:
    """Make an evaluation set of a file of queries and a file of the corpus.

    A file may have the columns x, y, text, group and id; a `.npy` file holds the x of the queries or the y of the
    corpus. Without a column id, ids are row numbers. Missing vectors are computed from the texts if the model runs
    locally.
    """
    queries, corpus, qrels = files.queries, files.corpus, files.qrels
    assert queries is not None
    assert corpus is not None
    rules = _rules(entry, files)
    query_columns, corpus_columns = (
        read_columns(path, role, files.columns, rules) for path, role in ((queries, "x"), (corpus, "y"))
    )
    for path, columns, name, model in (
        (queries, query_columns, "x", entry.source),
        (corpus, corpus_columns, "y", entry.target),
    ):
        if name not in columns and not ("text" in columns and _is_local(model, entry)):
            reason = f"{model} does not run locally" if "text" in columns else "it has no column text to embed"
            raise BadInput(f"{path} has no column {name} (vectors of {model}), and {reason}. Add the column.")
    relevant = None if qrels is None else read_qrels(qrels, _ids(query_columns), _ids(corpus_columns))
    notes = [*_add_vectors(queries, query_columns, entry), *_add_vectors(corpus, corpus_columns, entry)]
    evaluation_set = EvaluationSet(
        x=query_columns["x"],
        corpus_y=corpus_columns["y"],
        y=query_columns.get("y"),
        corpus_x=corpus_columns.get("x"),
        text=query_columns.get("text"),
        corpus_text=corpus_columns.get("text"),
        group=query_columns.get("group"),
        relevant=relevant,
    )
    return PreparedSet(evaluation_set, notes)


def pair_by_row(evaluation_set: EvaluationSet) -> EvaluationSet:
    """Add judgments in which corpus row i, and no other, is relevant to query i.

    Raises:
        BadInput: The number of queries is not the number of corpus rows.
    """
    n, m = len(evaluation_set.x), len(evaluation_set.corpus_y)
    if n != m:
        raise BadInput(
            f"There are {n} queries and {m} corpus rows, but without judgments corpus row i is the answer to query i. "
            "Align the rows, or give judgments."
        )
    return replace(evaluation_set, relevant={i: {i: 1.0} for i in range(n)})


def _split(pairs: Pairs, seed: int, notes: list[str]) -> PreparedSet:
    """Split pairs into queries and corpus by the column query or, without it, at random."""
    x, y, n = pairs.x, pairs.y, len(pairs.y)
    assert x is not None
    if len(x) != n:
        raise BadInput(f"Column x has {len(x)} rows and column y has {n}; they must be row-aligned.")
    is_query = pairs.query
    if is_query is None:
        is_query = np.zeros(n, bool)
        is_query[np.random.default_rng(seed).permutation(n)[: min(MAX_QUERIES, n // ROWS_PER_QUERY)]] = True
        notes.append(
            f"There is no column query: {is_query.sum():,} random rows (seed {seed}) are the queries, the others the "
            "corpus. If the adapter was fitted on these rows, its scores are too high."
        )

    def select(values: Sequence[str] | None, mask: np.ndarray) -> list[str] | None:
        return None if values is None else [values[i] for i in np.flatnonzero(mask).tolist()]

    evaluation_set = EvaluationSet(
        x=x[is_query],
        corpus_y=y[~is_query],
        y=y[is_query],
        corpus_x=x[~is_query],
        text=select(pairs.text, is_query),
        corpus_text=select(pairs.text, ~is_query),
        group=select(pairs.group, is_query),
    )
    return PreparedSet(evaluation_set, notes)


def _ids(columns: dict[str, Any]) -> list[str]:
    return columns.get("id") or [str(row) for row in range(len(next(iter(columns.values()))))]


def _embed(model: str, texts: Sequence[str], entry: Entry, where: str) -> np.ndarray:
    encode = load_source_encoder(entry) if model == entry.source else load_encoder(model, root=entry.path.parent)
    return embed_texts(encode, texts, where)


def _add_vectors(path: Path, columns: dict[str, Any], entry: Entry) -> list[str]:
    """Compute missing vectors from the texts of a file if the model runs locally. Returns notes on what was added."""
    missing = [
        (name, model)
        for name, model in (("x", entry.source), ("y", entry.target))
        if name not in columns and "text" in columns and _is_local(model, entry)
    ]
    for name, model in missing:
        columns[name] = _embed(model, columns["text"], entry, str(path))
    return [f"The column {name} of {path.name} was computed from its column text." for name, _ in missing]


def _rules(entry: Entry, files: EvaluationFiles) -> dict[str, VectorRule]:
    """Return what vectors of the two spaces must be."""
    x, y = (vector_rule(find_space(m, entry.path.parent), files.normalize) for m in (entry.source, entry.target))
    return {"x": replace(x, width=entry.d_in), "y": replace(y, width=entry.d_out)}


def _is_local(model: str, entry: Entry) -> bool:
    return find_space(model, entry.path.parent).local
