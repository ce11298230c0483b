"""Statistics of the embeddings that an adapter was fitted on, which distances from its domain are measured with."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapters.quantization import quantize_rows
from ea_jax.fitting.regression.moments import covariance, moments
from ea_jax.fitting.regression.ridge import Directions, pooled
from ea_jax.quality.schema import prepare_quality
from ea_jax.quality.scores import distances
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn, Params

SHRINKAGE = 1e-3  # of the mean eigenvalue, so that no direction has variance zero
SAMPLE = 8192  # rows: percentiles and directions of more hardly differ
REFERENCES = 384  # with the directions, a third of the products of a `minilm-plus` adapter to 3-small
DIRECTIONS, TARGET_DIRECTIONS = 128, 256  # 256 keep what whitening needs of 3-small: R@1 within .003 of all 1,536
TARGET_REFERENCES = 64  # read by `score_target` alone
PRIOR_ROWS = 400  # own rows that weigh as much as the prior's covariance; 200 to 500 give the same R@1 within .005
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
    """Statistics of rows, a sample of the rows, and the distances of each by statistics of the other folds.

    Args:
        x: Embeddings of any length.
        fold: Of each row.
        references: Rows kept for nearest distances, at the most.
        directions: Leading eigenvectors kept, at the most.
        prior: Statistics of a prior, prepared: its covariance counts as some rows, its references fill up.
        seed: Of all sampling.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(x))[:SAMPLE])
    sample, fold = unit_rows(x[rows]), fold[rows]
    held_out = np.zeros((2, len(sample)), np.float32)
    for k in np.unique(fold):
        inside = fold == k
        others = _statistics(sample[~inside], references, directions, prior, seed)
        held_out[:, inside] = measured(prepare_quality(others), sample[inside])
    percentiles = {
        f"{name}_p{q}": np.asarray(np.percentile(distance, q), np.float32)
        for name, distance in zip(("maha", "knn"), held_out, strict=True)
        for q in (95, 99)
    }
    return _statistics(sample, references, directions, prior, seed) | percentiles, rows, held_out


def measured(statistics: Params, x: Float32[np.ndarray, "n d"]) -> Float32[np.ndarray, "2 n"]:
    """Mahalanobis and nearest-reference distance of unit rows, by prepared statistics."""
    parts = [np.stack(distances(statistics, jnp.asarray(x[i : i + BLOCK]))) for i in range(0, len(x), BLOCK)]
    return np.concatenate(parts, axis=1)


def prior_directions(statistics: Params) -> Directions:
    """The covariance that prepared statistics describe."""
    variances, rest = np.asarray(statistics["variances"], np.float64), float(statistics["spread"]) ** 2
    scaled = np.asarray(statistics["directions"], np.float64)
    return Directions(variances - rest, scaled / np.maximum(np.linalg.norm(scaled, axis=0), 1e-30), rest)


def _statistics(
    x: Float32[np.ndarray, "n d"], references: int, directions: int, prior: Params | None, seed: int
) -> Params:
    n, d = x.shape
    known = prior_directions(prior) if prior else None
    few = n + (len(known.values) if known else 0) < d
    c = None if few else covariance(moments(x, x[:, :1]))
    mean = x.mean(axis=0, dtype=np.float64) if c is None else c.x_mean
    k = min(directions, d - 1)
    found = pooled(x, mean, None if c is None else c.xx, known, PRIOR_ROWS, most=k)
    absent = max(0, k - len(found.values))
    vectors = np.pad(found.vectors, ((0, 0), (absent, 0)))[:, -k:]
    shrinkage = SHRINKAGE * found.trace / d
    lead = np.pad(found.values, (absent, 0))[-k:] + found.rest
    variance = max(found.trace - lead.sum(), 0) / (d - k) + shrinkage
    scale = np.sqrt(np.maximum(1 / variance - 1 / (lead + shrinkage), 0))
    kept = x[np.random.default_rng(seed).permutation(n)[:references]]
    if prior:
        kept = np.concatenate([kept, np.asarray(prior["references"])[: references - len(kept)]])
    return {
        "mean": mean.astype(np.float32),
        "spread": np.asarray(np.sqrt(variance), np.float32),
        "directions": (vectors * scale).astype(np.float16),
        "variances": (lead + shrinkage).astype(np.float32),
        "references": quantize_rows(kept).values,
    }
