"""Folds that no group straddles."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

FOLDS = 5  # each out-of-fold output then comes of four fifths of the pairs


def group_folds(groups: Sequence[str] | None, n: int) -> Int[np.ndarray, " n"]:
    """Fold of each row: whole groups, the largest first, each into the fold with the fewest rows.

    Where there are fewer groups than folds, or none are given, rows go round the folds in order.
    """
    names, row_group, sizes = np.unique(np.asarray(groups or [], str), return_inverse=True, return_counts=True)
    if len(names) < FOLDS:
        return np.arange(n) % FOLDS
    rows_in, fold_of = np.zeros(FOLDS), np.zeros(len(names), int)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = rows_in.argmin()
        rows_in[fold_of[group]] += sizes[group]
    return fold_of[row_group]
