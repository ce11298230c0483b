"""The report: every figure of an evaluation, as a table, as JSON and as a page."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_jax.bootstrap import Figure

if TYPE_CHECKING:
    from rich.console import Group

LABELS = {
    "adapter": "adapter (query) to native corpus",
    "adapter_store": "adapter (store) to native corpus",
    "adapter_to_adapter": "adapter to adapter",
    "native": "native to native",
    "keep_source": "keep the source model",
    "naive_swap": "naive swap",
    "mean_vector": "mean vector",
}
COLUMNS = ("recall@1", "recall@5", "recall@10", "overlap@10", "rank_correlation", "found@1", "found@5", "found@10")
COLUMNS += ("judged_recall@10", "ndcg@10", "mrr")


@dataclass(frozen=True)
class Report:
    """What an evaluation found; a figure is its value with its 95 % interval. Sections that do not apply are None.

    Attributes:
        adapter: Which one.
        protocol: Its name, and what it measures.
        data: How many queries and corpus rows, and how many of these are equal to earlier ones.
        notes: How the trial was made, and what was corrected.
        verdict: One sentence.
        cosine: Mean and distribution of the cosine to native vectors.
        conditions: By condition, its figures.
        mixed: By kind of query, what an index of both kinds of rows gives.
        slices: By length, group and confidence.
        neighbours: Sample queries with what is found.
        projection: Both clouds in two dimensions.
        per_query: The adapter's values of every query, for `compare`.
        measure: Which figure the slices and the confidence are about.
        confidence: Figures of the quality part.
        reliability: By tenth of the confidence.
        routing: By share kept.
        thresholds: By least confidence.
    """

    adapter: Mapping[str, str]
    protocol: Mapping[str, str]
    data: Mapping[str, int]
    notes: tuple[str, ...]
    verdict: str
    cosine: Mapping[str, Any] | None
    conditions: Mapping[str, Mapping[str, Figure]]
    mixed: Mapping[str, Mapping[str, Figure]] | None
    slices: Mapping[str, Any]
    neighbours: list[Any]
    projection: Mapping[str, Any] | None
    per_query: Mapping[str, list[float]]
    measure: str
    confidence: Mapping[str, Figure] | None = None
    reliability: list[Any] | None = None
    routing: list[Any] | None = None
    thresholds: list[Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values: a figure is `{value, low, high}`, and one that is not a number is None."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)

    def save_html(self, path: Path) -> None:
        """Write one self-contained page.

        Raises:
            BadInput: matplotlib, which draws the charts, is not installed.
        """
        from ea_jax.evaluation.page import page

        path.write_text(page(self.as_dict()), encoding="utf-8")

    def table(self) -> "Group":
        """The figures as tables for a rich console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        told = self.as_dict()
        parts: list[Any] = [Text(self.verdict), Text(f"{self.protocol['name']}: {self.protocol['measures']}")]
        for title, head, rows in tables(told):
            table = Table(title=title, title_justify="left")
            for i, name in enumerate(head):
                table.add_column(name, justify="right" if i else "left")
            for row in rows:
                table.add_row(*(Text(cell if isinstance(cell, str) else shown(cell)) for cell, _ in row))
            parts.append(table)
        return Group(*parts, *(Text(f"Note: {note}") for note in self.notes))


def _plain(value: Any) -> Any:
    if isinstance(value, Figure):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def shown(figure: Mapping[str, float | None]) -> str:
    """A figure for people."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    return "" if value is None else f"{value:.3f}" + ("" if low is None else f" ({low:.3f}, {high:.3f})")


Cell = tuple[Any, str]  # what is shown, and where it is in the JSON


def tables(told: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[Cell]]]]:
    """Title, head and rows of each table of a report; every cell with its path in the JSON, if it is a figure."""
    found = []
    names = [name for name in COLUMNS if name in told["conditions"]["adapter"]]
    rows = [[(LABELS[c], "")] + [(f[n], f"conditions/{c}/{n}") for n in names] for c, f in told["conditions"].items()]
    found.append(("What is found", ["", *names], rows))
    single = [("mean cosine", told["cosine"]["mean"], "cosine/mean")] if told["cosine"] else []
    single += [(name, figure, f"confidence/{name}") for name, figure in (told["confidence"] or {}).items()]
    found.append(("Vectors and confidence", ["", "value"], [[(n, ""), (f, p)] for n, f, p in single]))
    if told["mixed"]:
        heads = list(next(iter(told["mixed"].values())))
        rows = [[(n, "")] + [(f[h], f"mixed/{n}/{h}") for h in heads] for n, f in told["mixed"].items()]
        found.append(("Half native, half adapted rows in one index", ["", *heads], rows))
    if told["thresholds"]:
        heads = list(told["thresholds"][0]["recall@10"])
        rows = [
            [(f"{r['confidence']:.2f}" if i else "unfiltered", ""), (f"{r['kept']:.1%}", "")]
            + [(r["recall@10"][h], f"thresholds/{i}/recall@10/{h}") for h in heads]
            for i, r in enumerate(told["thresholds"])
        ]
        title = f"By least confidence: {told['measure']}"
        found.append((title, ["confidence", "kept", *(LABELS[h] for h in heads)], rows))
    for name, parts in told["slices"].items():
        heads = [h for h in ("recall@10", "cosine") if h in parts[0]]
        rows = [
            [(p["label"], ""), (f"{p['queries']:,}", "")] + [(p[h], f"slices/{name}/{i}/{h}") for h in heads]
            for i, p in enumerate(parts)
        ]
        found.append((f"By {name}", ["", "queries", *(h.replace("recall@10", told["measure"]) for h in heads)], rows))
    return [table for table in found if table[2]]
