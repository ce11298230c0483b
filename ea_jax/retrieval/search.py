"""Exact search by inner product, blocked: no query-by-corpus matrix is ever whole."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ea_jax.devices import fast_dtype
from ea_jax.errors import BadInput
from ea_jax.typing import ArrayIn

QUERY_BLOCK, CORPUS_BLOCK, GROUP = (
    1024,
    16384,
    64,
)  # queries and corpus rows of a block, and rows that share a first look
SHORTLIST, MIN_PRODUCTS = 48, 1 << 26  # rows of a shortlist, and the products from which one is worth it
RESCORE_BLOCK = 256  # queries whose shortlists are scored at once


class Hits(NamedTuple):
    """First k corpus rows of each query and their scores, the best first."""

    score: Float[np.ndarray, "n k"]
    row: Int[np.ndarray, "n k"]


def search(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m e"], k: int) -> Hits:
    """The k corpus rows with the largest inner products, per query, exactly; the earlier row wins a tie.

    The corpus is read in blocks, so it may be memory-mapped, and no more than a block of it is copied. Where products
    in bfloat16 are faster, they make a shortlist, and float32 what is found: for the queries whose last row found
    scores above the shortlist's last one by more than bfloat16 can be wrong. The others are searched in float32 alone.

    Raises:
        BadInput: The corpus has fewer than k rows, or its width is not that of the queries.
    """
    if queries.shape[1] != corpus.shape[1]:
        raise BadInput(f"Queries have width {queries.shape[1]} and the corpus {corpus.shape[1]}; give both of a space.")
    if not 1 <= k <= len(corpus):
        raise BadInput(f"k is {k}, but the corpus has {len(corpus)} rows. Ask for fewer, or search a larger corpus.")
    worth = 4 * k <= SHORTLIST < len(corpus) and len(queries) * len(corpus) >= MIN_PRODUCTS
    if not worth or fast_dtype() == "float32":
        return _search_blocks(queries, corpus, k, "float32")
    queries, corpus = np.asarray(queries), np.asarray(corpus)
    short = _search_blocks(queries, corpus, SHORTLIST, "bfloat16")
    found = _rescore(queries, corpus, short.row, k)
    unsure = found.score[:, -1] <= short.score[:, -1] + error_bound(queries, corpus)
    if unsure.any():
        found.score[unsure], found.row[unsure] = _search_blocks(queries[unsure], corpus, k, "float32")
    return found


def error_bound(queries: Float[np.ndarray, "n d"], corpus: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """What an inner product of a query with any row can be off by, in bfloat16 with float32 sums.

    With q' and c' rounded, `|qc - q'c'| <= |q - q'| |c| + |q'| |c - c'|` (Cauchy-Schwarz). Products of bfloat16 are
    exact in float32, and their d sums are off by less than `d eps |q'| |c'|`, which is taken four times, for devices
    that cut where others round, and for the float32 side.
    """
    q, q_off = _lengths(queries)
    c, c_off = (part.max() for part in _lengths(corpus))
    sums = 4 * queries.shape[1] * np.finfo(np.float32).eps
    return (q_off * c + (q + q_off) * (c_off + sums * (c + c_off))) * (1 + 1e-5)  # lengths are rounded, too


def _lengths(rows: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Length of each row, and of what rounding to bfloat16 takes from it."""
    blocks = [
        _block_lengths(jnp.asarray(rows[i : i + CORPUS_BLOCK], jnp.float32)) for i in range(0, len(rows), CORPUS_BLOCK)
    ]
    whole, off = (np.concatenate([np.asarray(block[side]) for block in blocks]) for side in range(2))
    return whole, off


@jax.jit
def _block_lengths(rows: Float[Array, "s d"]) -> tuple[Float[Array, " s"], Float[Array, " s"]]:
    rounded = jax.lax.reduce_precision(rows, exponent_bits=8, mantissa_bits=7)
    return jnp.linalg.norm(rows, axis=1), jnp.linalg.norm(rows - rounded, axis=1)


def _rescore(queries: Float[np.ndarray, "n d"], corpus: Float[np.ndarray, "m d"], rows, k: int) -> Hits:
    """The best k of each query's shortlist, by sums in double precision that are rounded to float32."""
    score, row = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int32)
    for start in range(0, len(rows), RESCORE_BLOCK):
        part = slice(start, start + RESCORE_BLOCK)
        near = np.sort(rows[part], axis=1)  # in row order, so that a stable sort leaves ties in it
        exact = np.einsum("nd,nsd->ns", queries[part], corpus[near], dtype=np.float64).astype(np.float32)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        score[part], row[part] = (np.take_along_axis(side, order, axis=1) for side in (exact, near))
    return Hits(score, row)


def _search_blocks(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"], k: int, dtype: str) -> Hits:
    """The best k rows by products in a dtype with float32 sums."""
    asked = min(QUERY_BLOCK, len(queries))
    size = min(CORPUS_BLOCK, -(-len(corpus) // GROUP) * GROUP)
    parts = [_pad(queries[start : start + asked], asked).astype(dtype) for start in range(0, len(queries), asked)]
    best = [(jnp.full((asked, k), -jnp.inf), jnp.zeros((asked, k), jnp.int32)) for _ in parts]
    for start in range(0, len(corpus), size):
        block = _transpose(_pad(corpus[start : start + size], size), dtype)
        best = [_merge(part, block, start, len(corpus) - start, *one) for part, one in zip(parts, best, strict=True)]
        jax.block_until_ready(best)  # else the blocks of a large corpus would queue up in memory
    score, row = (np.concatenate([np.asarray(one[i]) for one in best])[: len(queries)] for i in range(2))
    return Hits(score, row)


def _pad(rows: Float[ArrayIn, "n d"], size: int) -> Float[Array, "s d"]:
    rows = jnp.asarray(rows, jnp.float32)
    return rows if len(rows) == size else jnp.pad(rows, ((0, size - len(rows)), (0, 0)))


@partial(jax.jit, static_argnames="dtype")
def _transpose(block: Float[Array, "s d"], dtype: str) -> Float[Array, "d s"]:
    """A block as a product's second side; turned once, for all queries."""
    return block.astype(dtype).T


@jax.jit
def _merge(
    queries: Float[Array, "b d"],
    block: Float[Array, "d s"],
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
    precision = jax.lax.Precision.HIGHEST if queries.dtype == jnp.float32 else None
    found = jnp.matmul(queries, block, precision=precision, preferred_element_type=jnp.float32)
    found = jnp.where((jnp.arange(block.shape[1]) < there)[None], found, -jnp.inf)
    grouped = found.reshape(len(queries), -1, GROUP)
    _, groups = jax.lax.top_k(jnp.max(grouped, axis=2), min(k, grouped.shape[1]))
    groups = jnp.sort(groups, axis=1)
    near = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(queries), -1)
    near_row = start + (groups[:, :, None] * GROUP + jnp.arange(GROUP)[None, None]).reshape(len(queries), -1)
    new_score, at = jax.lax.top_k(near, min(k, near.shape[1]))
    new_row = jnp.take_along_axis(near_row, at, axis=1).astype(jnp.int32)
    score, at = jax.lax.top_k(jnp.concatenate([score, new_score], axis=1), k)
    return score, jnp.take_along_axis(jnp.concatenate([row, new_row], axis=1), at, axis=1)
