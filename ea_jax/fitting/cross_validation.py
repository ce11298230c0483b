"""Cross-validation folds that keep groups together."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

FOLDS = 5  # out-of-fold outputs come from fits on four fifths of the pairs


def group_folds(groups: Sequence[str] | None, n: int) -> Int[np.ndarray, " n"]:
    """Assign each row to a fold. Groups stay whole: the largest first, each to the fold with the fewest rows.

    Without groups, or with fewer groups than folds, rows are assigned to the folds in turn.
    """
    names, row_group, sizes = np.unique(np.asarray(groups or [], str), return_inverse=True, return_counts=True)
    if len(names) < FOLDS:
        return np.arange(n) % FOLDS
    fold_size, fold_of = np.zeros(FOLDS), np.zeros(len(names), int)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = fold_size.argmin()
        fold_size[fold_of[group]] += sizes[group]
    return fold_of[row_group]
