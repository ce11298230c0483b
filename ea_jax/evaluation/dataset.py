"""Evaluation sets: queries, a corpus, and relevance judgments."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import VectorRule, require_rows
from ea_jax.errors import BadInput

MIN_CORPUS = 10
Qrels = Mapping[int, Mapping[int, float]]


@dataclass(frozen=True)
class EvaluationSet:
    """Queries and a corpus in the source space, the target space or both.

    Attributes:
        x: Source embeddings of the queries.
        corpus_y: Native target embeddings of the corpus.
        y: Native target embeddings of the queries. Optional if `relevant` is given.
        corpus_x: Source embeddings of the corpus. Without them, the report cannot tell how well keeping the source
            model would do.
        text: Texts of the queries.
        corpus_text: Texts of the corpus rows.
        group: Group of each query, such as its document or customer; the report shows the scores of each.
        relevant: Relevance judgments: query number -> corpus row -> grade. Rows with grade 0 are not relevant.
    """

    x: Float[np.ndarray, "n d_in"]
    corpus_y: Float[np.ndarray, "m d_out"]
    y: Float[np.ndarray, "n_y d_y"] | None = None
    corpus_x: Float[np.ndarray, "m_x d_x"] | None = None
    text: Sequence[str] | None = None
    corpus_text: Sequence[str] | None = None
    group: Sequence[str] | None = None
    relevant: Qrels | None = None


def content_digest(evaluation_set: EvaluationSet) -> str:
    """Hash the target vectors and the judgments, so that two reports on the same set are recognized."""
    digest = hashlib.sha256()
    for vectors in (evaluation_set.y, evaluation_set.corpus_y):
        digest.update(b"none" if vectors is None else np.ascontiguousarray(vectors, np.float32).data)
    relevant = {query: sorted(grades.items()) for query, grades in (evaluation_set.relevant or {}).items()}
    digest.update(repr(sorted(relevant.items())).encode())
    return digest.hexdigest()[:16]


def check_evaluation_set(evaluation_set: EvaluationSet, spec: Spec) -> None:
    """Check the sizes, row alignment, vectors and judgments of an evaluation set.

    Raises:
        BadInput: There are too few rows; columns are not row-aligned; vectors are not those of the adapter's models;
            judgments refer to rows out of range; or there are neither judgments nor native vectors of the queries.
    """
    n, m = len(evaluation_set.x), len(evaluation_set.corpus_y)
    if not n or m < MIN_CORPUS:
        raise BadInput(f"There are {n} queries and a corpus of {m} rows; at least 1 and {MIN_CORPUS} are needed.")
    for reference, rows, names in (("x", n, ("y", "text", "group")), ("corpus_y", m, ("corpus_x", "corpus_text"))):
        for name in names:
            column = getattr(evaluation_set, name)
            if column is not None and len(column) != rows:
                raise BadInput(f"{name} has {len(column)} rows, but {reference} has {rows}; they must be row-aligned.")
    if evaluation_set.y is None and not evaluation_set.relevant:
        raise BadInput("There are neither native vectors of the queries (y) nor judgments (relevant); give one.")
    vectors = {"x": (spec.d_in, spec.source, False), "corpus_x": (spec.d_in, spec.source, False)}
    vectors |= dict.fromkeys(("y", "corpus_y"), (spec.d_out, spec.target, spec.unit_norm))
    for name, (width, model, unit_norm) in vectors.items():
        if getattr(evaluation_set, name) is not None:
            check_vectors(name, getattr(evaluation_set, name), width, model, unit_norm)
    for query, grades in (evaluation_set.relevant or {}).items():
        if not 0 <= query < n or any(not 0 <= row < m for row in grades):
            raise BadInput(
                f"The judgments of query {query} are out of range: there are {n} queries and {m} corpus rows, "
                "numbered from 0."
            )


def check_vectors(name: str, vectors: Float[np.ndarray, "n d"], width: int, model: str, unit_norm: bool) -> None:
    """Check that vectors are finite, have the width of a model and, if `unit_norm`, unit length.

    Raises:
        BadInput: They are not; the message starts with `name` and gives the row.
    """
    require_rows(vectors, VectorRule(model, width, unit_norm), name)
