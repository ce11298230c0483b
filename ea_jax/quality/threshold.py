"""Choose a confidence threshold with a guarantee for the accepted queries."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.special import bdtr

from ea_jax.errors import BadInput
from ea_jax.quality.schema import CALIBRATION_COLUMNS
from ea_jax.quality.scores import Quality

THRESHOLDS = 50  # tested in a sequence


class Threshold(NamedTuple):
    """A confidence threshold, and its results on held-out pairs of the fit.

    Attributes:
        confidence: Queries with this confidence or more are accepted; infinite if no threshold meets the target.
        coverage: Fraction of queries that are accepted.
        recall: Fraction of accepted queries with the true neighbor among the first ten results.
    """

    confidence: float
    coverage: float
    recall: float


def threshold_for(
    quality: Quality, target: float = 0.95, error: float = 0.1, *, after_search: bool = False
) -> Threshold:
    """Choose the confidence above which a fraction of at least `target` of the queries are hits.

    A hit has its true neighbor among the first ten results. The guarantee fails with a probability of at most `error`
    for queries from the distribution of the fit's pairs, however good the confidence is. It does not extend to other
    queries; monitor them with `ea-jax drift`.

    Thresholds are tested in sequence from the strictest, each by the exact binomial tail of the misses among the pairs
    it accepts, until one fails; the last one that passed is the result. Two sequences are tested, each with half of the
    error: one starts at a tenth of the pairs, the other at half of them, where a test has more power.

    Args:
        quality: A quality part from `load_quality` or `fit`.
        target: Fraction of accepted queries that must be hits.
        error: Probability that the guarantee fails.
        after_search: Choose the threshold for `Quality.after_search` instead of `Scores.confidence`.

    Raises:
        BadInput: `target` or `error` is not between 0 and 1, or the adapter was imported.

    Source: Angelopoulos et al. 2021, arXiv:2110.01052 (Learn then Test, fixed sequences with several starts); Geifman
    and El-Yaniv 2017, arXiv:1705.08500, for selective risk.
    """
    for name, value in {"target": target, "error": error}.items():
        if not 0 < value < 1:
            raise BadInput(f"{name} is {value}; it must be between 0 and 1, for instance .95 and .1.")
    if "calibration" not in quality.params:
        raise BadInput("An imported adapter carries no pairs to choose a threshold from. Use an adapter made by `fit`.")
    calibration = quality.params["calibration"]
    column = CALIBRATION_COLUMNS.index("confidence_after_search" if after_search else "confidence")
    confidence = np.asarray(calibration["scores"])[:, column]
    order = np.argsort(-confidence, kind="stable")
    confidence, misses = confidence[order], np.cumsum(np.asarray(calibration["found"])[order] == 0)
    n = len(order)
    return max(
        (_last_passed(confidence, misses, n // start, target, error / 2) for start in (10, 2)), key=lambda t: t.coverage
    )


def _last_passed(
    confidence: Float[np.ndarray, " n"], misses: Int[np.ndarray, " n"], start: int, target: float, error: float
) -> Threshold:
    """Find the last threshold of a sequence that passes before the first one fails; `confidence` is descending."""
    n = len(confidence)
    least = int(np.ceil(np.log(error) / np.log(target)))  # fewer pairs cannot pass, even without a miss
    best = Threshold(float("inf"), 0.0, 0.0)
    for k in np.unique(np.linspace(min(max(least, start), n), n, THRESHOLDS).astype(int)):
        k = int(np.searchsorted(-confidence, -confidence[k - 1], side="right"))  # ties are accepted together
        if bdtr(misses[k - 1], k, 1 - target) > error:
            break
        best = Threshold(float(confidence[k - 1]), k / n, 1 - float(misses[k - 1]) / k)
    return best
