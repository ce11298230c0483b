"""Bootstrap confidence intervals over queries."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES, FEW_RESAMPLES = 1000, 200  # few for statistics without a vectorized form
LEVEL = 0.95


class Estimate(NamedTuple):
    """The value of a metric and its 95 % percentile interval over resampled queries; NaN if undefined."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """The value of B minus A over the same queries, its 95 % interval, and the two-sided p value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


@lru_cache(maxsize=4)  # most metrics of a report are over the same queries
def resampled_rows(n: int, seed: int, resamples: int = RESAMPLES) -> Int[np.ndarray, "b n"]:
    """Return the row numbers of bootstrap samples of n rows, as a cached, read-only array."""
    rows = np.random.default_rng([seed, n]).integers(0, n, (resamples, n), dtype=np.int32)
    rows.setflags(write=False)
    return rows


def estimate_mean(values: Float[np.ndarray, " n"], seed: int = 0) -> Estimate:
    """Estimate the mean of the finite values; NaN if there are none."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return Estimate(float("nan"), float("nan"), float("nan"))
    return _estimate(values.mean(), values[resampled_rows(len(values), seed)].mean(axis=1))


def estimate_statistic(statistic: Callable[..., float], *columns: np.ndarray, seed: int = 0) -> Estimate:
    """Estimate any statistic of row-aligned columns, from fewer resamples."""
    return _estimate(statistic(*columns), _resampled(statistic, columns, seed))


def estimate_quantiles(values: Float[np.ndarray, " n"], levels: Sequence[float], seed: int = 0) -> list[Estimate]:
    """Estimate the quantiles of the values at these levels (0 to 1), from fewer resamples."""
    resampled = np.quantile(values[resampled_rows(len(values), seed, FEW_RESAMPLES)], levels, axis=1)
    return [_estimate(value, row) for value, row in zip(np.quantile(values, levels), resampled, strict=True)]


def mean_difference(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], seed: int = 0) -> Difference:
    """Compute `mean(b) - mean(a)` with a paired bootstrap. Source: Efron and Tibshirani 1993, chapter 16."""
    differences = (b - a).astype(np.float64)
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Difference(*(float("nan"),) * 4)
    return _difference(differences.mean(), differences[resampled_rows(len(differences), seed)].mean(axis=1))


def statistic_difference(
    statistic: Callable[..., float], a: Sequence[np.ndarray], b: Sequence[np.ndarray], seed: int = 0
) -> Difference:
    """Compute `statistic(*b) - statistic(*a)` with a paired bootstrap: each resample takes the same queries of both."""
    resampled = _resampled(statistic, b, seed) - _resampled(statistic, a, seed)
    return _difference(statistic(*b) - statistic(*a), resampled)


def _resampled(statistic: Callable[..., float], columns: Sequence[np.ndarray], seed: int) -> Float[np.ndarray, " b"]:
    samples = resampled_rows(len(columns[0]), seed, FEW_RESAMPLES)
    return np.asarray([statistic(*(column[rows] for column in columns)) for rows in samples], np.float64)


def _difference(value: float, resampled: Float[np.ndarray, " b"]) -> Difference:
    finite = resampled[np.isfinite(resampled)]
    n = len(finite)
    tail = min(np.mean(finite <= 0), np.mean(finite >= 0)) if n else np.nan
    return Difference(*_estimate(value, finite), float(min(1.0, 2 * (tail * n + 1) / (n + 1))))


def _estimate(value: float, resampled: Float[np.ndarray, " b"]) -> Estimate:
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(finite) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))
