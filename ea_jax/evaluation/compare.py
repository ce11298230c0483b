"""Compare two reports on the same evaluation set: which adapter is better, and is the difference significant?"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ea_jax.errors import BadInput
from ea_jax.evaluation.bootstrap import Difference, mean_difference, statistic_difference
from ea_jax.evaluation.calibration import STATISTICS, statistic_columns
from ea_jax.evaluation.results import DataFacts, ProtocolFacts, Results, Values

SIGNIFICANCE = 0.05
DIRECTION = {"ece": -1, "aurc": -1, "coverage": 0}  # smaller is better, or neither is; for other metrics larger is
SKIPPED = "equal@10"  # describes how hits were counted, not how good they are


class SavedResults(NamedTuple):
    """The parts of a saved report that a comparison needs; `Results` describes them."""

    protocol: ProtocolFacts
    data: DataFacts
    per_query: Mapping[str, Values]


class Comparison(NamedTuple):
    """A metric of two adapters.

    Attributes:
        a: Value of A.
        b: Value of B.
        value: B minus A.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end of that interval.
        p_value: Two-sided p value of no difference, not corrected for the number of metrics.
        verdict: Which one is better, in words.
    """

    a: float
    b: float
    value: float
    low: float
    high: float
    p_value: float
    verdict: str


def read_report(path: Path) -> SavedResults:
    """Read a report that was saved as JSON (`Report.to_json`).

    Raises:
        BadInput: The file is not a report, or one of an earlier version.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a report: {error}.") from error
    try:
        per_query = {
            name: {metric: np.asarray(column, np.float64) for metric, column in columns.items()}
            for name, columns in report["per_query"].items()
        }
        results = SavedResults(ProtocolFacts(**report["protocol"]), DataFacts(**report["data"]), per_query)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path} is not the JSON of an evaluation report.") from error
    if per_query.get("forecast") and "outcome" not in per_query["forecast"]:
        raise BadInput(f"{path} is a report of an earlier version of ea_jax. Evaluate the adapter again.")
    return results


def compare_reports(a: Results | SavedResults, b: Results | SavedResults, seed: int = 0) -> dict[str, Comparison]:
    """Compare each metric that both reports have, with a paired bootstrap over the queries.

    Returns:
        Comparisons by `condition/metric`, `vectors/cosine` and `confidence/metric`.

    Raises:
        BadInput: The reports differ in their evaluation set or protocol.
    """
    for name in ("data", "protocol"):
        of_a, of_b = (getattr(report, name)._asdict() for report in (a, b))
        if of_a != of_b:
            raise BadInput(
                f"The reports differ in their {name}: {of_a} and {of_b}. "
                "Evaluate both adapters on the same files, with the same protocol and seed."
            )
    metrics = [*_compare_means(a.per_query, b.per_query, seed), *_compare_quality(a.per_query, b.per_query, seed)]
    return {
        name: Comparison(of_a, of_b, *difference, _verdict(name.partition("/")[2], difference))
        for name, of_a, of_b, difference in metrics
    }


def _compare_means(
    a: Mapping[str, Values], b: Mapping[str, Values], seed: int
) -> Iterator[tuple[str, float, float, Difference]]:
    """Compare metrics that are means over queries."""
    for condition in (name for name in a if name in b and name != "forecast"):
        for metric, p in a[condition].items():
            q = b[condition].get(metric)
            if q is not None and metric != SKIPPED and np.isfinite(p).any():
                yield f"{condition}/{metric}", float(np.nanmean(p)), float(np.nanmean(q)), mean_difference(p, q, seed)


def _compare_quality(
    a: Mapping[str, Values], b: Mapping[str, Values], seed: int
) -> Iterator[tuple[str, float, float, Difference]]:
    """Compare metrics of the quality scores, which are statistics of all queries at once."""
    for name, (statistic, _) in STATISTICS.items():
        p, q = (statistic_columns(name, per_query.get("forecast", {})) for per_query in (a, b))
        if p is not None and q is not None:
            yield f"confidence/{name}", statistic(*p), statistic(*q), statistic_difference(statistic, p, q, seed)


def _verdict(metric: str, difference: Difference) -> str:
    if not difference.p_value < SIGNIFICANCE:
        return "no clear difference"
    larger, smaller = ("B", "A") if difference.value > 0 else ("A", "B")
    direction = DIRECTION.get(metric, 1)
    if direction == 0:
        return f"{larger} is larger"
    return f"{larger if direction > 0 else smaller} is better"
