"""Two reports over the same queries: which adapter is better, and how surely?"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax.errors import BadInput
from ea_jax.evaluation.bootstrap import Difference, difference, statistic_difference
from ea_jax.evaluation.calibration import STATISTICS, columns_of

SURE = 0.05
DIRECTION = {"ece": -1, "aurc": -1, "coverage": 0}  # smaller is better, or neither is; elsewhere larger is
NO_FIGURE = "equal@10"  # how a hit was counted


def read_report(path: Path) -> dict[str, Any]:
    """A report as `--json` printed it.

    Raises:
        BadInput: It is none.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a report: {error}.") from error
    if not isinstance(told, dict) or not {"per_query", "data", "protocol"} <= told.keys():
        raise BadInput(f"{path} is no report; `ea-jax eval --json` prints one.")
    return told


def compared(a: Mapping[str, Any], b: Mapping[str, Any], seed: int = 0) -> dict[str, dict[str, Any]]:
    """By figure: that of A and of B, B less A with its interval and p value (paired bootstrap), and a verdict.

    Figures are those of the adapter's conditions, `condition/figure`, `vectors/cosine`, and those of the confidence,
    `confidence/figure`, as far as both reports have them.

    Raises:
        BadInput: The reports are not over the same queries, corpus and judgments, or not of the same protocol.
    """
    for name in ("data", "protocol"):
        if a[name] != b[name]:
            raise BadInput(
                f"The reports differ in their {name}: {a[name]} and {b[name]}. Judge both on the same trial."
            )
    first, second = ({name: _values(columns) for name, columns in side["per_query"].items()} for side in (a, b))
    figures = [*_means(first, second, seed), *_forecasts(first, second, seed)]
    return {name: _told(name.partition("/")[2], of_a, of_b, away) for name, of_a, of_b, away in figures}


def _values(columns: Mapping[str, list[float | None]]) -> dict[str, np.ndarray]:
    return {name: np.asarray(column, np.float64) for name, column in columns.items()}


def _means(a, b, seed: int) -> Iterator[tuple[str, float, float, Difference]]:
    """Figures that are means over queries."""
    for condition in (name for name in a if name in b and name != "forecast"):
        for figure, p in a[condition].items():
            q = b[condition].get(figure)
            if q is not None and figure != NO_FIGURE and np.isfinite(p).any():
                yield f"{condition}/{figure}", float(np.nanmean(p)), float(np.nanmean(q)), difference(p, q, seed)


def _forecasts(a, b, seed: int) -> Iterator[tuple[str, float, float, Difference]]:
    """Figures of the confidence, which are statistics of all queries at once."""
    for name, (statistic, _) in STATISTICS.items():
        p, q = (columns_of(name, side.get("forecast", {})) for side in (a, b))
        if p is not None and q is not None:
            yield f"confidence/{name}", statistic(*p), statistic(*q), statistic_difference(statistic, p, q, seed)


def _told(figure: str, a: float, b: float, found: Difference) -> dict[str, Any]:
    verdict = "no clear difference"
    if found.p_value < SURE:
        larger, direction = found.value > 0, DIRECTION.get(figure, 1)
        better = ("B" if larger == (direction > 0) else "A") + " is better"
        verdict = better if direction else f"{'B' if larger else 'A'} is larger"
    return {"a": a, "b": b, **found._asdict(), "verdict": verdict}
