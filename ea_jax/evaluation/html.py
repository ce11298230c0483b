"""The web page of a report: one file without network access, for light and dark mode, phones and desktops."""

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ea_jax.evaluation.bootstrap import Estimate
from ea_jax.evaluation.charts import Chart, make_charts
from ea_jax.evaluation.results import Example, Neighbor, Results
from ea_jax.evaluation.tables import INTERVALS, Cell, Table, cell_text, make_tables

OPEN_EXAMPLES = 2  # example queries whose results are unfolded


def render_page(results: Results) -> str:
    """Render the page. It embeds the results as JSON, without their values per query."""
    models = f"{results.adapter.source} to {results.adapter.target}"
    data = results.data
    size = f"{data.queries:,} queries, {data.corpus:,} corpus rows, seed {data.seed}"
    summary = {name: section for name, section in results.as_dict().items() if name != "per_query"}
    embedded = json.dumps(summary, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    notes = "".join(f"<li>{escape(note)}</li>" for note in results.notes)
    style = files("ea_jax.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><title>{escape(models)}</title><style>{style}</style></head><body>
<header><p class="models">{escape(models)}</p><h1 id="verdict">{escape(results.verdict)}</h1>
<div class="tiles">{"".join(_tile(*tile) for tile in _tiles(results))}</div>
<p><b>{escape(results.protocol.name)}</b> on {size}. {escape(results.protocol.measures)} {INTERVALS}</p>
<ul>{notes}</ul></header>
<main><section class="charts">{"".join(map(_figure, make_charts(results)))}</section>
{_examples(results.neighbors)}
{"".join(map(_table, make_tables(results)))}</main>
<script type="application/json" id="report">{embedded}</script>
</body></html>
"""


def _tiles(results: Results) -> list[tuple[str, Cell]]:
    """The most important metrics, with their labels."""
    measure, conditions = results.measure, results.conditions
    labels = {"adapter": "adapter", "keep_source": "keeping the source model"}
    if not measure.startswith("recall"):  # the recall of native queries is 1 by definition
        labels["native"] = "native"
    tiles = [
        (f"{measure}, {label}", Cell(conditions[name][measure], f"conditions/{name}/{measure}"))
        for name, label in labels.items()
        if name in conditions
    ]
    if results.cosine:
        tiles.append(("mean cosine to native", Cell(results.cosine.mean, "cosine/mean")))
    if results.confidence:
        tiles.append(("calibration error", Cell(results.confidence["ece"], "confidence/ece")))
    return tiles


def _tile(label: str, cell: Cell) -> str:
    return f"<div><span>{escape(label)}</span>{_cell(cell)}</div>"


def _figure(chart: Chart) -> str:
    caption = f"<figcaption><b>{escape(chart.title)}</b><br>{escape(chart.note)}</figcaption>"
    return f"<figure>{caption}{chart.svg}</figure>"


def _table(table: Table) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="wide" tabindex="0" role="region" '
        f'aria-label="{escape(table.title, quote=True)}"><table><thead><tr>{header}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _cell(cell: Cell) -> str:
    """Escaped text, or an estimate in an element that names its path in the JSON."""
    text = cell_text(cell)
    if not isinstance(cell.content, Estimate):
        return escape(text)
    value, _, interval = text.partition(" ")
    return f'<span data-figure="{escape(cell.path, quote=True)}"><b>{value}</b> <small>{interval}</small></span>'


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    details = "".join(
        f"<details{' open' if i < OPEN_EXAMPLES else ''}><summary>{escape(example.query)}</summary>"
        f"<div class='sides'>{_results('native query', example.native)}{_results('adapter', example.adapter)}</div>"
        "</details>"
        for i, example in enumerate(examples)
    )
    return f"<section><h2>Results of some queries</h2><p>✓ marks results of both.</p>{details}</section>"


def _results(title: str, neighbors: Sequence[Neighbor]) -> str:
    texts = (f"<mark>✓ {escape(n.text)}</mark>" if n.both else escape(n.text) for n in neighbors)
    return f"<div><b>{title}</b><ol>{''.join(f'<li>{text}</li>' for text in texts)}</ol></div>"
