"""What there is to look at: neighbours side by side, and both clouds in two dimensions."""

from typing import Any

import numpy as np

from ea_jax.evaluation.dataset import Trial
from ea_jax.evaluation.ranking import Truth

QUERIES, NEIGHBOURS, POINTS, SHOWN = 8, 5, 400, 160


def neighbours(trial: Trial, rows: dict[str, Any], truth: Truth, seed: int) -> list[dict[str, Any]]:
    """Of some queries, the first rows of native and of adapted queries; the same ones are marked."""
    if "native" not in rows:
        return []

    def told(row: int, others: set[int]) -> dict[str, Any]:
        text = f"row {row}" if trial.corpus_text is None else _short(trial.corpus_text[row])
        return {"row": row, "text": text, "both": int(truth.same[row]) in others}

    drawn = np.sort(np.random.default_rng([seed, 3]).permutation(len(trial.x))[:QUERIES])
    out = []
    for i in map(int, drawn):
        sides = {name: [int(row) for row in rows[name][i][:NEIGHBOURS]] for name in ("native", "adapter")}
        kinds = {name: {int(truth.same[row]) for row in found} for name, found in sides.items()}
        out.append(
            {
                "query": f"query {i}" if trial.text is None else _short(trial.text[i]),
                "native": [told(row, kinds["adapter"]) for row in sides["native"]],
                "adapter": [told(row, kinds["native"]) for row in sides["adapter"]],
            }
        )
    return out


def projection(y, stored, seed: int) -> dict[str, Any] | None:
    """Native and adapted vectors of some queries on the two leading directions of the native ones (PCA)."""
    if y is None or len(y) < 3:
        return None
    drawn = np.random.default_rng([seed, 4]).permutation(len(y))[:POINTS]
    mean = y[drawn].mean(axis=0, keepdims=True)
    _, spread, directions = np.linalg.svd(y[drawn] - mean, full_matrices=False)
    flat = {name: (side[drawn] - mean) @ directions[:2].T for name, side in (("native", y), ("adapted", stored))}
    explained = (spread[:2] ** 2).sum() / max((spread**2).sum(), 1e-12)
    return {"explained": float(explained), **{name: np.round(side, 4).tolist() for name, side in flat.items()}}


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
