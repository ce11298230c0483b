"""Ridge regression towards a prior map: closed form, penalty by leave-one-out error, leave-one-out outputs.

Shapes: n pairs, d features, k directions in which the features vary (at most n and d).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import solve

from ea_jax.fitting.regression.moments import Affine, Covariance, Moments, covariance, largest
from ea_jax.typing import ArrayIn

PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)  # wide enough that an end is never chosen
SCORED = 2048  # rows that the leave-one-out error is taken over; the same ones for every penalty
RANK_TOLERANCE = 1e-9  # of the largest variance: below it is rounding
LARGEST_LEVERAGE = 0.999  # a row that alone spans a direction has leverage 1, and no leave-one-out output


class Directions(NamedTuple):
    """A covariance as `V diag(values) V^T + rest I`, by its leading eigenvectors V (columns)."""

    values: Float64[np.ndarray, " k"]
    vectors: Float64[np.ndarray, "d k"]
    rest: float = 0.0

    @property
    def trace(self) -> float:
        """Total variance."""
        return float(self.values.sum() + self.rest * len(self.vectors))

    def matrix(self) -> Float64[np.ndarray, "d d"]:
        """The covariance itself."""
        return (self.vectors * self.values) @ self.vectors.T + self.rest * np.eye(len(self.vectors))


class Ridge(NamedTuple):
    """A ridge fit.

    Attributes:
        layer: The map of features to targets.
        penalty: In units of the mean eigenvalue of the covariance of the features.
        mean: Mean of the features.
        leverage: `[d, k]`: the leverage of a row z is `1/n + |(z - mean) @ leverage|^2`.
        n: Pairs that were fitted on.
    """

    layer: Affine
    penalty: float
    mean: Float64[np.ndarray, " d"]
    leverage: Float32[np.ndarray, "d k"]
    n: int

    def leave_one_out(
        self, z: Float[np.ndarray, "q d"], y: Float[np.ndarray, "q d_out"]
    ) -> Float32[np.ndarray, "q d_out"]:
        """Outputs for rows of the fit, each by a fit without it: `y - (y - out) / (1 - h)`, h the leverage.

        Source: Allen 1974 (PRESS); Hastie, Tibshirani and Friedman 2009, section 7.10.
        """
        h = _leverage(z - self.mean.astype(np.float32), self.leverage, self.n)
        return y - (y - self.layer.apply(z)) / (1 - h)[:, None]


def directions(
    z: Float[ArrayIn, "n d"],
    mean: Float64[np.ndarray, " d"],
    covariance_: Float64[np.ndarray, "d d"] | None,
    most: int | None = None,
) -> Directions:
    """Directions in which rows vary: of their covariance, or of their inner products where the rows are fewer.

    Source: Bishop 2006, section 12.1.4, for the inner products (the dual form).
    """
    n, d = z.shape
    if n >= d:
        assert covariance_ is not None
        return _leading(covariance_, most)
    return factor_directions((np.asarray(z, np.float64) - mean) / np.sqrt(n))


def _leading(covariance_: Float64[np.ndarray, "d d"], most: int | None) -> Directions:
    """All directions of a covariance, or the `most` leading ones and the mean variance of the others."""
    d = len(covariance_)
    if most is None or most >= d:
        values, vectors = np.linalg.eigh(covariance_)
        return Directions(np.maximum(values, 0), vectors)
    values, vectors = largest(covariance_.astype(np.float32), most)  # in half the time
    rest = max(float(np.trace(covariance_) - values.sum()) / (d - most), 0.0)
    return Directions(np.maximum(values - rest, 0), vectors, rest)


def factor_directions(factor: Float64[np.ndarray, "n d"]) -> Directions:
    """Directions of the covariance `A^T A` of few rows A, by their inner products."""
    values, left = np.linalg.eigh(factor @ factor.T)
    first = int((values <= RANK_TOLERANCE * values[-1]).sum())
    return Directions(values[first:], factor.T @ (left[:, first:] / np.sqrt(values[first:])))


def pooled(
    z: Float[ArrayIn, "n d"],
    mean: Float64[np.ndarray, " d"],
    covariance_: Float64[np.ndarray, "d d"] | None,
    prior: Directions | None,
    prior_rows: int,
    most: int | None = None,
) -> Directions:
    """Directions of the covariance of rows, pooled with a prior covariance that counts as `prior_rows` rows.

    Few rows and the prior's directions are taken together by their inner products, where that is the smaller problem.
    Otherwise, and only then, the covariance of the rows is needed. The `most` leading directions are returned then, or
    all of them if None.
    """
    n, d = z.shape
    if prior is None:
        return directions(z, mean, covariance_, most)
    own, old = n / (n + prior_rows), prior_rows / (n + prior_rows)
    if n + len(prior.values) >= d:
        assert covariance_ is not None
        return _leading(own * covariance_ + old * prior.matrix(), most)
    factor = np.concatenate(
        [(np.asarray(z, np.float64) - mean) * np.sqrt(own / n), (prior.vectors * np.sqrt(old * prior.values)).T]
    )
    return factor_directions(factor)._replace(rest=old * prior.rest)


def fit_ridge(
    z: Float[ArrayIn, "n d"],
    y: Float[ArrayIn, "n d_out"],
    m: Moments,
    prior: Float[np.ndarray, "d d_out"] | None = None,
    *,
    seed: int = 0,
) -> Ridge:
    """Minimize `|Z W + b - Y|^2 / n + penalty t |W - W0|^2`, t the mean eigenvalue of the covariance of Z.

    The penalty minimizes the leave-one-out error. Features and targets are centered on the pairs' own means, whatever
    the prior's were.

    Args:
        z: Features of the pairs; memory maps may exceed memory, since only a sample of the rows is read here.
        y: Targets.
        m: Moments of all pairs.
        prior: The kernel W0 that the fit stays near to; zero if None.
        seed: Of the sample of rows that the leave-one-out error is taken over.

    Source: Hoerl and Kennard 1970; Allen 1974 (PRESS).
    """
    n, c = len(z), covariance(m)
    w0 = np.zeros_like(c.xy) if prior is None else np.asarray(prior, np.float64)
    values, vectors, _ = directions(z, c.x_mean, c.xx)
    unit_penalty = np.trace(c.xx) / len(c.xx)
    pull = vectors.T @ (c.xy - c.xx @ w0)
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:SCORED])
    a = np.asarray(z[rows], np.float32) - c.x_mean.astype(np.float32)
    residual = np.asarray(y[rows], np.float32) - c.y_mean.astype(np.float32) - a @ w0.astype(np.float32)
    along = a @ vectors.astype(np.float32)

    def error(penalty: float) -> float:
        inverse = 1 / (values + penalty * unit_penalty)
        h = _leverage(along, np.diag(np.sqrt(inverse / n)).astype(np.float32), n)
        left = residual - along @ (inverse[:, None] * pull).astype(np.float32)
        return float(np.mean(np.square(left / (1 - h)[:, None])))

    penalty = min(PENALTIES, key=error)
    inverse = 1 / (values + penalty * unit_penalty)
    kernel = w0 + (vectors * inverse) @ pull
    layer = Affine(kernel, c.y_mean - c.x_mean @ kernel)
    return Ridge(layer, penalty, c.x_mean, (vectors * np.sqrt(inverse / n)).astype(np.float32), n)


def solve_ridge(
    z: Float[ArrayIn, "n d"], c: Covariance, penalty: float, prior: Float[np.ndarray, "d d_out"] | None = None
) -> Affine:
    """The same fit for a given penalty, `W = W0 + (C_xx + penalty t I)^-1 (C_xy - C_xx W0)`."""
    n, d = z.shape
    w0 = np.zeros_like(c.xy) if prior is None else np.asarray(prior, np.float64)
    pull, lift = c.xy - c.xx @ w0, penalty * np.trace(c.xx) / d
    if n >= d:
        kernel = w0 + solve(c.xx + lift * np.eye(d), pull, assume_a="pos", check_finite=False)
    else:
        values, vectors, _ = directions(z, c.x_mean, c.xx)
        kernel = w0 + (vectors / (values + lift)) @ (vectors.T @ pull)
    return Affine(kernel, c.y_mean - c.x_mean @ kernel)


def _leverage(
    centered: Float[np.ndarray, "q d"], factor: Float32[np.ndarray, "d k"], n: int
) -> Float32[np.ndarray, " q"]:
    """Diagonal of the hat matrix for rows of the fit, `h = 1/n + |z F|^2`."""
    squared = np.sum(np.square(centered @ factor), axis=1, dtype=np.float64)
    return np.minimum(1 / n + squared, LARGEST_LEVERAGE).astype(np.float32)
