"""Which confidence to require, so that a given share of the accepted queries keeps the true neighbor."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import bdtr

from ea_jax.errors import BadInput
from ea_jax.quality.schema import CALIBRATION_COLUMNS
from ea_jax.quality.scores import Quality

STEPS = 50


class Threshold(NamedTuple):
    """A confidence to require, and its results on held-out pairs of the fit.

    Attributes:
        confidence: Queries at or above it are kept; infinite where no threshold meets the target.
        kept: Share of queries that are.
        found: Share of those whose true neighbor is among the first ten.
    """

    confidence: float
    kept: float
    found: float


def threshold_for(
    quality: Quality, target: float = 0.95, error: float = 0.1, *, after_search: bool = False
) -> Threshold:
    """The confidence above which at least `target` of the accepted queries keep the true neighbor in their first ten.

    For queries that are like the fit's own pairs, the promise is broken with a probability of at most `error`, whatever
    their distribution and however good the confidence is. Thresholds are tested one after the other from the strictest,
    each by the exact binomial tail of the misses among the pairs it accepts, and the last one that passes before the
    first that fails is returned. Two such sequences are tested, each with half the error: one starts with a tenth of
    the pairs, the other with half of them, where a test has more power. For queries of another kind nothing is
    promised: watch `ea-jax drift`.

    Args:
        quality: As `load_quality` or `fit` gives it.
        target: Share of accepted queries that keep the true neighbor.
        error: Probability that the promise does not hold.
        after_search: Whether the threshold is for `Quality.after_search`, rather than for `Scores.confidence`.

    Raises:
        BadInput: `target` or `error` is not between 0 and 1, or the adapter was imported.

    Source: Angelopoulos et al. 2021, arXiv:2110.01052 (Learn then Test, fixed sequences with several starts); Geifman
    and El-Yaniv 2017, arXiv:1705.08500, for selective risk.
    """
    for name, value in {"target": target, "error": error}.items():
        if not 0 < value < 1:
            raise BadInput(f"{name} is {value}; it must be between 0 and 1, for instance .95 and .1.")
    if "calibration" not in quality.params:
        raise BadInput("An imported adapter carries no pairs to set a threshold by; fit one on pairs with `fit`.")
    calibration = quality.params["calibration"]
    column = CALIBRATION_COLUMNS.index("confidence_after_search" if after_search else "confidence")
    confidence = np.asarray(calibration["scores"])[:, column]
    order = np.argsort(-confidence, kind="stable")
    confidence, misses = confidence[order], np.cumsum(np.asarray(calibration["found"])[order] == 0)
    n = len(order)
    return max((_last_passed(confidence, misses, n // start, target, error / 2) for start in (10, 2)), key=_kept)


def _kept(threshold: Threshold) -> float:
    return threshold.kept


def _last_passed(
    confidence: Float[np.ndarray, " n"], misses: Int[np.ndarray, " n"], start: int, target: float, error: float
) -> Threshold:
    """The last threshold of a sequence that passes before the first that fails; `confidence` is descending."""
    n = len(confidence)
    least = int(np.ceil(np.log(error) / np.log(target)))  # fewer could not pass without a single miss
    best = Threshold(float("inf"), 0.0, 0.0)
    for k in np.unique(np.linspace(min(max(least, start), n), n, STEPS).astype(int)):
        k = int(np.searchsorted(-confidence, -confidence[k - 1], side="right"))  # ties are accepted together
        if bdtr(misses[k - 1], k, 1 - target) > error:
            break
        best = Threshold(float(confidence[k - 1]), k / n, 1 - float(misses[k - 1]) / k)
    return best
