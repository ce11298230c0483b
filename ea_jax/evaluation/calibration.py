"""Is the confidence a good forecast of what is found?"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from ea_jax.evaluation.bootstrap import Figure, mean_of, statistic_of
from ea_jax.evaluation.ranking import Values, correlations
from ea_jax.quality.scores import Scores
from ea_jax.retrieval.metrics import KS

BINS, WORST = 10, 0.1
SHARES = tuple(i / 20 for i in range(21))
THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
Column = Float[np.ndarray, " n"]


def spearman(a: Column, b: Column) -> float:
    """Rank correlation; 0 with a constant."""
    return float(correlations(a[None], b[None])[0])


def auroc(score: Column, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties by half; nan where there is only one kind."""
    positive = positive > 0
    n, m = positive.sum(), (~positive).sum()
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def calibration_error(said: Column, came: Column) -> float:
    """Mean gap of what was said and what came, over ten bins of equally many. Source: Naeini et al. 2015."""
    return float(sum(len(b) * abs(said[b].mean() - came[b].mean()) for b in _bins(said)) / len(said))


def risk_area(score: Column, good: Column) -> float:
    """Area under the risk-coverage curve; smaller is better. Source: Geifman et al. 2019."""
    missed = np.cumsum(1 - good[np.argsort(-score, kind="stable")])
    return float(np.mean(missed / np.arange(1, len(good) + 1)))


def worst_auroc(forecast: Column, cosine: Column) -> float:
    """How surely a low forecast finds the worst tenth of cosines (AUROC)."""
    return auroc(-forecast, (cosine <= np.quantile(cosine, WORST)).astype(float))


def coverage(lower: Column, cosine: Column) -> float:
    """Share of cosines above what was said to be exceeded; it ought to be .9."""
    return float((cosine >= lower).mean())


STATISTICS: dict[str, tuple[Callable[[Column, Column], float], tuple[str, str]]] = {
    "ece": (calibration_error, ("confidence", "found")),
    "aurc": (risk_area, ("confidence", "found")),
    "spearman": (spearman, ("expected_cosine", "cosine")),
    "auroc_worst_tenth": (worst_auroc, ("expected_cosine", "cosine")),
    "coverage": (coverage, ("expected_cosine_lower", "cosine")),
}


def forecasts(scores: Scores, found: Column, cosine: Column | None) -> dict[str, Column]:
    """What was said of each query, and what came; nan where an adapter forecasts no cosine, or there are no answers."""
    told = {name: np.asarray(getattr(scores, name), np.float64) for name, _ in (s[1] for s in STATISTICS.values())}
    return told | {"found": found} | ({} if cosine is None else {"cosine": cosine})


def columns_of(statistic: str, told: Mapping[str, Column]) -> tuple[Column, Column] | None:
    """What a statistic is of, over the queries that have both sides; None where none has."""
    said, came = (told.get(name) for name in STATISTICS[statistic][1])
    if said is None or came is None:
        return None
    there = np.isfinite(said) & np.isfinite(came)
    return (said[there], came[there]) if there.any() else None


def confidence_figures(told: Mapping[str, Column], seed: int) -> dict[str, Figure]:
    """Figures of the quality part that there are forecasts for."""
    columns = {name: columns_of(name, told) for name in STATISTICS}
    return {name: statistic_of(STATISTICS[name][0], *c, seed=seed) for name, c in columns.items() if c is not None}


def reliability(said: Column, found: Column, seed: int) -> list[dict[str, Any]]:
    """By tenth of the confidence: what was said, and what came."""
    there = np.isfinite(found)
    said, found = said[there], found[there]
    return [
        {"said": float(said[b].mean()), "queries": len(b), "recall@10": mean_of(found[b], seed)} for b in _bins(said)
    ]


def routing(said: Column, found: Column, native: Column, seed: int) -> list[dict[str, Any]]:
    """Recall by the share kept with the adapter; the others are asked natively.

    Kept are those of most confidence (`recall@10`), any (`random`, its expectation), or those that lose least, as if it
    were known (`oracle`): nothing that orders queries does better.
    """
    there = np.isfinite(found)
    said, found, native = said[there], found[there], native[there]
    orders = {"recall@10": np.argsort(-said, kind="stable"), "oracle": np.argsort(native - found, kind="stable")}
    points = []
    for share in SHARES:
        told = {"kept": share, "random": mean_of(share * found + (1 - share) * native, seed)}
        for name, order in orders.items():
            kept = np.isin(np.arange(len(said)), order[: round(share * len(said))])
            told[name] = mean_of(np.where(kept, found, native), seed)
        points.append(told)
    return points


def threshold_table(said: Column, conditions: Mapping[str, Values], kind: str, seed: int) -> list[dict[str, Any]]:
    """What each condition finds of the queries at or above a confidence; the first row is unfiltered.

    `of_native` is the share of what native queries find that the adapter finds too, a ratio of means.
    """
    rows = []
    for least in THRESHOLDS:
        kept = said >= least
        figures = {
            name: {f"{kind}@{k}": mean_of(values[f"{kind}@{k}"][kept], seed) for k in KS}
            for name, values in conditions.items()
        }
        row = {"confidence": least, "queries": int(kept.sum()), "kept": mean_of(kept.astype(float), seed)}
        if "native" in conditions and kept.any():
            ours, theirs = (conditions[name][f"{kind}@10"][kept] for name in ("adapter", "native"))
            there = np.isfinite(ours)
            if there.any():
                row["of_native"] = statistic_of(_ratio, ours[there], theirs[there], seed=seed)
        rows.append(row | {"figures": figures})
    return rows


def _ratio(ours: Column, theirs: Column) -> float:
    return float(ours.mean() / theirs.mean()) if theirs.any() else float("nan")


def _bins(said: Column) -> list[np.ndarray]:
    order = np.argsort(said, kind="stable")
    return [rows for rows in np.array_split(order, BINS) if len(rows)]
