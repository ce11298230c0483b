"""Exact retrieval metrics, computed in blocks so that no full query-by-corpus matrix is in memory."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ea_jax.typing import ArrayIn

KS = (1, 5, 10)
BLOCK = 256


def first_equal(rows: Float[ArrayIn, "m d"]) -> Int[np.ndarray, " m"]:
    """For each row, the index of the first row that is equal to it; its own index for the first."""
    first: dict[bytes, int] = {}
    values = np.asarray(rows)
    return np.asarray([first.setdefault(hashlib.sha1(row.tobytes()).digest(), i) for i, row in enumerate(values)])


def recalls(
    rows: Int[np.ndarray, "n k"], native: Int[np.ndarray, " n"], same: Int[np.ndarray, " m"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """For each query and k, 1 if the true neighbor is among its first k results, else 0, by the name `recall@k`.

    Args:
        rows: Corpus rows of each query's results, the best first.
        native: Each query's true neighbor: the row that the native query vector ranks first.
        same: `first_equal` of the native corpus; equal rows count as one.
    """
    hit = same[rows] == same[native][:, None]
    return {f"recall@{k}": hit[:, :k].any(axis=1).astype(float) for k in KS}


def cosines(a: Float[ArrayIn, "n d"], b: Float[ArrayIn, "n d"]) -> Float[np.ndarray, " n"]:
    """Cosine of row-aligned vectors of any length; larger is better. A zero vector has cosine 0."""
    p, q = (np.asarray(side, np.float64) for side in (a, b))
    lengths = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    return (p * q).sum(axis=1) / np.where(lengths > 0, lengths, 1)


@jax.jit
def top_hit(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"]) -> Int[Array, " n"]:
    """Corpus row with the largest inner product, for each query. The earlier row wins a tie."""
    return jax.lax.map(lambda q: jnp.argmax(corpus @ q), jnp.asarray(queries), batch_size=BLOCK)


@jax.jit
def rank_of(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"], hit: Int[ArrayIn, " n"]) -> Int[Array, " n"]:
    """Rank, from 1, of corpus row `hit[i]` when query i ranks the corpus by inner product.

    The earlier row wins a tie, so equal scores for all rows are not counted as a success.
    """
    row = jnp.arange(len(corpus))

    def rank(query_and_hit):
        query, i = query_and_hit
        score = corpus @ query
        return 1 + jnp.sum((score > score[i]) | ((score == score[i]) & (row < i)))

    return jax.lax.map(rank, (jnp.asarray(queries), jnp.asarray(hit)), batch_size=BLOCK)


@jax.jit
def reciprocal_rank(rank: Int[ArrayIn, " n"]) -> Float[Array, ""]:
    """Mean reciprocal rank; larger is better. Source: Voorhees 1999, TREC-8."""
    return jnp.mean(1 / jnp.asarray(rank))
