"""Statistics of embeddings that an adapter was fitted on: what distances are measured with."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.splits import FOLDS
from ea_jax.ops import unit
from ea_jax.packing import nearest_grid
from ea_jax.quality import distances
from ea_jax.quality_store import prepared
from ea_jax.solve import cluster_centres, covariance, largest, moments

SHRINKAGE = 1e-3
RANK_TOLERANCE = 1e-9  # of the largest variance: below it is rounding
SAMPLE = 16384
BLOCK = 8192
SOURCE, TARGET = (512 * 384, 128 * 384), (128 * 384, 48 * 384)  # numbers in references and directions, at the most


def fit_statistics(
    x: Float[ArrayIn, "n d"], fold: Int[np.ndarray, " n"], detail: tuple[int, int], *, seed: int = 0
) -> Params:
    """Statistics of rows; the percentiles are of rows held out of the statistics, by fold."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:SAMPLE])
    sample, fold = np.asarray(unit(np.asarray(x[rows], np.float32))), fold[rows]
    far, near = held_out_distances(sample, fold, detail, seed)
    percentiles = {
        f"{name}_p{q}": np.asarray(np.percentile(found, q), np.float32)
        for name, found in {"maha": far, "knn": near}.items()
        for q in (95, 99)
    }
    return _statistics(sample, detail, seed) | percentiles


def held_out_distances(
    x: Float32[np.ndarray, "n d"], fold: Int[np.ndarray, " n"], detail: tuple[int, int], seed: int
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Mahalanobis and nearest-reference distance of each unit row, by statistics of the other folds."""
    found = np.zeros((2, len(x)), np.float32)
    for k in range(FOLDS):
        inside = fold == k
        if inside.any():
            found[:, inside] = measured(prepared(_statistics(x[~inside], detail, seed)), x[inside])
    return found[0], found[1]


def measured(
    statistics: Params, x: Float32[np.ndarray, "n d"]
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Both distances of unit rows, by prepared statistics."""
    parts = [distances(statistics, jnp.asarray(x[i : i + BLOCK])) for i in range(0, len(x), BLOCK)]
    far, near = (np.concatenate(found) for found in zip(*parts, strict=True))
    return far, near


def _statistics(x: Float[np.ndarray, "n d"], detail: tuple[int, int], seed: int) -> Params:
    d, (references, directions) = x.shape[1], detail
    k = min(directions // d, d - 1)
    mean, total, values, vectors = principal(x, k)
    shrinkage = SHRINKAGE * total / d
    variance = (total - values.sum()) / (d - k) + shrinkage
    leading = vectors * np.sqrt(np.maximum(1 / variance - 1 / (values + shrinkage), 0))
    centres = cluster_centres(x, min(references // d, len(x)), seed=seed)
    return {
        "mean": mean.astype(np.float32),
        "spread": np.asarray(np.sqrt(variance), np.float32),
        "directions": leading.astype(np.float16),
        "references": nearest_grid(np.asarray(centres), 127).values,
    }


class Principal(NamedTuple):
    """Mean of rows, their variance in all, and leading eigenvalues and eigenvectors (columns) of their covariance."""

    mean: Float64[np.ndarray, " d"]
    total: float
    values: Float64[np.ndarray, " k"]
    vectors: Float64[np.ndarray, "d k"]


def principal(x: Float[np.ndarray, "n d"], k: int) -> Principal:
    """The k leading principal directions, the largest last; of few rows by the rows' inner products, which is quicker.

    Directions that so few rows do not have are of no variance, and zeros.

    Source: Bishop 2006, section 12.1.4, for the inner products.
    """
    n, d = x.shape
    if n >= d:
        c = covariance(moments(x, x[:, :1]))
        values, vectors = largest(c.xx, k)
        return Principal(c.x_mean, float(np.trace(c.xx)), np.maximum(values, 0), vectors)
    mean = x.mean(axis=0, dtype=np.float64)
    centred = x - mean
    values, left = np.linalg.eigh(centred @ centred.T / n)
    rank = int((values > RANK_TOLERANCE * values[-1]).sum())
    first, absent = n - min(k, rank), max(0, k - rank)
    values, total = values[first:], values.sum()
    vectors = centred.T @ (left[:, first:] / np.sqrt(n * values))
    return Principal(mean, total, np.pad(values, (absent, 0)), np.pad(vectors, ((0, 0), (absent, 0))))
