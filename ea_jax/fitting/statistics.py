"""Statistics of the embeddings that an adapter was fitted on: what its quality part stores."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.splits import FOLDS
from ea_jax.ops import mahalanobis, nearest_distance, unit
from ea_jax.packing import nearest_grid
from ea_jax.quality import prepared
from ea_jax.solve import cluster_centres, covariance, moments

SHRINKAGE = 1e-3
REFERENCES, REFERENCE_NUMBERS = 1024, 1024 * 384
DIRECTIONS, DIRECTION_NUMBERS = 384, 384 * 384
SAMPLE = 32768


def fit_quality(x: Float[ArrayIn, "n d"], fold: Int[np.ndarray, " n"], *, seed: int = 0) -> Params:
    """Statistics of in-domain rows; the percentiles are of rows held out of the statistics, by fold.

    Wide embeddings get fewer references and directions, so that a quality part stays below a megabyte.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:SAMPLE])
    x, fold = np.asarray(unit(np.asarray(x[rows], np.float32))), fold[rows]
    held_out = [_distances(_statistics(x[fold != k], seed), x[fold == k]) for k in range(FOLDS) if np.any(fold == k)]
    maha, knn = (np.concatenate(distances) for distances in zip(*held_out, strict=True))
    percentiles = {
        f"{name}_p{q}": np.asarray(np.percentile(distances, q), np.float32)
        for name, distances in {"maha": maha, "knn": knn}.items()
        for q in (95, 99)
    }
    return _statistics(x, seed) | percentiles


def _statistics(x: Float[np.ndarray, "n d"], seed: int) -> Params:
    c, d = covariance(moments(x, x[:, :1])), x.shape[1]
    values, vectors = np.linalg.eigh(c.xx)
    values = np.maximum(values, 0) + SHRINKAGE * values.mean()
    k = min(DIRECTIONS, DIRECTION_NUMBERS // d, d - 1)
    variance = values[: d - k].mean()
    leading = vectors[:, d - k :] * np.sqrt(np.maximum(1 / variance - 1 / values[d - k :], 0))
    centres = cluster_centres(x, min(REFERENCES, REFERENCE_NUMBERS // d), seed=seed)
    return {
        "mean": c.x_mean.astype(np.float32),
        "spread": np.asarray(np.sqrt(variance), np.float32),
        "directions": leading.astype(np.float16),
        "references": nearest_grid(np.asarray(centres), 127).values,
    }


def _distances(statistics: Params, x: Float[np.ndarray, "n d"]) -> tuple[np.ndarray, np.ndarray]:
    s, rows = prepared(statistics), jnp.asarray(x)
    far = mahalanobis(rows, s["mean"], s["spread"], s["directions"])
    return np.asarray(far), np.asarray(nearest_distance(rows, s["references"]))
