"""Exact search by inner product, in blocks so that no full query-by-corpus matrix is in memory."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ea_jax.devices import fast_dtype
from ea_jax.errors import BadInput
from ea_jax.typing import ArrayIn

QUERY_BLOCK, CORPUS_BLOCK = 1024, 16384  # rows of a product
GROUP = 64  # corpus rows whose maximum is compared first
SHORTLIST = 48  # rows
MIN_PRODUCTS = 1 << 26  # inner products from which a bfloat16 shortlist saves time
RESCORE_BLOCK = 256  # queries whose shortlists are rescored at once


class Hits(NamedTuple):
    """The k best corpus rows of each query and their scores, the best first."""

    score: Float[np.ndarray, "n k"]
    row: Int[np.ndarray, "n k"]


def search(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m e"], k: int) -> Hits:
    """Find the k corpus rows with the largest inner products for each query, exactly. The earlier row wins a tie.

    The corpus is read in blocks and may be a memory map. Where bfloat16 is faster, products in bfloat16 select a
    shortlist, which is rescored. The result of a query is exact if its k-th score exceeds the shortlist's last score
    by more than the error bound of bfloat16; the remaining queries are searched in float32.

    Raises:
        BadInput: The corpus has fewer than k rows, or its width differs from that of the queries.
    """
    if queries.shape[1] != corpus.shape[1]:
        raise BadInput(
            f"Queries have width {queries.shape[1]} and the corpus {corpus.shape[1]}; they must be of one space."
        )
    if not 1 <= k <= len(corpus):
        raise BadInput(f"k is {k}, but the corpus has {len(corpus)} rows. Lower k, or search a larger corpus.")
    use_shortlist = 4 * k <= SHORTLIST < len(corpus) and len(queries) * len(corpus) >= MIN_PRODUCTS
    if not use_shortlist or fast_dtype() == "float32":
        return _search_blocks(queries, corpus, k, "float32")
    queries, corpus = np.asarray(queries), np.asarray(corpus)
    shortlist = _search_blocks(queries, corpus, SHORTLIST, "bfloat16")
    hits = _rescore(queries, corpus, shortlist.row, k)
    uncertain = hits.score[:, -1] <= shortlist.score[:, -1] + error_bound(queries, corpus)
    if uncertain.any():
        hits.score[uncertain], hits.row[uncertain] = _search_blocks(queries[uncertain], corpus, k, "float32")
    return hits


def error_bound(queries: Float[np.ndarray, "n d"], corpus: Float[np.ndarray, "m d"]) -> Float[np.ndarray, " n"]:
    """Bound the error of each query's inner products in bfloat16 with float32 sums.

    With q' and c' rounded, `|qc - q'c'| <= |q - q'| |c| + |q'| |c - c'|` (Cauchy-Schwarz). Products of bfloat16
    numbers are exact in float32, and the error of their sum is below `d eps |q'| |c'|`. The bound takes four times that
    for devices that truncate instead of rounding, and for the float32 scores.
    """
    q, q_off = _lengths(queries)
    c, c_off = (part.max() for part in _lengths(corpus))
    sums = 4 * queries.shape[1] * np.finfo(np.float32).eps
    return (q_off * c + (q + q_off) * (c_off + sums * (c + c_off))) * (1 + 1e-5)  # for the rounding of the lengths


def _lengths(rows: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Length of each row, and of its rounding error in bfloat16."""
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
    """Select the best k of each shortlist, by float64 sums rounded to float32."""
    score, row = np.empty((len(rows), k), np.float32), np.empty((len(rows), k), np.int32)
    for start in range(0, len(rows), RESCORE_BLOCK):
        part = slice(start, start + RESCORE_BLOCK)
        candidates = np.sort(rows[part], axis=1)  # in row order, which a stable sort keeps for ties
        exact = np.einsum("nd,nsd->ns", queries[part], corpus[candidates], dtype=np.float64).astype(np.float32)
        order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        score[part], row[part] = (np.take_along_axis(side, order, axis=1) for side in (exact, candidates))
    return Hits(score, row)


def _search_blocks(queries: Float[ArrayIn, "n d"], corpus: Float[ArrayIn, "m d"], k: int, dtype: str) -> Hits:
    """Find the best k rows by products in a dtype with float32 sums."""
    width = min(QUERY_BLOCK, len(queries))
    size = min(CORPUS_BLOCK, -(-len(corpus) // GROUP) * GROUP)
    parts = [_pad(queries[start : start + width], width).astype(dtype) for start in range(0, len(queries), width)]
    best = [(jnp.full((width, k), -jnp.inf), jnp.zeros((width, k), jnp.int32)) for _ in parts]
    for start in range(0, len(corpus), size):
        block = _transpose(_pad(corpus[start : start + size], size), dtype)
        best = [_merge(part, block, start, len(corpus) - start, *one) for part, one in zip(parts, best, strict=True)]
        jax.block_until_ready(best)  # otherwise the blocks of a large corpus queue up in memory
    score, row = (np.concatenate([np.asarray(one[i]) for one in best])[: len(queries)] for i in range(2))
    return Hits(score, row)


def _pad(rows: Float[ArrayIn, "n d"], size: int) -> Float[Array, "s d"]:
    rows = jnp.asarray(rows, jnp.float32)
    return rows if len(rows) == size else jnp.pad(rows, ((0, size - len(rows)), (0, 0)))


@partial(jax.jit, static_argnames="dtype")
def _transpose(block: Float[Array, "s d"], dtype: str) -> Float[Array, "d s"]:
    """Transpose a block once for all queries."""
    return block.astype(dtype).T


@jax.jit
def _merge(
    queries: Float[Array, "b d"],
    block: Float[Array, "d s"],
    start: Int[Array, ""],
    valid: Int[Array, ""],
    score: Float[Array, "b k"],
    row: Int[Array, "b k"],
) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """Merge the best k rows so far with the first `valid` rows of a block.

    The k best rows lie in the k groups with the largest maxima. Groups, rows and earlier results are in row order, and
    `top_k` prefers the earlier of equal values, so the earlier row wins every tie.
    """
    k = score.shape[1]
    precision = jax.lax.Precision.HIGHEST if queries.dtype == jnp.float32 else None
    scores = jnp.matmul(queries, block, precision=precision, preferred_element_type=jnp.float32)
    scores = jnp.where((jnp.arange(block.shape[1]) < valid)[None], scores, -jnp.inf)
    grouped = scores.reshape(len(queries), -1, GROUP)
    _, groups = jax.lax.top_k(jnp.max(grouped, axis=2), min(k, grouped.shape[1]))
    groups = jnp.sort(groups, axis=1)
    candidates = jnp.take_along_axis(grouped, groups[:, :, None], axis=1).reshape(len(queries), -1)
    candidate_row = start + (groups[:, :, None] * GROUP + jnp.arange(GROUP)[None, None]).reshape(len(queries), -1)
    new_score, at = jax.lax.top_k(candidates, min(k, candidates.shape[1]))
    new_row = jnp.take_along_axis(candidate_row, at, axis=1).astype(jnp.int32)
    score, at = jax.lax.top_k(jnp.concatenate([score, new_score], axis=1), k)
    return score, jnp.take_along_axis(jnp.concatenate([row, new_row], axis=1), at, axis=1)
