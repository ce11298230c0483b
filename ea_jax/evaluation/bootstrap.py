"""Intervals of figures over queries, by drawing the queries again."""

from collections.abc import Callable, Sequence
from functools import lru_cache
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


@lru_cache(maxsize=4)  # most figures of a report are over the same queries
def draws(n: int, seed: int, times: int = TIMES) -> Int[np.ndarray, "b n"]:
    """Row numbers of `times` samples of n rows with replacement; not to be written to."""
    drawn = np.random.default_rng([seed, n]).integers(0, n, (times, n), dtype=np.int32)
    drawn.setflags(write=False)
    return drawn


def mean_of(values: Float[np.ndarray, " n"], seed: int = 0) -> Figure:
    """Mean of the values that are finite, with its interval; nan where none is."""
    values = values[np.isfinite(values)].astype(np.float64)
    if not len(values):
        return Figure(float("nan"), float("nan"), float("nan"))
    return _figure(values.mean(), values[draws(len(values), seed)].mean(axis=1))


def statistic_of(statistic: Callable[..., float], *columns: np.ndarray, seed: int = 0) -> Figure:
    """Any statistic of row-aligned columns, with its interval over fewer samples."""
    return _figure(statistic(*columns), _drawn(statistic, columns, seed))


def quantiles_of(values: Float[np.ndarray, " n"], at: Sequence[float], seed: int = 0) -> list[Figure]:
    """Quantiles of the values, each with its interval."""
    drawn = np.quantile(values[draws(len(values), seed, SLOW_TIMES)], at, axis=1)
    return [_figure(value, some) for value, some in zip(np.quantile(values, at), drawn, strict=True)]


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
    return _difference(away.mean(), away[draws(len(away), seed)].mean(axis=1))


def statistic_difference(
    statistic: Callable[..., float], a: Sequence[np.ndarray], b: Sequence[np.ndarray], seed: int = 0
) -> Difference:
    """Paired bootstrap of any statistic of B's columns less that of A's; each draw takes the same queries of both."""
    drawn = _drawn(statistic, b, seed) - _drawn(statistic, a, seed)
    return _difference(statistic(*b) - statistic(*a), drawn)


def _drawn(statistic: Callable[..., float], columns: Sequence[np.ndarray], seed: int) -> Float[np.ndarray, " b"]:
    rows = draws(len(columns[0]), seed, SLOW_TIMES)
    return np.asarray([statistic(*(column[drawn] for column in columns)) for drawn in rows], np.float64)


def _difference(value: float, drawn: Float[np.ndarray, " b"]) -> Difference:
    drawn, times = drawn[np.isfinite(drawn)], len(drawn)
    share = min(np.mean(drawn <= 0), np.mean(drawn >= 0)) if len(drawn) else np.nan
    return Difference(*_figure(value, drawn), float(min(1.0, 2 * (share * times + 1) / (times + 1))))


def _figure(value: float, drawn: Float[np.ndarray, " b"]) -> Figure:
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(drawn) else (np.nan, np.nan)
    return Figure(float(value), float(low), float(high))
