"""Whether new inputs still look like those of the fit: their scores beside the fit's own."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import ks_2samp

from ea_jax.errors import BadInput
from ea_jax.quality.schema import CALIBRATION_COLUMNS
from ea_jax.quality.scores import Quality, Scores

COMPARED = tuple(
    name for name in CALIBRATION_COLUMNS if name in Scores._fields
)  # what is known of a query before any search
BINS = 10
MODERATE, LARGE = 0.1, 0.25
LEAST = 20
OUTSIDE = 0.2  # a distance confidence at the 99th percentile of the fit

Sample = Mapping[str, Float[np.ndarray, " _"]]


class Shift(NamedTuple):
    """How the distribution of one score has moved.

    Attributes:
        psi: Population stability index over the tenths of the baseline; below .1 is stable, above .25 a large shift.
        distance: Of Kolmogorov and Smirnov: the largest gap between the two distribution functions.
        p_value: Of that gap where nothing has moved.
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
        """What the index says: stable, moderate shift or large shift."""
        return "stable" if self.psi < MODERATE else "moderate shift" if self.psi < LARGE else "large shift"


def baseline_scores(quality: Quality) -> dict[str, Float[np.ndarray, " n"]]:
    """Scores by name of pairs that were held out when the adapter was fitted."""
    if "calibration" not in quality.params:
        raise BadInput("An imported adapter carries no scores of its fit; compare with a file of earlier inputs.")
    scores = np.asarray(quality.params["calibration"]["scores"])
    return {name: scores[:, CALIBRATION_COLUMNS.index(name)] for name in COMPARED}


def monitored_scores(scores: Scores) -> dict[str, Float[np.ndarray, " n"]]:
    """The same of other inputs, out of their scores."""
    return {name: np.asarray(getattr(scores, name)) for name in COMPARED}


def drift(before: Sample, now: Sample) -> dict[str, Shift]:
    """How each score has moved.

    Args:
        before: Scores by name, for instance `baseline_scores(quality)`.
        now: Scores of the new inputs by the same names.

    Raises:
        BadInput: There are fewer than twenty of either.

    Source: Siddiqi 2006 (population stability index); Smirnov 1948 (two samples).
    """
    least = min(len(column) for part in (before, now) for column in part.values())
    if least < LEAST:
        raise BadInput(f"There are {least} scores on one side; {LEAST} are needed to compare distributions.")
    return {name: _shift(np.asarray(before[name]), np.asarray(now[name])) for name in before}


def out_of_domain_fraction(scores: Scores) -> float:
    """Share of inputs out of the comfort zone: beyond the 99th percentile of the fit in either distance, or junk."""
    far = np.minimum(np.asarray(scores.conf_maha), np.asarray(scores.conf_knn)) < OUTSIDE
    return float(np.mean(far | (np.asarray(scores.novelty) > 1 - OUTSIDE)))


def _shift(before: Float[np.ndarray, " n"], now: Float[np.ndarray, " m"]) -> Shift:
    found: Any = ks_2samp(before, now)
    return Shift(
        stability_index(before, now),
        float(found.statistic),
        float(found.pvalue),
        float(np.median(before)),
        float(np.median(now)),
    )


def stability_index(before: Float[np.ndarray, " n"], now: Float[np.ndarray, " m"]) -> float:
    """`sum_b (q_b - p_b) ln(q_b / p_b)` over tenths of the baseline, each count with half a row added."""
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    p, q = (
        (np.bincount(np.searchsorted(edges, part, side="right"), minlength=len(edges) + 1) + 0.5)
        / (len(part) + 0.5 * (len(edges) + 1))
        for part in (before, now)
    )
    return float(np.sum((q - p) * np.log(q / p)))
