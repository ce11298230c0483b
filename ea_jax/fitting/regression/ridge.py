"""Ridge regression towards a prior map, in closed form. The penalty minimizes the leave-one-out error.

Shapes: n pairs, d features, k eigenvectors of the covariance of the features (at most n and d).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import solve

from ea_jax.fitting.regression.moments import Affine, Covariance, Moments, covariance, largest_eigenpairs
from ea_jax.typing import ArrayIn

PENALTIES = (
    0.03,
    0.1,
    0.3,
    1.0,
    3.0,
    10.0,
    30.0,
    100.0,
    300.0,
    1000.0,
)  # wide enough that the optimum is never at an end
SAMPLE = 2048  # rows of the leave-one-out error, the same for every penalty
RANK_TOLERANCE = 1e-9  # times the largest variance: smaller variances are rounding errors
LARGEST_LEVERAGE = (
    0.999  # a row that alone spans a direction has leverage 1, where the leave-one-out output is undefined
)


class LowRankCovariance(NamedTuple):
    """A covariance `V diag(values) V^T + rest I`, where the columns of V are its leading eigenvectors."""

    values: Float64[np.ndarray, " k"]
    vectors: Float64[np.ndarray, "d k"]
    rest: float = 0.0

    @property
    def trace(self) -> float:
        """Total variance."""
        return float(self.values.sum() + self.rest * len(self.vectors))

    def matrix(self) -> Float64[np.ndarray, "d d"]:
        """The full matrix."""
        return (self.vectors * self.values) @ self.vectors.T + self.rest * np.eye(len(self.vectors))


class Ridge(NamedTuple):
    """A ridge fit.

    Attributes:
        layer: The map from features to targets.
        penalty: The penalty, in units of the mean eigenvalue of the covariance of the features.
        mean: Mean of the features.
        leverage: A factor: the leverage of a row z is `1/n + |(z - mean) @ leverage|^2`.
        n: Number of pairs of the fit.
    """

    layer: Affine
    penalty: float
    mean: Float64[np.ndarray, " d"]
    leverage: Float32[np.ndarray, "d k"]
    n: int

    def leave_one_out(
        self, z: Float[np.ndarray, "q d"], y: Float[np.ndarray, "q d_out"]
    ) -> Float32[np.ndarray, "q d_out"]:
        """Outputs for rows of the fit as if each had been left out: `y - (y - out) / (1 - h)`, h the leverage.

        Source: Allen 1974 (PRESS); Hastie, Tibshirani and Friedman 2009, section 7.10.
        """
        h = _leverage(z - self.mean.astype(np.float32), self.leverage, self.n)
        return y - (y - self.layer.apply(z)) / (1 - h)[:, None]


def low_rank_covariance(
    z: Float[ArrayIn, "n d"],
    mean: Float64[np.ndarray, " d"],
    full: Float64[np.ndarray, "d d"] | None,
    most: int | None = None,
) -> LowRankCovariance:
    """Decompose the covariance of rows, by their inner products if there are fewer rows than columns.

    Source: Bishop 2006, section 12.1.4 (the dual form).
    """
    n, d = z.shape
    if n >= d:
        assert full is not None
        return _leading(full, most)
    return covariance_of_factor((np.asarray(z, np.float64) - mean) / np.sqrt(n))


def _leading(full: Float64[np.ndarray, "d d"], most: int | None) -> LowRankCovariance:
    """Decompose a covariance into all eigenvectors, or the `most` leading ones and the mean variance of the rest."""
    d = len(full)
    if most is None or most >= d:
        values, vectors = np.linalg.eigh(full)
        return LowRankCovariance(np.maximum(values, 0), vectors)
    values, vectors = largest_eigenpairs(full.astype(np.float32), most)  # float32 takes half the time
    rest = max(float(np.trace(full) - values.sum()) / (d - most), 0.0)
    return LowRankCovariance(np.maximum(values - rest, 0), vectors, rest)


def covariance_of_factor(factor: Float64[np.ndarray, "n d"]) -> LowRankCovariance:
    """Decompose the covariance `A^T A` of few rows A, by their inner products."""
    values, left = np.linalg.eigh(factor @ factor.T)
    first = int((values <= RANK_TOLERANCE * values[-1]).sum())
    return LowRankCovariance(values[first:], factor.T @ (left[:, first:] / np.sqrt(values[first:])))


def pool_covariances(
    z: Float[ArrayIn, "n d"],
    mean: Float64[np.ndarray, " d"],
    full: Float64[np.ndarray, "d d"] | None,
    prior: LowRankCovariance | None,
    prior_rows: int,
    most: int | None = None,
) -> LowRankCovariance:
    """Decompose the covariance of rows, averaged with a prior covariance that counts as `prior_rows` rows.

    Where the rows and the eigenvectors of the prior are together fewer than the columns, their inner products are
    decomposed, and the covariance of the rows is not needed. Otherwise the result has the `most` leading eigenvectors,
    or all of them if None.
    """
    n, d = z.shape
    if prior is None:
        return low_rank_covariance(z, mean, full, most)
    weight, prior_weight = n / (n + prior_rows), prior_rows / (n + prior_rows)
    if n + len(prior.values) >= d:
        assert full is not None
        return _leading(weight * full + prior_weight * prior.matrix(), most)
    factor = np.concatenate(
        [
            (np.asarray(z, np.float64) - mean) * np.sqrt(weight / n),
            (prior.vectors * np.sqrt(prior_weight * prior.values)).T,
        ]
    )
    return covariance_of_factor(factor)._replace(rest=prior_weight * prior.rest)


def fit_ridge(
    z: Float[ArrayIn, "n d"],
    y: Float[ArrayIn, "n d_out"],
    m: Moments,
    prior: Float[np.ndarray, "d d_out"] | None = None,
    *,
    seed: int = 0,
) -> Ridge:
    """Minimize `|Z W + b - Y|^2 / n + penalty t |W - W0|^2`, t the mean eigenvalue of the covariance of Z.

    The penalty minimizes the leave-one-out error. Features and targets are centered on their own means, not on those of
    the prior.

    Args:
        z: Features of the pairs. They may be a memory map larger than memory: only a sample is read.
        y: Targets.
        m: Moments of all pairs.
        prior: The kernel W0 that the penalty shrinks towards; zero if None.
        seed: Random seed of the sample of rows for the leave-one-out error.

    Source: Hoerl and Kennard 1970; Allen 1974 (PRESS).
    """
    n, c = len(z), covariance(m)
    w0 = np.zeros_like(c.xy) if prior is None else np.asarray(prior, np.float64)
    values, vectors, _ = low_rank_covariance(z, c.x_mean, c.xx)
    unit_penalty = np.trace(c.xx) / len(c.xx)
    rhs = vectors.T @ (c.xy - c.xx @ w0)
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:SAMPLE])
    a = np.asarray(z[rows], np.float32) - c.x_mean.astype(np.float32)
    residual = np.asarray(y[rows], np.float32) - c.y_mean.astype(np.float32) - a @ w0.astype(np.float32)
    projected = a @ vectors.astype(np.float32)

    def error(penalty: float) -> float:
        inverse = 1 / (values + penalty * unit_penalty)
        h = _leverage(projected, np.diag(np.sqrt(inverse / n)).astype(np.float32), n)
        remaining = residual - projected @ (inverse[:, None] * rhs).astype(np.float32)
        return float(np.mean(np.square(remaining / (1 - h)[:, None])))

    penalty = min(PENALTIES, key=error)
    inverse = 1 / (values + penalty * unit_penalty)
    kernel = w0 + (vectors * inverse) @ rhs
    layer = Affine(kernel, c.y_mean - c.x_mean @ kernel)
    return Ridge(layer, penalty, c.x_mean, (vectors * np.sqrt(inverse / n)).astype(np.float32), n)


def solve_ridge(
    z: Float[ArrayIn, "n d"], c: Covariance, penalty: float, prior: Float[np.ndarray, "d d_out"] | None = None
) -> Affine:
    """Solve the ridge regression for a given penalty, `W = W0 + (C_xx + penalty t I)^-1 (C_xy - C_xx W0)`."""
    n, d = z.shape
    w0 = np.zeros_like(c.xy) if prior is None else np.asarray(prior, np.float64)
    rhs, diagonal = c.xy - c.xx @ w0, penalty * np.trace(c.xx) / d
    if n >= d:
        kernel = w0 + solve(c.xx + diagonal * np.eye(d), rhs, assume_a="pos", check_finite=False)
    else:
        values, vectors, _ = low_rank_covariance(z, c.x_mean, c.xx)
        kernel = w0 + (vectors / (values + diagonal)) @ (vectors.T @ rhs)
    return Affine(kernel, c.y_mean - c.x_mean @ kernel)


def _leverage(
    centered: Float[np.ndarray, "q d"], factor: Float32[np.ndarray, "d k"], n: int
) -> Float32[np.ndarray, " q"]:
    """Diagonal of the hat matrix for rows of the fit, `h = 1/n + |z F|^2`."""
    squared = np.sum(np.square(centered @ factor), axis=1, dtype=np.float64)
    return np.minimum(1 / n + squared, LARGEST_LEVERAGE).astype(np.float32)
