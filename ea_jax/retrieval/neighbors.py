"""Ranks of true neighbors, near-duplicates, and distances to the nearest reference."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from ea_jax.typing import ArrayIn

TOP = 10  # results: a query is a hit if its true neighbor is among them
SELF_COSINE = 0.999  # from this cosine a corpus row is the query itself: rounding to int8 keeps .9998
BLOCK = 4096
QUERIES = 512  # whose scores are in memory at once


def unit_rows(rows: Float[ArrayIn, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Scale rows to unit length in NumPy; a jitted function would compile for each number of rows."""
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def near_duplicates(
    rows: Float[ArrayIn, "n d"], test: Float[ArrayIn, "m d"], threshold: float
) -> Bool[np.ndarray, " n"]:
    """Whether each unit row has a cosine of at least `threshold` to any unit test row."""
    distance = [
        np.asarray(nearest_distance(jnp.asarray(rows[start : start + BLOCK]), jnp.asarray(test)))
        for start in range(0, len(rows), BLOCK)
    ]
    return 1 - np.square(np.concatenate(distance)) / 2 >= threshold


class Ranking(NamedTuple):
    """Results of a search in a native corpus.

    Attributes:
        rank: Rank of each query's true neighbor, from 1.
        top: The `TOP` largest scores of each query, descending.
    """

    rank: Int[np.ndarray, " q"]
    top: Float32[np.ndarray, "q k"]


def rank_true_neighbors(
    outputs: Float32[np.ndarray, "q d"],
    native: Float32[np.ndarray, "q d_out"],
    corpus: Float32[np.ndarray, "m d_out"],
    candidates: Float32[np.ndarray, "m d"] | None = None,
) -> Ranking:
    """Search a corpus, and rank the true neighbor of each query.

    The true neighbor is the corpus row that the native query vector ranks first. Rows that equal the native query
    vector (a cosine of at least `SELF_COSINE`) are the query itself, and are left out.

    Args:
        outputs: Query vectors of unit length.
        native: Native vectors of the same queries.
        corpus: Native vectors; they may include those of the queries.
        candidates: Vectors that the outputs search, row-aligned with the corpus; the corpus itself if None.
    """
    candidates = corpus if candidates is None else candidates
    ranks, tops = [], []
    for start in range(0, len(outputs), QUERIES):
        truth = native[start : start + QUERIES] @ corpus.T
        itself = truth >= SELF_COSINE
        truth[itself] = -np.inf
        score = outputs[start : start + QUERIES] @ candidates.T
        score[itself] = -np.inf
        best = score[np.arange(len(score)), truth.argmax(axis=1)]
        ranks.append(1 + (score > best[:, None]).sum(axis=1))
        k = min(TOP, score.shape[1])
        tops.append(-np.sort(np.partition(-score, k - 1, axis=1)[:, :k], axis=1))
    return Ranking(np.concatenate(ranks), np.concatenate(tops))


def nearest_distance(x: Float[Array, "*batch d"], references: Float[Array, "m d"]) -> Float[Array, "*batch"]:
    """Euclidean distance `sqrt(2 - 2 cos)` from each unit row to the nearest unit reference.

    Returns:
        Distances from 0 (same direction) to 2 (opposite direction); larger is further.

    Errors: raises nothing; a non-finite row scores non-finite, no other row does.
    """
    cosine = jnp.max(x @ references.T, axis=-1)
    return jnp.sqrt(jnp.maximum(2 - 2 * cosine, 0))
