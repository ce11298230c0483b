"""Reliability of the confidence, and what routing by it is worth."""

from pathlib import Path
from typing import Any

import numpy as np

SHOWN = ("minilm--wordllama--ag-news", "minilm--oai-3-small--small", "minilm--oai-3-small--large")
BINS = 10
RULES = {"confidence": "#0072B2", "seed's rule": "#E69F00", "mahalanobis": "#56B4E9", "knn_distance": "#CC79A7"}


def plot(drawn: dict[str, Any], file: Path) -> None:
    """Upper row: said against came, in domain and across. Lower row: blended recall by the share kept locally.

    Blended: queries that are sent to the provider find their native top hit. Random routing is a straight line; the
    oracle keeps all that will be found first.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    names = [name for name in SHOWN if name in drawn]
    figure, axes = pyplot.subplots(2, len(names), figsize=(4.4 * len(names), 8), layout="constrained", squeeze=False)
    for column, name in enumerate(names):
        above, below = axes[0, column], axes[1, column]
        for side, j in drawn[name].items():
            said = j.scores["confidence"]
            bins = np.array_split(np.argsort(said, kind="stable"), BINS)
            above.plot([said[b].mean() for b in bins], [j.found[b].mean() for b in bins], marker="o", label=side)
        above.plot([0, 1], [0, 1], color="#888888", lw=1, ls=":")
        above.set(title=name, xlabel="confidence", ylabel="share with the native top hit in the first ten")
        j = drawn[name]["in"]
        n = len(j.found)
        for rule, colour in RULES.items():
            score = j.scores[rule] * (-1 if rule in ("mahalanobis", "knn_distance") else 1)
            below.plot(*_routed(score, j.found), color=colour, label=rule)
        below.plot(*_routed(j.found.astype(float), j.found), color="#009E73", ls="--", label="oracle")
        below.plot([0, 1], [1, j.found.mean()], color="#888888", ls=":", label=f"random ({n:,} queries)")
        below.set(xlabel="share kept locally, in domain", ylabel="blended recall@10")
        for axis in (above, below):
            axis.grid(alpha=0.25)
            axis.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=90)
    Image.open(file).convert("RGB").quantize(64).save(file, optimize=True)
    pyplot.close(figure)


def _routed(score: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(found)
    misses = np.concatenate([[0], np.cumsum(~found[np.argsort(-score, kind="stable")])])
    return np.arange(n + 1) / n, 1 - misses / n
