"""Detect drift: compare the quality scores of new inputs with those of the fit."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import ks_2samp

from ea_jax.errors import BadInput
from ea_jax.quality.schema import CALIBRATION_COLUMNS
from ea_jax.quality.scores import Quality, Scores

MONITORED = tuple(name for name in CALIBRATION_COLUMNS if name in Scores._fields)  # those that need no search
BINS = 10
MODERATE, LARGE = 0.1, 0.25  # population stability index
MIN_SCORES = 20
OUT_OF_DOMAIN = 0.2  # confidence of a distance at the 99th percentile of the fit

Sample = Mapping[str, Float[np.ndarray, " _"]]


class Shift(NamedTuple):
    """The change in the distribution of one score.

    Attributes:
        psi: Population stability index over the deciles of the baseline: below .1 is stable, above .25 a large shift.
        distance: Kolmogorov-Smirnov distance, the largest difference between the two distribution functions.
        p_value: Probability of such a distance or a larger one if the distributions are equal.
        before: Median of the baseline.
        now: Median of the new scores.
    """

    psi: float
    distance: float
    p_value: float
    before: float
    now: float

    @property
    def verdict(self) -> str:
        """The index in words: stable, moderate shift or large shift."""
        return "stable" if self.psi < MODERATE else "moderate shift" if self.psi < LARGE else "large shift"


def baseline_scores(quality: Quality) -> dict[str, Float[np.ndarray, " n"]]:
    """Scores, by name, of the pairs of the fit, each computed out of fold."""
    if "calibration" not in quality.params:
        raise BadInput("An imported adapter has no scores of its fit. Compare with a file of earlier inputs.")
    scores = np.asarray(quality.params["calibration"]["scores"])
    return {name: scores[:, CALIBRATION_COLUMNS.index(name)] for name in MONITORED}


def monitored_scores(scores: Scores) -> dict[str, Float[np.ndarray, " n"]]:
    """Select the monitored scores of other inputs, by name."""
    return {name: np.asarray(getattr(scores, name)) for name in MONITORED}


def drift(before: Sample, now: Sample) -> dict[str, Shift]:
    """Compare the distributions of each score.

    Args:
        before: Scores by name, for instance `baseline_scores(quality)`.
        now: Scores of the new inputs by the same names.

    Raises:
        BadInput: Either side has fewer than twenty scores.

    Source: Siddiqi 2006 (population stability index); Smirnov 1948 (two-sample test).
    """
    least = min(len(column) for part in (before, now) for column in part.values())
    if least < MIN_SCORES:
        raise BadInput(f"There are {least} scores on one side; {MIN_SCORES} are needed to compare distributions.")
    return {name: _shift(np.asarray(before[name]), np.asarray(now[name])) for name in before}


def out_of_domain_fraction(scores: Scores) -> float:
    """Fraction of out-of-domain inputs: beyond the 99th percentile of the fit in either distance, or novel."""
    confidence = np.minimum(np.asarray(scores.conf_maha), np.asarray(scores.conf_knn))
    return float(np.mean((confidence < OUT_OF_DOMAIN) | (np.asarray(scores.novelty) > 1 - OUT_OF_DOMAIN)))


def _shift(before: Float[np.ndarray, " n"], now: Float[np.ndarray, " m"]) -> Shift:
    test: Any = ks_2samp(before, now)
    return Shift(
        stability_index(before, now),
        float(test.statistic),
        float(test.pvalue),
        float(np.median(before)),
        float(np.median(now)),
    )


def stability_index(before: Float[np.ndarray, " n"], now: Float[np.ndarray, " m"]) -> float:
    """Population stability index, `sum_b (q_b - p_b) ln(q_b / p_b)` over deciles of the baseline.

    Half a row is added to each count, so that empty bins stay finite.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    p, q = (
        (np.bincount(np.searchsorted(edges, part, side="right"), minlength=len(edges) + 1) + 0.5)
        / (len(part) + 0.5 * (len(edges) + 1))
        for part in (before, now)
    )
    return float(np.sum((q - p) * np.log(q / p)))
