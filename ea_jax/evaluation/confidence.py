"""Is the confidence a good forecast of what is found?"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from ea_jax.bootstrap import mean_of, statistic_of
from ea_jax.evaluation.ranking import correlations
from ea_jax.quality import Scores

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


def confidence_figures(scores: Scores, found: Column, cosine: Column | None, seed: int) -> dict[str, Any]:
    """Figures of the quality part, with intervals. Those of the cosine need native vectors, and a forecast of it."""
    said = np.asarray(scores.confidence, np.float64)
    there = np.isfinite(found)
    said_there, found_there = said[there], found[there]
    told: dict[str, Any] = {
        "ece": statistic_of(calibration_error, said_there, found_there, seed=seed),
        "aurc": statistic_of(risk_area, said_there, found_there, seed=seed),
    }
    forecast = np.asarray(scores.expected_cosine, np.float64)
    if cosine is not None and np.isfinite(forecast).all():
        worst = (cosine <= np.quantile(cosine, WORST)).astype(float)
        lower = np.asarray(scores.expected_cosine_lower)
        told["spearman"] = statistic_of(spearman, forecast, cosine, seed=seed)
        told["auroc_worst_tenth"] = statistic_of(auroc, -forecast, worst, seed=seed)
        told["coverage"] = mean_of((cosine >= lower).astype(float), seed)
    return told


def reliability(said: Column, found: Column, seed: int) -> list[dict[str, Any]]:
    """By tenth of the confidence: what was said, and what came."""
    there = np.isfinite(found)
    said, found = said[there], found[there]
    return [
        {"said": float(said[b].mean()), "queries": len(b), "recall@10": mean_of(found[b], seed)} for b in _bins(said)
    ]


def routing(said: Column, found: Column, native: Column, seed: int) -> list[dict[str, Any]]:
    """Recall by the share kept with the adapter; the others, the least confident, are asked natively."""
    there = np.isfinite(found)
    said, found, native = said[there], found[there], native[there]
    order, points = np.argsort(-said, kind="stable"), []
    for share in SHARES:
        kept = np.zeros(len(said), bool)
        kept[order[: round(share * len(said))]] = True
        random = share * found.mean() + (1 - share) * native.mean()
        blended = mean_of(np.where(kept, found, native), seed)
        points.append({"kept": share, "recall@10": blended, "random": float(random)})
    return points


def threshold_table(said: Column, columns: dict[str, Column], seed: int) -> list[dict[str, Any]]:
    """Recall of each condition over the queries at or above a confidence; the first row is unfiltered."""
    rows = []
    for least in THRESHOLDS:
        kept = said >= least
        found = {name: mean_of(column[kept], seed) for name, column in columns.items()}
        rows.append({"confidence": least, "kept": float(kept.mean()), "queries": int(kept.sum()), "recall@10": found})
    return rows


def _bins(said: Column) -> list[np.ndarray]:
    order = np.argsort(said, kind="stable")
    return [rows for rows in np.array_split(order, BINS) if len(rows)]
