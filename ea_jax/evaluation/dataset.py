"""A trial: queries, a corpus, and what is right to find."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from ea_jax.adapters.spec import Spec
from ea_jax.errors import BadInput

LEAST_CORPUS = 10
Qrels = Mapping[int, Mapping[int, float]]


@dataclass(frozen=True)
class Trial:
    """Queries and a corpus, each with the vectors that there are.

    Attributes:
        x: Source embeddings of the queries.
        corpus_y: Native target embeddings of the corpus.
        y: Native target embeddings of the queries. Without them there have to be judgments.
        corpus_x: Source embeddings of the corpus. Without them, keeping the source model is not judged.
        text: Of the queries.
        corpus_text: Of the corpus.
        group: Of the queries.
        relevant: By query number, the grades of corpus rows; 0 is not relevant.
    """

    x: Float[np.ndarray, "n d_in"]
    corpus_y: Float[np.ndarray, "m d_out"]
    y: Float[np.ndarray, "n_y d_y"] | None = None
    corpus_x: Float[np.ndarray, "m_x d_x"] | None = None
    text: Sequence[str] | None = None
    corpus_text: Sequence[str] | None = None
    group: Sequence[str] | None = None
    relevant: Qrels | None = None


def digest_of(trial: Trial) -> str:
    """Of what is asked and right: equal for trials of the same target vectors and judgments, in the same order."""
    told = hashlib.sha256()
    for side in (trial.y, trial.corpus_y):
        told.update(b"none" if side is None else np.ascontiguousarray(side, np.float32).data)
    relevant = {query: sorted(grades.items()) for query, grades in (trial.relevant or {}).items()}
    told.update(repr(sorted(relevant.items())).encode())
    return told.hexdigest()[:16]


def check_trial(trial: Trial, spec: Spec) -> None:
    """Raise BadInput unless the sides are row-aligned, of the adapter's widths and lengths, and there are enough."""
    n, m = len(trial.x), len(trial.corpus_y)
    if not n or m < LEAST_CORPUS:
        raise BadInput(f"There are {n} queries and a corpus of {m} rows; it takes at least 1 and {LEAST_CORPUS}.")
    for name, rows in {"y": n, "text": n, "group": n, "corpus_x": m, "corpus_text": m}.items():
        side = getattr(trial, name)
        if side is not None and len(side) != rows:
            beside = "x" if rows == n and not name.startswith("corpus") else "corpus_y"
            raise BadInput(f"{name} has {len(side)} rows, but {beside} has {rows}; both sides must be row-aligned.")
    if trial.y is None and not trial.relevant:
        raise BadInput("There are neither native vectors of the queries (y) nor judgments; give one of them.")
    vectors = {"x": (spec.d_in, spec.source, False), "corpus_x": (spec.d_in, spec.source, False)}
    vectors |= dict.fromkeys(("y", "corpus_y"), (spec.d_out, spec.target, spec.unit_norm))
    for name, (width, model, unit_norm) in vectors.items():
        if getattr(trial, name) is not None:
            check_vectors(name, getattr(trial, name), width, model, unit_norm)
    for query, grades in (trial.relevant or {}).items():
        if not 0 <= query < n or any(not 0 <= row < m for row in grades):
            raise BadInput(f"Judgments of query {query} name a row that is not there ({n} queries, {m} corpus rows).")


def check_vectors(where: str, vectors: Float[np.ndarray, "n d"], width: int, model: str, unit_norm: bool) -> None:
    """Raise BadInput, naming the row, unless vectors are finite, of a model's width, and of length one where it has."""
    if vectors.shape[1] != width:
        raise BadInput(f"{where} has width {vectors.shape[1]}, but {model} has width {width}. Is it another model's?")
    length = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(length).all():
        raise BadInput(f"{where}, row {int((~np.isfinite(length)).argmax())}: the vector is not finite. Leave it out.")
    off = np.abs(length - 1) > 0.01
    if unit_norm and off.any():
        row = int(off.argmax())
        raise BadInput(
            f"{where}, row {row}: the vector has length {length[row]:.3f}, but those of {model} have length one. "
            "Divide each by its length, if they are its vectors."
        )
