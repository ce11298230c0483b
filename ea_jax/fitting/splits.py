"""Folds that no group straddles, near-duplicates across them, and what is held out of a fit."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ea_jax.arrays import ArrayIn
from ea_jax.ops import nearest_distance, unit

FOLDS = 5
QUERIES = 500
CORPUS = 4096
NEAR = 0.95
BLOCK = 4096


class Held(NamedTuple):
    """Rows of one fold: queries with their native vectors, and a native corpus.

    Attributes:
        rows: Row numbers, those of the queries first.
        x: Source embeddings of the queries.
        y: Native target embeddings of the queries.
        corpus_x: Source embeddings of the corpus.
        corpus: Native target embeddings of the corpus.
        near: How many queries more there were, left out as near-duplicates of rows outside the fold.
    """

    rows: Int[np.ndarray, " k"]
    x: Float[np.ndarray, "q d_in"]
    y: Float[np.ndarray, "q d_out"]
    corpus_x: Float[np.ndarray, "c d_in"]
    corpus: Float[np.ndarray, "c d_out"]
    near: int


def group_folds(groups: Sequence[str] | None, n: int) -> Int[np.ndarray, " n"]:
    """Fold of each row: whole groups, the largest first, each into the fold with the fewest rows.

    Where there are fewer groups than folds, or none are given, rows go round the folds in order.
    """
    names, row_group, sizes = np.unique(np.asarray(groups or [], str), return_inverse=True, return_counts=True)
    if len(names) < FOLDS:
        return np.arange(n) % FOLDS
    rows_in, fold_of = np.zeros(FOLDS), np.zeros(len(names), int)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = rows_in.argmin()
        rows_in[fold_of[group]] += sizes[group]
    return fold_of[row_group]


def held_out(
    x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], fold: Int[np.ndarray, " n"], k: int, seed: int
) -> Held:
    """A sample of fold k: at most half of it, and 500 rows, ask; at most 4,096 others are the corpus.

    A query whose native vector has a cosine of .95 or more to one outside the fold does not count: a fit would know it.
    """
    rows = np.random.default_rng([seed, k]).permutation(np.flatnonzero(fold == k))
    asked = rows[: min(QUERIES, len(rows) // 2)]
    found = rows[len(asked) :][:CORPUS]
    native = np.asarray(y[asked], np.float32)
    nearest = np.full(len(asked), -1.0, np.float32)
    for start in range(0, len(y), BLOCK):
        part = slice(start, start + BLOCK)
        cosine = np.where(fold[part] != k, native @ np.asarray(y[part], np.float32).T, -1)
        nearest = np.maximum(nearest, cosine.max(axis=1))
    far = nearest < NEAR if np.any(nearest < NEAR) else np.ones(len(asked), bool)
    a, b = (np.asarray(v[asked[far]], np.float32) for v in (x, y))
    corpus_x, corpus = (np.asarray(v[found], np.float32) for v in (x, y))
    return Held(np.concatenate([asked[far], found]), a, b, corpus_x, corpus, int((~far).sum()))


def repeated(rows: Float[ArrayIn, "n d"], at: Int[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """Which of the rows at some places have a near-duplicate, a cosine of .95 or more, among all the others."""
    asked = jnp.asarray(unit(np.asarray(rows[at], np.float32)))
    near = np.zeros(len(at), bool)
    for start in range(0, len(rows), BLOCK):
        cosine = np.array(asked @ unit(np.asarray(rows[start : start + BLOCK], np.float32)).T)
        inside = np.flatnonzero((at >= start) & (at < start + BLOCK))
        cosine[inside, at[inside] - start] = -1
        near |= cosine.max(axis=1) >= NEAR
    return near


def near_duplicates(
    rows: Float[ArrayIn, "n d"], test: Float[ArrayIn, "m d"], threshold: float
) -> Bool[np.ndarray, " n"]:
    """Which unit rows have a cosine of at least `threshold` to some unit test row."""
    distance = [
        np.asarray(nearest_distance(jnp.asarray(rows[start : start + BLOCK]), jnp.asarray(test)))
        for start in range(0, len(rows), BLOCK)
    ]
    return 1 - np.square(np.concatenate(distance)) / 2 >= threshold
