"""Statistics of the embeddings of a fit, from which distances to its domain are computed."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapters.quantization import quantize_rows
from ea_jax.fitting.regression.moments import covariance, moments
from ea_jax.fitting.regression.ridge import LowRankCovariance, pool_covariances
from ea_jax.quality.schema import prepare_quality
from ea_jax.quality.scores import distances
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn, Params

SHRINKAGE = 1e-3  # times the mean eigenvalue, so that no variance is zero
SAMPLE = 8192  # rows: percentiles and eigenvectors of more rows hardly differ
REFERENCES = 384  # with the directions, a third of the products of a `minilm-plus` adapter to 3-small
DIRECTIONS, TARGET_DIRECTIONS = 128, 256  # for whitening 3-small, R@1 with 256 is within .003 of that with all 1,536
TARGET_REFERENCES = 64  # only `score_target` reads them
PRIOR_ROWS = 400  # weight of the prior's covariance, in rows; 200 to 500 give the same R@1 within .005
BLOCK = 8192


def fit_statistics(
    x: Float[ArrayIn, "n d"],
    fold: Int[np.ndarray, " n"],
    references: int,
    directions: int,
    prior: Params | None = None,
    *,
    seed: int = 0,
) -> tuple[Params, Int[np.ndarray, " s"], Float32[np.ndarray, "2 s"]]:
    """Fit the domain statistics of embeddings.

    Args:
        x: Embeddings of any length.
        fold: Fold of each row.
        references: Maximal number of reference rows for the nearest distance.
        directions: Maximal number of leading eigenvectors.
        prior: Statistics of a prior as parameters. Its covariance counts as `PRIOR_ROWS` rows, and its references are
            added up to the maximal number.
        seed: Random seed of the samples.

    Returns:
        The statistics, the row numbers of a sample, and the two distances of each sampled row, computed with statistics
        of the other folds.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:SAMPLE])
    sample, fold = unit_rows(x[rows]), fold[rows]
    out_of_fold = np.zeros((2, len(sample)), np.float32)
    for k in np.unique(fold):
        inside = fold == k
        others = _statistics(sample[~inside], references, directions, prior, seed)
        out_of_fold[:, inside] = measure_distances(prepare_quality(others), sample[inside])
    percentiles = {
        f"{name}_p{q}": np.asarray(np.percentile(distance, q), np.float32)
        for name, distance in zip(("maha", "knn"), out_of_fold, strict=True)
        for q in (95, 99)
    }
    return _statistics(sample, references, directions, prior, seed) | percentiles, rows, out_of_fold


def measure_distances(statistics: Params, x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "2 n"]:
    """Mahalanobis distance and distance to the nearest reference of unit rows."""
    parts = [np.stack(distances(statistics, jnp.asarray(x[i : i + BLOCK]))) for i in range(0, len(x), BLOCK)]
    return np.concatenate(parts, axis=1)


def covariance_of_statistics(statistics: Params) -> LowRankCovariance:
    """The covariance that statistics describe, given as parameters."""
    variances, rest = np.asarray(statistics["variances"], np.float64), float(statistics["spread"]) ** 2
    scaled = np.asarray(statistics["directions"], np.float64)
    return LowRankCovariance(variances - rest, scaled / np.maximum(np.linalg.norm(scaled, axis=0), 1e-30), rest)


def _statistics(
    x: Float32[np.ndarray, "n d"], references: int, directions: int, prior: Params | None, seed: int
) -> Params:
    n, d = x.shape
    prior_covariance = covariance_of_statistics(prior) if prior else None
    low_rank = n + (len(prior_covariance.values) if prior_covariance else 0) < d
    c = None if low_rank else covariance(moments(x, x[:, :1]))
    mean = x.mean(axis=0, dtype=np.float64) if c is None else c.x_mean
    k = min(directions, d - 1)
    pooled = pool_covariances(x, mean, None if c is None else c.xx, prior_covariance, PRIOR_ROWS, most=k)
    padding = max(0, k - len(pooled.values))
    vectors = np.pad(pooled.vectors, ((0, 0), (padding, 0)))[:, -k:]
    shrinkage = SHRINKAGE * pooled.trace / d
    leading = np.pad(pooled.values, (padding, 0))[-k:] + pooled.rest
    variance = max(pooled.trace - leading.sum(), 0) / (d - k) + shrinkage
    scale = np.sqrt(np.maximum(1 / variance - 1 / (leading + shrinkage), 0))
    reference_rows = x[np.random.default_rng(seed).permutation(n)[:references]]
    if prior:
        more = np.asarray(prior["references"])[: references - len(reference_rows)]
        reference_rows = np.concatenate([reference_rows, more])
    return {
        "mean": mean.astype(np.float32),
        "spread": np.asarray(np.sqrt(variance), np.float32),
        "directions": (vectors * scale).astype(np.float16),
        "variances": (leading + shrinkage).astype(np.float32),
        "references": quantize_rows(reference_rows).values,
    }
