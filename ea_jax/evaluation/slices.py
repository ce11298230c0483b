"""Recall and cosine by text length, by group and by confidence."""

from typing import Any

import numpy as np

from ea_jax.evaluation.bootstrap import mean_of
from ea_jax.evaluation.dataset import Trial

PARTS, DECILES, GROUPS = 4, 10, 20


def slices_of(trial: Trial, found, cosine, said, seed: int) -> dict[str, list[dict[str, Any]]]:
    """By slice name, its parts in order, each with its queries, its recall in the first ten and its mean cosine."""

    def part(label: str, rows) -> dict[str, Any]:
        told = {"label": label, "queries": len(rows), "recall@10": mean_of(found[rows], seed)}
        return told if cosine is None else told | {"cosine": mean_of(cosine[rows], seed)}

    slices = {}
    if trial.text is not None:
        length = np.asarray([len(text) for text in trial.text])
        slices["length"] = [
            part(f"{length[rows].min():,} to {length[rows].max():,} characters", rows) for rows in _parts(length, PARTS)
        ]
    if trial.group is not None:
        names, of, sizes = np.unique(np.asarray(trial.group), return_inverse=True, return_counts=True)
        shown = np.argsort(-sizes, kind="stable")[:GROUPS]
        slices["group"] = [part(str(names[g]), np.flatnonzero(of == g)) for g in shown]
        if len(names) > GROUPS:
            others = np.flatnonzero(~np.isin(of, shown))
            slices["group"].append(part(f"{len(names) - GROUPS:,} smaller groups", others))
    if said is not None:
        parts = _parts(said, DECILES)
        slices["confidence"] = [part(f"{said[r].min():.2f} to {said[r].max():.2f}", r) for r in parts]
    return slices


def _parts(values, count: int) -> list[np.ndarray]:
    return [rows for rows in np.array_split(np.argsort(values, kind="stable"), count) if len(rows)]
