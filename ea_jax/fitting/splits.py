"""Folds that no group straddles, near-duplicates across them, and what is held out of a fit."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ea_jax.arrays import ArrayIn
from ea_jax.ops import nearest_distance, unit

FOLDS = 5
QUERIES = 500
CORPUS = 4096
LEAST_CHOSEN = 2000  # pairs; of fewer, held-out corpora are too small to show a hub, and what is safe is taken
NEAR, KIN = 0.95, 50
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


class Kin(NamedTuple):
    """Rows with their near-duplicates among all others: blocks of row numbers, the row itself first in each."""

    rows: Int[np.ndarray, " q"]
    sizes: Int[np.ndarray, " b"]

    @property
    def starts(self) -> Int[np.ndarray, " b"]:
        """Where each block begins."""
        return np.cumsum(self.sizes) - self.sizes

    @property
    def firsts(self) -> Int[np.ndarray, " b"]:
        """The rows without their near-duplicates."""
        return self.rows[self.starts]

    def first(self, blocks: int) -> "Kin":
        """The first blocks alone."""
        return Kin(self.rows[: self.sizes[:blocks].sum()], self.sizes[:blocks])

    def beside(self, more: Int[np.ndarray, " b"]) -> "Kin":
        """Each block with one more row at its end, unless that is in it."""
        blocks = np.split(self.rows, self.starts[1:])
        wider = [block if row in block else np.append(block, row) for block, row in zip(blocks, more, strict=True)]
        return Kin(np.concatenate(wider), np.array([len(block) for block in wider]))

    def parts(self, most: int = BLOCK) -> Iterator["Kin"]:
        """The blocks in order, as many at a time as `most` rows hold."""
        ends, start = np.cumsum(self.sizes), 0
        while start < len(ends):
            before = ends[start] - self.sizes[start]
            stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
            yield Kin(self.rows[before : ends[stop - 1]], self.sizes[start:stop])
            start = stop


def kin_of(x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], at: Int[np.ndarray, " k"]) -> Kin:
    """Pairs with those that have a cosine of .95 or more to them in either space, at most fifty."""
    asked = [jnp.asarray(unit(np.asarray(side[at], np.float32))) for side in (x, y)]
    own, others = np.arange(len(at)), at
    for start in range(0, len(x), BLOCK):
        stop = min(start + BLOCK, len(x))
        near = np.zeros((len(at), stop - start), bool)
        for side, rows in zip(asked, (x, y), strict=True):
            near |= np.asarray(side @ unit(np.asarray(rows[start:stop], np.float32)).T) >= NEAR
        inside = np.flatnonzero((at >= start) & (at < stop))
        near[inside, at[inside] - start] = False
        near &= np.cumsum(near, axis=1) <= KIN
        found = np.nonzero(near)
        own, others = np.concatenate([own, found[0]]), np.concatenate([others, found[1] + start])
    order = np.argsort(own, kind="stable")
    place = np.arange(len(own)) - np.searchsorted(own[order], own[order])
    few = place <= KIN
    return Kin(others[order][few], np.bincount(own[order][few], minlength=len(at)))


def near_duplicates(
    rows: Float[ArrayIn, "n d"], test: Float[ArrayIn, "m d"], threshold: float
) -> Bool[np.ndarray, " n"]:
    """Which unit rows have a cosine of at least `threshold` to some unit test row."""
    distance = [
        np.asarray(nearest_distance(jnp.asarray(rows[start : start + BLOCK]), jnp.asarray(test)))
        for start in range(0, len(rows), BLOCK)
    ]
    return 1 - np.square(np.concatenate(distance)) / 2 >= threshold
