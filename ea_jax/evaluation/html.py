"""A report as one self-contained page: no network, light and dark, on a phone too."""

import json
from collections.abc import Mapping
from html import escape
from importlib.resources import files
from typing import Any

from ea_jax.evaluation.charts import Chart, charts
from ea_jax.evaluation.tables import READ, Table, shown, tables

OPEN = 2  # sample queries that are unfolded


def page(told: Mapping[str, Any]) -> str:
    """The page of a report as plain values; it holds them as JSON, but for those of single queries. Text is escaped."""
    data, adapter = told["data"], told["adapter"]
    way = f"{adapter['source']} to {adapter['target']}"
    size = f"{data['queries']:,} queries, {data['corpus']:,} corpus rows, seed {data['seed']}"
    kept = {name: part for name, part in told.items() if name != "per_query"}
    embedded = json.dumps(kept, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    notes = "".join(f"<li>{escape(note)}</li>" for note in told["notes"])
    style = files("ea_jax.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><title>{escape(way)}</title><style>{style}</style></head><body>
<header><p class="way">{escape(way)}</p><h1 id="verdict">{escape(told["verdict"])}</h1>
<div class="tiles">{"".join(_tile(*tile) for tile in _tiles(told))}</div>
<p><b>{escape(told["protocol"]["name"])}</b> on {size}. {escape(told["protocol"]["measures"])} {READ}</p>
<ul>{notes}</ul></header>
<main><section class="charts">{"".join(map(_figure, charts(told)))}</section>
{_neighbours(told["neighbours"])}
{"".join(map(_table, tables(told)))}</main>
<script type="application/json" id="report">{embedded}</script>
</body></html>
"""


def _tiles(told: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    """The figures that matter most: what they are, where they are in the JSON, and their values."""
    measure, conditions = told["measure"], told["conditions"]
    tiles = [(f"{measure}, adapter", f"conditions/adapter/{measure}", conditions["adapter"][measure])]
    for name, label in (("keep_source", "keeping the source model"), ("native", "native")):
        if name in conditions and not (name == "native" and measure.startswith("recall")):
            tiles.append((f"{measure}, {label}", f"conditions/{name}/{measure}", conditions[name][measure]))
    if told["cosine"]:
        tiles.append(("mean cosine to native", "cosine/mean", told["cosine"]["mean"]))
    if told["confidence"]:
        tiles.append(("calibration error", "confidence/ece", told["confidence"]["ece"]))
    return tiles


def _tile(label: str, path: str, figure: Any) -> str:
    return f"<div><span>{escape(label)}</span>{_value(figure, path)}</div>"


def _figure(chart: Chart) -> str:
    caption = f"<figcaption><b>{escape(chart.title)}</b><br>{escape(chart.note)}</figcaption>"
    return f"<figure>{caption}{chart.svg}</figure>"


def _table(table: Table) -> str:
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.head)
    body = "".join("<tr>" + "".join(f"<td>{_cell(*cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    inside = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return (
        f'<section><h2>{escape(table.title)}</h2><div class="wide" tabindex="0" role="region" '
        f'aria-label="{escape(table.title, quote=True)}">{inside}</div></section>'
    )


def _cell(value: Any, path: str) -> str:
    return escape(value) if isinstance(value, str) else _value(value, path)


def _value(figure: Any, path: str) -> str:
    """A figure and its interval, which say where in the JSON they are."""
    value, _, interval = shown(figure).partition(" ")
    return f'<span data-figure="{escape(path, quote=True)}"><b>{value}</b> <small>{interval}</small></span>'


def _neighbours(samples: list[Any]) -> str:
    if not samples:
        return ""

    def side(name: str, rows: list[Any]) -> str:
        told = (f"<mark>✓ {escape(r['text'])}</mark>" if r["both"] else escape(r["text"]) for r in rows)
        return f"<div><b>{name}</b><ol>{''.join(f'<li>{text}</li>' for text in told)}</ol></div>"

    told = "".join(
        f"<details{' open' if i < OPEN else ''}><summary>{escape(s['query'])}</summary><div class='sides'>"
        f"{side('native finds', s['native'])}{side('the adapter finds', s['adapter'])}</div></details>"
        for i, s in enumerate(samples)
    )
    return f"<section><h2>Nearest neighbours of some queries</h2><p>✓ marks what both find.</p>{told}</section>"
