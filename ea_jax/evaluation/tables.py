"""The tables of a report, which the terminal and the web page share."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ea_jax.evaluation.bootstrap import Estimate
from ea_jax.evaluation.results import Estimates, Results, Slice, ThresholdRow

INTERVALS = "Brackets: 95 % bootstrap intervals over the queries. With only a few queries they are too narrow."
CONDITION_LABELS = {
    "adapter": "adapter (query) to native corpus",
    "adapter_store": "adapter (store) to native corpus",
    "adapter_to_adapter": "adapter to adapter",
    "native": "native to native",
    "keep_source": "keep the source model",
    "two_stages": "two stages: adapter, then source",
    "naive_swap": "naive swap",
    "mean_vector": "mean vector",
}
AGREEMENT_METRICS = ("recall@1", "recall@5", "recall@10", "overlap@10", "rank_correlation")
RELEVANCE_METRICS = ("success@1", "success@5", "success@10", "relevant_recall@10", "ndcg@10", "mrr")
QUALITY_LABELS = {
    "ece": "expected calibration error of the confidence (smaller is better)",
    "aurc": "area under the risk-coverage curve (smaller is better)",
    "spearman": "rank correlation of expected and observed cosine",
    "auroc_worst_tenth": "AUROC for the lowest tenth of cosines",
    "coverage": "share of cosines above their lower bound (.9 is ideal)",
}
MIXED_LABELS = {
    "adapted_share": "adapted rows in the top ten",
    "recall@10": "recall@10",
    "recall@10_of_native_rows": "true neighbor is native",
    "recall@10_of_adapted_rows": "true neighbor is adapted",
}


class Cell(NamedTuple):
    """A label, or an estimate with its path in the JSON form of the report."""

    content: str | Estimate
    path: str = ""


class Table(NamedTuple):
    """A title, the column names, and rows of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def cell_text(cell: Cell) -> str:
    """Format a cell: an estimate as `0.912 (0.874, 0.946)`, an undefined one as an empty string."""
    if isinstance(cell.content, str):
        return cell.content
    value, low, high = cell.content
    if not math.isfinite(value):
        return ""
    return f"{value:.3f} ({low:.3f}, {high:.3f})" if math.isfinite(low) else f"{value:.3f}"


def make_tables(results: Results) -> list[Table]:
    """Make the tables that the results have data for; the one of the protocol comes first."""
    by_protocol = [
        _condition_table("Agreement with native queries on the native corpus", AGREEMENT_METRICS, results.conditions),
        _condition_table("Relevance of the results, by the judgments", RELEVANCE_METRICS, results.conditions),
    ]
    if results.protocol.name == "qa":
        by_protocol.reverse()
    tables = [
        *by_protocol,
        _quality_table(results),
        _cosine_table(results),
        _mixed_table(results),
        _threshold_table(results),
        *(_slice_table(name, slices, results.measure) for name, slices in results.slices.items()),
    ]
    return [table for table in tables if table.rows]


def _condition_table(title: str, metrics: Sequence[str], conditions: Mapping[str, Estimates]) -> Table:
    metrics = [metric for metric in metrics if metric in conditions["adapter"]]
    rows = [
        [Cell(CONDITION_LABELS[name])] + [Cell(estimates[m], f"conditions/{name}/{m}") for m in metrics]
        for name, estimates in conditions.items()
    ]
    return Table(title, ["", *(metric.replace("_", " ") for metric in metrics)], rows if metrics else [])


def _quality_table(results: Results) -> Table:
    estimates = results.confidence or {}
    rows = [[Cell(QUALITY_LABELS[name]), Cell(value, f"confidence/{name}")] for name, value in estimates.items()]
    return Table("Quality of the predictions", ["", "value"], rows)


def _cosine_table(results: Results) -> Table:
    rows = []
    if results.cosine:
        rows = [[Cell("mean"), Cell(results.cosine.mean, "cosine/mean")]]
        for level, estimate in results.cosine.quantiles.items():
            rows.append([Cell(f"{float(level):.0%} of queries are below"), Cell(estimate, f"cosine/quantiles/{level}")])
    return Table("Cosine of stored vectors to the native ones", ["", "cosine"], rows)


def _mixed_table(results: Results) -> Table:
    rows = [
        [Cell(name)] + [Cell(estimates[metric], f"mixed/{name}/{metric}") for metric in MIXED_LABELS]
        for name, estimates in (results.mixed or {}).items()
    ]
    return Table("One index, half native and half adapted rows", ["", *MIXED_LABELS.values()], rows)


def _threshold_table(results: Results) -> Table:
    thresholds = results.thresholds or []
    rows = [row for i, threshold in enumerate(thresholds) for row in _threshold_rows(i, threshold)]
    metrics = list(thresholds[0].figures["adapter"]) if thresholds else []
    return Table(
        "All queries, and by minimum confidence", ["confidence", "queries", "", *metrics, "ratio to native"], rows
    )


def _threshold_rows(i: int, threshold: ThresholdRow) -> Iterator[list[Cell]]:
    """A row for each condition; the adapter's, which comes first, shows the threshold and how many queries reach it."""
    if not threshold.queries:
        return
    for condition, estimates in threshold.figures.items():
        start, ratio = [Cell(""), Cell("")], Cell("")
        if condition == "adapter":
            label = f"at least {threshold.confidence:.2f}" if i else "all"
            start = [Cell(label), Cell(f"{threshold.queries:,} ({threshold.share.value:.1%})")]
            if threshold.of_native:
                ratio = Cell(threshold.of_native, f"thresholds/{i}/of_native")
        figures = [Cell(value, f"thresholds/{i}/figures/{condition}/{name}") for name, value in estimates.items()]
        yield [*start, Cell(CONDITION_LABELS[condition]), *figures, ratio]


def _slice_table(name: str, slices: Sequence[Slice], measure: str) -> Table:
    rows = []
    for i, part in enumerate(slices):
        path = f"slices/{name}/{i}"
        row = [Cell(part.label), Cell(f"{part.queries:,}"), Cell(part.score, f"{path}/recall@10")]
        rows.append(row if part.cosine is None else [*row, Cell(part.cosine, f"{path}/cosine")])
    columns = ["", "queries", measure] if slices[0].cosine is None else ["", "queries", measure, "cosine"]
    return Table(f"By {name}", columns, rows)
