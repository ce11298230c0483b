"""Retrieval and agreement measures, exact and blocked: no query-by-corpus matrix is ever whole."""

import hashlib
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ea_jax.arrays import ArrayIn
from ea_jax.errors import BadInput

KS = (1, 5, 10)
BLOCK = 256
ASKED, SEARCHED, GROUP = 1024, 16384, 64  # queries and corpus rows of a block, and rows that share a first look


class Found(NamedTuple):
    """First k corpus rows of each query and their scores, the best first."""

    score: Float[np.ndarray, "n k"]
    row: Int[np.ndarray, "n k"]


def search(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m e"], k: int) -> Found:
    """The k corpus rows with the largest inner products, per query, exactly; the earlier row wins a tie.

    The corpus is read in blocks, so it may be memory-mapped, and no more than a block of it is copied.

    Raises:
        BadInput: The corpus has fewer than k rows, or its width is not that of the queries.
    """
    if queries.shape[1] != corpus.shape[1]:
        raise BadInput(f"Queries have width {queries.shape[1]} and the corpus {corpus.shape[1]}; give both of a space.")
    if not 1 <= k <= len(corpus):
        raise BadInput(f"k is {k}, but the corpus has {len(corpus)} rows. Ask for fewer, or search a larger corpus.")
    asked = min(ASKED, len(queries))
    size = min(SEARCHED, -(-len(corpus) // GROUP) * GROUP)
    parts = [_padded(queries[start : start + asked], asked) for start in range(0, len(queries), asked)]
    best = [(jnp.full((asked, k), -jnp.inf), jnp.zeros((asked, k), jnp.int32)) for _ in parts]
    for start in range(0, len(corpus), size):
        block = _padded(corpus[start : start + size], size)
        best = [_merged(part, block, start, len(corpus) - start, *one) for part, one in zip(parts, best, strict=True)]
        jax.block_until_ready(best)  # else the blocks of a large corpus would queue up in memory
    score, row = (np.concatenate([np.asarray(one[i]) for one in best])[: len(queries)] for i in range(2))
    return Found(score, row)


def _padded(rows: Float[ArrayIn, "n d"], size: int) -> Float[Array, "s d"]:
    rows = jnp.asarray(rows, jnp.float32)
    return rows if len(rows) == size else jnp.pad(rows, ((0, size - len(rows)), (0, 0)))


@jax.jit
def _merged(
    queries: Float[Array, "b d"],
    block: Float[Array, "s d"],
    start: Int[Array, ""],
    there: Int[Array, ""],
    score: Float[Array, "b k"],
    row: Int[Array, "b k"],
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """The first k so far, and those of a block of which the first `there` rows count.

    The k best rows lie in the k groups with the best single rows. Groups, rows and what was found before are in row
    order, and `top_k` takes the earlier of equals, so ties go to the earlier row throughout.
    """
    k = score.shape[1]
    found = jnp.matmul(queries, block.T, precision=jax.lax.Precision.HIGHEST)
    found = jnp.where((jnp.arange(len(block)) < there)[None], found, -jnp.inf)
    grouped = found.reshape(len(queries), -1, GROUP)
    _, groups = jax.lax.top_k(jnp.max(grouped, axis=2), min(k, grouped.shape[1]))
    groups = jnp.sort(groups, axis=1)
    near = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(queries), -1)
    near_row = start + (groups[:, :, None] * GROUP + jnp.arange(GROUP)[None, None]).reshape(len(queries), -1)
    new_score, at = jax.lax.top_k(near, min(k, near.shape[1]))
    new_row = jnp.take_along_axis(near_row, at, axis=1).astype(jnp.int32)
    score, at = jax.lax.top_k(jnp.concatenate([score, new_score], axis=1), k)
    return score, jnp.take_along_axis(jnp.concatenate([row, new_row], axis=1), at, axis=1)


def first_equal(rows: Float[ArrayIn, "m d"]) -> Int[np.ndarray, " m"]:
    """Of each row, the first one that equals it in every number; its own number where none does."""
    first: dict[bytes, int] = {}
    values = np.asarray(rows)
    return np.asarray([first.setdefault(hashlib.sha1(row.tobytes()).digest(), i) for i, row in enumerate(values)])


def recalls(
    rows: Int[np.ndarray, "n k"], native: Int[np.ndarray, " n"], same: Int[np.ndarray, " m"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Of each query, whether its native top hit is among the first k rows found: `recall@k`.

    Args:
        rows: Corpus rows found, the best first.
        native: The row that the native query ranks first.
        same: What `first_equal` says of the native corpus; equal rows count as one.
    """
    hit = same[rows] == same[native][:, None]
    return {f"recall@{k}": hit[:, :k].any(axis=1).astype(float) for k in KS}


def cosines(a: Float[ArrayIn, "n d"], b: Float[ArrayIn, "n d"]) -> Float[np.ndarray, " n"]:
    """Cosine of row-aligned vectors of any length; larger is better, and 0 with a vector of zeros."""
    p, q = (np.asarray(side, np.float64) for side in (a, b))
    lengths = np.linalg.norm(p, axis=1) * np.linalg.norm(q, axis=1)
    return (p * q).sum(axis=1) / np.where(lengths > 0, lengths, 1)


@jax.jit
def top_hit(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"]) -> Int[Array, " n"]:
    """Row of the corpus with the largest inner product, per query; the first row wins a tie."""
    return jax.lax.map(lambda q: jnp.argmax(corpus @ q), jnp.asarray(queries), batch_size=BLOCK)


@jax.jit
def rank_of(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"], hit: Int[ArrayIn, " n"]) -> Int[Array, " n"]:
    """Place, from 1, of corpus row `hit[i]` when query i ranks the corpus by inner product.

    Ties go to the earlier row, so a constant scorer gets no credit that its row order does not give it.
    """
    row = jnp.arange(len(corpus))

    def one(query_and_hit):
        query, i = query_and_hit
        score = corpus @ query
        return 1 + jnp.sum((score > score[i]) | ((score == score[i]) & (row < i)))

    return jax.lax.map(one, (jnp.asarray(queries), jnp.asarray(hit)), batch_size=BLOCK)


def reciprocal_rank(rank: Int[ArrayIn, " n"]) -> Float[Array, ""]:
    """Mean reciprocal rank; larger is better. Source: Voorhees 1999, TREC-8."""
    return jnp.mean(1 / jnp.asarray(rank))


def mean_cosine(a: Float[ArrayIn, "n d"], b: Float[ArrayIn, "n d"]) -> Float[Array, ""]:
    """Mean cosine of row-aligned unit vectors; larger is better."""
    return jnp.mean(jnp.sum(jnp.asarray(a) * b, axis=-1))


@partial(jax.jit, static_argnames="k")
def occurrences(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"], k: int) -> Int[Array, " m"]:
    """How often each corpus row is among the first k of the queries by inner product; earlier rows win ties.

    Their sum is `n k`. Source: Radovanović et al. 2010, JMLR 11: the k-occurrences N_k.
    """
    first = jax.lax.map(lambda q: jax.lax.top_k(corpus @ q, k)[1], jnp.asarray(queries), batch_size=BLOCK)
    return jnp.bincount(first.ravel(), length=len(corpus))


def skewness(counts: Int[ArrayIn, " m"]) -> Float[Array, ""]:
    """Third standardised moment of k-occurrences, `E[(N - mean)^3] / sd^3`; larger is more hubs, 0 is none.

    Source: Radovanović et al. 2010, JMLR 11: S_{N_k}.
    """
    away = jnp.asarray(counts, jnp.float32)
    away = away - jnp.mean(away)
    variance = jnp.mean(jnp.square(away))
    return jnp.mean(away**3) / jnp.where(variance > 0, variance, 1) ** 1.5
