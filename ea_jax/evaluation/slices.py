"""Scores by text length, by group and by confidence."""

import numpy as np
from jaxtyping import Float, Int

from ea_jax.evaluation.bootstrap import estimate_mean
from ea_jax.evaluation.dataset import EvaluationSet
from ea_jax.evaluation.results import Slice

LENGTH_BINS, CONFIDENCE_BINS, MAX_GROUPS = 4, 10, 20
Column = Float[np.ndarray, " n"]


def score_slices(
    evaluation_set: EvaluationSet, score: Column, cosine: Column | None, confidence: Column | None, seed: int
) -> dict[str, list[Slice]]:
    """Estimate the mean score and cosine of subsets of the queries: by text length, group and confidence."""

    def make_slice(label: str, rows: Int[np.ndarray, " s"]) -> Slice:
        mean_cosine = None if cosine is None else estimate_mean(cosine[rows], seed)
        return Slice(label, len(rows), estimate_mean(score[rows], seed), mean_cosine)

    slices = {}
    if evaluation_set.text is not None:
        length = np.asarray([len(text) for text in evaluation_set.text])
        slices["length"] = [
            make_slice(f"{length[rows].min():,} to {length[rows].max():,} characters", rows)
            for rows in _quantile_bins(length, LENGTH_BINS)
        ]
    if evaluation_set.group is not None:
        names, group, sizes = np.unique(np.asarray(evaluation_set.group), return_inverse=True, return_counts=True)
        largest = np.argsort(-sizes, kind="stable")[:MAX_GROUPS]
        slices["group"] = [make_slice(str(names[g]), np.flatnonzero(group == g)) for g in largest]
        if len(names) > MAX_GROUPS:
            others = np.flatnonzero(~np.isin(group, largest))
            slices["group"].append(make_slice(f"{len(names) - MAX_GROUPS:,} smaller groups", others))
    if confidence is not None:
        slices["confidence"] = [
            make_slice(f"{confidence[rows].min():.2f} to {confidence[rows].max():.2f}", rows)
            for rows in _quantile_bins(confidence, CONFIDENCE_BINS)
        ]
    return slices


def _quantile_bins(values: np.ndarray, count: int) -> list[np.ndarray]:
    """Row numbers of bins of equal size, in order of the values."""
    return [rows for rows in np.array_split(np.argsort(values, kind="stable"), count) if len(rows)]
