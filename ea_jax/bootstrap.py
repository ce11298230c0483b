"""Intervals of figures over queries, by drawing the queries again."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

TIMES, SLOW_TIMES = 1000, 200
LEVEL = 0.95


class Figure(NamedTuple):
    """A figure with its 95 % percentile interval over resampled queries."""

    value: float
    low: float
    high: float


def draws(n: int, seed: int, times: int = TIMES) -> Int[np.ndarray, "b n"]:
    """Row numbers of `times` samples of n rows with replacement."""
    return np.random.default_rng([seed, n]).integers(0, n, (times, n), dtype=np.int32)


def mean_of(values: Float[np.ndarray, " n"], seed: int = 0) -> Figure:
    """Mean of the values that are finite, with its interval; nan where none is."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return Figure(float("nan"), float("nan"), float("nan"))
    return _figure(values.mean(), values[draws(len(values), seed)].mean(axis=1))


def statistic_of(statistic: Callable[..., float], *columns: np.ndarray, seed: int = 0) -> Figure:
    """Any statistic of row-aligned columns, with its interval over fewer samples."""
    drawn = [statistic(*(column[rows] for column in columns)) for rows in draws(len(columns[0]), seed, SLOW_TIMES)]
    return _figure(statistic(*columns), np.asarray(drawn))


class Difference(NamedTuple):
    """Mean of B less A over the same queries, its interval, and the probability of such a sign if there were none."""

    value: float
    low: float
    high: float
    p_value: float


def difference(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"], seed: int = 0) -> Difference:
    """Paired bootstrap of `mean(b) - mean(a)`. Source: Efron and Tibshirani 1993, chapter 16."""
    away = (b - a).astype(np.float64)
    away = away[np.isfinite(away)]
    if not len(away):
        return Difference(*(float("nan"),) * 4)
    drawn = away[draws(len(away), seed)].mean(axis=1)
    share = min(np.mean(drawn <= 0), np.mean(drawn >= 0))
    return Difference(*_figure(away.mean(), drawn), float(min(1.0, 2 * (share * TIMES + 1) / (TIMES + 1))))


def _figure(value: float, drawn: Float[np.ndarray, " b"]) -> Figure:
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (np.nan, np.nan)
    return Figure(float(value), float(low), float(high))
