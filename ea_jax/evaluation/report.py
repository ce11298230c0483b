"""The report: the results of an evaluation, as a table, as JSON or as a web page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ea_jax.evaluation.results import Results
from ea_jax.evaluation.tables import INTERVALS, Table, cell_text, make_tables

MAX_WORD = 20  # characters; longer words in labels, such as group names that are URLs, are folded

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table as RichTable


@dataclass(frozen=True, eq=False)
class Report(Results):
    """The results of an evaluation, and ways to show them. `Results` describes the attributes."""

    def save_html(self, path: Path) -> None:
        """Write a self-contained web page with charts.

        Raises:
            MissingDependency: matplotlib is not installed.
        """
        from ea_jax.evaluation.html import render_page

        path.write_text(render_page(self), encoding="utf-8")

    def table(self) -> "Group":
        """Return the metrics as tables for a rich console."""
        from rich.console import Group
        from rich.text import Text

        parts: list[Any] = [
            Text(self.verdict),
            Text(f"{self.protocol.name}: {self.protocol.measures}"),
            Text(INTERVALS),
            *map(_rich_table, make_tables(self)),
            *(Text(f"Note: {note}") for note in self.notes),
        ]
        return Group(*parts)


def _rich_table(table: Table) -> "RichTable":
    """A table whose columns are wide enough for each word of their header and for the labels in the first column."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    rows = [[cell_text(cell) for cell in row] for row in table.rows]
    style = {"title_justify": "left", "box": box.SIMPLE_HEAD, "show_edge": False, "padding": (0, 0, 0, 1)}
    rich_table = RichTable(title=f"\n{table.title}", **style)
    for i, name in enumerate(table.header):
        label_words = [word[:MAX_WORD] for row in rows for word in row[0].split()] if i == 0 else []
        width = max(map(len, [*name.split(), *label_words]), default=0)
        rich_table.add_column(name, justify="right" if i else "left", overflow="fold", min_width=width)
    for row in rows:
        rich_table.add_row(*map(Text, row))
    return rich_table
