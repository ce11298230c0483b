"""How well the quality scores predict the results: calibration, routing by confidence, and thresholds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import rankdata

from ea_jax.evaluation.bootstrap import estimate_mean, estimate_statistic
from ea_jax.evaluation.ranking import correlations
from ea_jax.evaluation.results import Estimates, ReliabilityBin, RoutingPoint, ThresholdRow, Values
from ea_jax.quality.scores import Scores
from ea_jax.retrieval.metrics import KS

BINS, WORST = 10, 0.1
SHARES = tuple(i / 20 for i in range(21))
THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
Column = Float[np.ndarray, " n"]


def spearman(a: Column, b: Column) -> float:
    """Compute Spearman's rank correlation; 0 if one side is constant."""
    return float(correlations(a[None], b[None])[0])


def auroc(score: Column, positive: Column | Bool[np.ndarray, " n"]) -> float:
    """Compute the probability that a positive scores above a negative (ties: half); NaN if one class is empty."""
    positive = positive > 0
    n, m = positive.sum(), (~positive).sum()
    return float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def calibration_error(confidence: Column, outcome: Column) -> float:
    """Compute the expected calibration error over ten bins of equal size; smaller is better.

    Source: Naeini et al. 2015.
    """
    gaps = (len(rows) * abs(confidence[rows].mean() - outcome[rows].mean()) for rows in _bins(confidence))
    return float(sum(gaps) / len(confidence))


def risk_coverage_area(confidence: Column, outcome: Column) -> float:
    """Compute the area under the risk-coverage curve; smaller is better. Source: Geifman et al. 2019."""
    errors = np.cumsum(1 - outcome[np.argsort(-confidence, kind="stable")])
    return float(np.mean(errors / np.arange(1, len(outcome) + 1)))


def worst_tenth_auroc(expected_cosine: Column, cosine: Column) -> float:
    """Compute how well a low expected cosine detects the lowest tenth of cosines (AUROC); larger is better."""
    return auroc(-expected_cosine, cosine <= np.quantile(cosine, WORST))


def coverage(lower: Column, cosine: Column) -> float:
    """Compute the share of cosines that reach their predicted lower bound; .9 is ideal."""
    return float((cosine >= lower).mean())


STATISTICS: dict[str, tuple[Callable[[Column, Column], float], tuple[str, str]]] = {
    "ece": (calibration_error, ("confidence", "outcome")),
    "aurc": (risk_coverage_area, ("confidence", "outcome")),
    "spearman": (spearman, ("expected_cosine", "cosine")),
    "auroc_worst_tenth": (worst_tenth_auroc, ("expected_cosine", "cosine")),
    "coverage": (coverage, ("expected_cosine_lower", "cosine")),
}


def forecast_columns(scores: Scores, outcome: Column, cosine: Column | None) -> dict[str, Column]:
    """Collect the predictions and the observations that `STATISTICS` compare.

    Predictions are NaN if an adapter does not make them; outcomes are NaN for queries without relevant rows.
    """
    names = ("confidence", "expected_cosine", "expected_cosine_lower")
    columns = {name: np.asarray(getattr(scores, name), np.float64) for name in names} | {"outcome": outcome}
    return columns if cosine is None else columns | {"cosine": cosine}


def statistic_columns(statistic: str, forecast: Values) -> tuple[Column, Column] | None:
    """Return the prediction and observation of a statistic for the queries that have both; None if none has."""
    predicted, observed = (forecast.get(name) for name in STATISTICS[statistic][1])
    if predicted is None or observed is None:
        return None
    finite = np.isfinite(predicted) & np.isfinite(observed)
    return (predicted[finite], observed[finite]) if finite.any() else None


def quality_metrics(forecast: Values, seed: int) -> Estimates:
    """Estimate the statistics of the quality scores, leaving out those without data."""
    columns = {name: statistic_columns(name, forecast) for name in STATISTICS}
    return {name: estimate_statistic(STATISTICS[name][0], *c, seed=seed) for name, c in columns.items() if c}


def reliability_diagram(confidence: Column, outcome: Column, seed: int) -> list[ReliabilityBin]:
    """Compare the mean confidence with the mean outcome, by tenth of the confidence."""
    finite = np.isfinite(outcome)
    confidence, outcome = confidence[finite], outcome[finite]
    return [
        ReliabilityBin(float(confidence[rows].mean()), len(rows), estimate_mean(outcome[rows], seed))
        for rows in _bins(confidence)
    ]


def routing_curve(confidence: Column, outcome: Column, native: Column, seed: int) -> list[RoutingPoint]:
    """Estimate the score if the adapter serves a share of the queries and the target model the others.

    Args:
        confidence: Confidence of each query.
        outcome: Score of each adapted query; NaN to leave the query out.
        native: Score of each native query.
        seed: Seed of the bootstrap.
    """
    finite = np.isfinite(outcome)
    confidence, outcome, native = confidence[finite], outcome[finite], native[finite]
    by_confidence, by_loss = np.argsort(-confidence, kind="stable"), np.argsort(native - outcome, kind="stable")
    query = np.arange(len(confidence))
    points = []
    for share in SHARES:
        score, oracle = (
            estimate_mean(np.where(np.isin(query, order[: round(share * len(query))]), outcome, native), seed)
            for order in (by_confidence, by_loss)
        )
        random = estimate_mean(share * outcome + (1 - share) * native, seed)
        points.append(RoutingPoint(share, score, random, oracle))
    return points


def threshold_table(confidence: Column, conditions: Mapping[str, Values], metric: str, seed: int) -> list[ThresholdRow]:
    """Estimate the metric at each k, for the queries at or above each confidence threshold.

    Args:
        confidence: Confidence of each query.
        conditions: Condition -> metrics of each query; `adapter` is required.
        metric: Name without its k: `recall` or `success`.
        seed: Seed of the bootstrap.
    """
    rows = []
    for threshold in THRESHOLDS:
        selected = confidence >= threshold
        figures = {
            name: {f"{metric}@{k}": estimate_mean(values[f"{metric}@{k}"][selected], seed) for k in KS}
            for name, values in conditions.items()
        }
        of_native = None
        if "native" in conditions:
            adapter, native = (conditions[name][f"{metric}@10"][selected] for name in ("adapter", "native"))
            finite = np.isfinite(adapter)
            if finite.any():
                of_native = estimate_statistic(_ratio_of_means, adapter[finite], native[finite], seed=seed)
        share = estimate_mean(selected.astype(float), seed)
        rows.append(ThresholdRow(threshold, int(selected.sum()), share, of_native, figures))
    return rows


def _ratio_of_means(numerator: Column, denominator: Column) -> float:
    return float(numerator.mean() / denominator.mean()) if denominator.any() else float("nan")


def _bins(values: Column) -> Sequence[np.ndarray]:
    """Row numbers of ten bins of equal size, in order of the values."""
    return [rows for rows in np.array_split(np.argsort(values, kind="stable"), BINS) if len(rows)]
