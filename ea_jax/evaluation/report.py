"""The report: every figure of an evaluation, as a table, as JSON and as a page."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_jax.evaluation.bootstrap import Figure
from ea_jax.evaluation.tables import READ, shown, tables

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class Report:
    """What an evaluation found; a figure is its value with its 95 % interval. Sections that do not apply are None.

    Attributes:
        adapter: Which one.
        protocol: Its name, and what it measures.
        data: How many queries and corpus rows, how many of these are equal to earlier ones, and a digest of both.
        notes: How the trial was made, and what was corrected.
        verdict: One sentence.
        cosine: Mean and distribution of the cosine to native vectors.
        conditions: By condition, its figures.
        mixed: By kind of query, what an index of both kinds of rows gives.
        slices: By length, group and confidence.
        neighbours: Sample queries with what is found.
        projection: Both clouds in two dimensions.
        per_query: By condition of the adapter, its values of every query, and what was forecast of it: for `compare`.
        measure: Which figure the slices and the confidence are about.
        confidence: Figures of the quality part.
        reliability: By tenth of the confidence.
        routing: By share kept.
        thresholds: By least confidence.
    """

    adapter: Mapping[str, str]
    protocol: Mapping[str, str]
    data: Mapping[str, Any]
    notes: tuple[str, ...]
    verdict: str
    cosine: Mapping[str, Any] | None
    conditions: Mapping[str, Mapping[str, Figure]]
    mixed: Mapping[str, Mapping[str, Figure]] | None
    slices: Mapping[str, Any]
    neighbours: list[Any]
    projection: Mapping[str, Any] | None
    per_query: Mapping[str, Mapping[str, list[float]]]
    measure: str
    confidence: Mapping[str, Figure] | None = None
    reliability: list[Any] | None = None
    routing: list[Any] | None = None
    thresholds: list[Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values: a figure is `{value, low, high}`, and one that is not a number is None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}

    def to_json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(self.as_dict(), ensure_ascii=False, allow_nan=False)

    def save_html(self, path: Path) -> None:
        """Write one self-contained page.

        Raises:
            BadInput: matplotlib, which draws the charts, is not installed.
        """
        from ea_jax.evaluation.html import page

        path.write_text(page(self.as_dict()), encoding="utf-8")

    def table(self) -> "Group":
        """The figures as tables for a rich console."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        told = self.as_dict()
        parts: list[Any] = [
            Text(self.verdict),
            Text(f"{self.protocol['name']}: {self.protocol['measures']}"),
            Text(READ),
        ]
        for title, head, rows in tables(told):
            table = Table(title=title, title_justify="left")
            written = [[cell if isinstance(cell, str) else shown(cell) for cell, _ in row] for row in rows]
            longest = max(len(word) for row in [head, *written] for word in row[0].split() or [""])
            for i, name in enumerate(head):
                table.add_column(
                    name, justify="right" if i else "left", overflow="fold", min_width=None if i else longest
                )
            for row in written:
                table.add_row(*map(Text, row))
            parts.append(table)
        return Group(*parts, *(Text(f"Note: {note}") for note in self.notes))


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Figure):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
