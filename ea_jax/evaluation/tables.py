"""The rows of a report's tables, for the terminal and the page alike."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

READ = "In brackets: 95 % bootstrap intervals over the queries. Those of a handful of queries are too short."
LABELS = {
    "adapter": "adapter (query) to native corpus",
    "adapter_store": "adapter (store) to native corpus",
    "adapter_to_adapter": "adapter to adapter",
    "native": "native to native",
    "keep_source": "keep the source model",
    "naive_swap": "naive swap",
    "mean_vector": "mean vector",
}
AGREEMENT = ("recall@1", "recall@5", "recall@10", "overlap@10", "rank_correlation")
ANSWERS = ("found@1", "found@5", "found@10", "judged_recall@10", "ndcg@10", "mrr")
FORECASTS = {
    "ece": "calibration error of the confidence (smaller is better)",
    "aurc": "area under the risk-coverage curve (smaller is better)",
    "spearman": "rank correlation of the expected cosine",
    "auroc_worst_tenth": "AUROC of finding the worst tenth of cosines",
    "coverage": "cosines above their lower bound (ought to be .9)",
}
MIXED = {
    "adapted_share": "adapted among the first ten",
    "recall@10": "recall@10",
    "recall@10_of_native_rows": "where the row is native",
    "recall@10_of_adapted_rows": "where it is adapted",
}
Cell = tuple[Any, str]  # what is shown, and where it is in the JSON


class Table(NamedTuple):
    """A title, the names of the columns, and rows of cells; each figure with its path in the JSON."""

    title: str
    head: list[str]
    rows: list[list[Cell]]


def shown(figure: Mapping[str, float | None]) -> str:
    """A figure for people."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    return "" if value is None else f"{value:.3f}" + ("" if low is None else f" ({low:.3f}, {high:.3f})")


def tables(told: Mapping[str, Any]) -> list[Table]:
    """Each table of a report that has rows."""
    found = [
        _found("Agreement with native queries on the native corpus", AGREEMENT, told["conditions"]),
        _found("Answers found, by the judgments", ANSWERS, told["conditions"]),
    ]
    if told["protocol"]["name"] == "qa":
        found.reverse()
    made = [*found, _forecasts(told), _cosine(told), _mixed(told), _thresholds(told), *_slices(told)]
    return [table for table in made if table.rows]


def _found(title: str, columns: tuple[str, ...], conditions: Mapping[str, Any]) -> Table:
    names = [name for name in columns if name in conditions["adapter"]]
    rows = [[(LABELS[c], "")] + [(f[n], f"conditions/{c}/{n}") for n in names] for c, f in conditions.items()]
    return Table(title, ["", *(name.replace("_", " ") for name in names)], rows if names else [])


def _forecasts(told: Mapping[str, Any]) -> Table:
    figures = told["confidence"] or {}
    rows = [[(FORECASTS[name], ""), (figure, f"confidence/{name}")] for name, figure in figures.items()]
    return Table("How good the forecasts are", ["", "value"], rows)


def _cosine(told: Mapping[str, Any]) -> Table:
    head = ["", "cosine"]
    if not told["cosine"]:
        return Table("", head, [])
    rows: list[list[Cell]] = [[("mean", ""), (told["cosine"]["mean"], "cosine/mean")]]
    for at, figure in told["cosine"]["quantiles"].items():
        rows.append([(f"{float(at):.0%} of queries are below", ""), (figure, f"cosine/quantiles/{at}")])
    return Table("Cosine of stored vectors to the native ones", head, rows)


def _mixed(told: Mapping[str, Any]) -> Table:
    mixed = told["mixed"] or {}
    rows = [[(n, "")] + [(f[h], f"mixed/{n}/{h}") for h in MIXED] for n, f in mixed.items()]
    return Table("One index, half native and half adapted rows", ["", *MIXED.values()], rows)


def _thresholds(told: Mapping[str, Any]) -> Table:
    rows = [row for i, level in enumerate(told["thresholds"] or []) for row in _level(i, level)]
    names = list(told["thresholds"][0]["figures"]["adapter"]) if rows else []
    head = ["confidence", "queries", "", *names, "of what native finds"]
    return Table("Unfiltered, and filtered by confidence", head, rows)


def _level(i: int, level: Mapping[str, Any]) -> Iterator[list[Cell]]:
    """One threshold: a row a condition, the first with how much is kept."""
    if not level["queries"]:
        return
    for condition, figures in level["figures"].items():
        where = f"thresholds/{i}"
        first: list[Cell] = [("", "")] * 2
        ratio: Cell = ("", "")
        if condition == "adapter":
            said = f"at least {level['confidence']:.2f}" if i else "unfiltered"
            first = [(said, ""), (f"{level['queries']:,} ({level['kept']['value']:.1%})", "")]
            ratio = (level["of_native"], f"{where}/of_native") if level.get("of_native") else ratio
        found = [(figure, f"{where}/figures/{condition}/{name}") for name, figure in figures.items()]
        yield [*first, (LABELS[condition], ""), *found, ratio]


def _slices(told: Mapping[str, Any]) -> Iterator[Table]:
    for name, parts in told["slices"].items():
        heads = [h for h in ("recall@10", "cosine") if h in parts[0]]
        rows = [
            [(p["label"], ""), (f"{p['queries']:,}", "")] + [(p[h], f"slices/{name}/{i}/{h}") for h in heads]
            for i, p in enumerate(parts)
        ]
        yield Table(f"By {name}", ["", "queries", *(h.replace("recall@10", told["measure"]) for h in heads)], rows)
