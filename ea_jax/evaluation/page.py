"""A report as one self-contained page: no network, light and dark, on a phone too."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from ea_jax.evaluation.charts import charts
from ea_jax.evaluation.report import shown, tables

STYLE = """
:root{color-scheme:light dark;
--paper:#fff;--ink:#1a1a1a;--first:#0059a3;--second:#a34700;--faint:#6b6b6b;--mark:#e3eefa}
@media(prefers-color-scheme:dark){:root{--paper:#14161a;--ink:#ececec;--first:#6fb7ff;--second:#ffab66;
--faint:#a6a6a6;--mark:#1f3550}}
*{box-sizing:border-box}
body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:72rem;
padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.3rem;line-height:1.35}h2{font-size:1.1rem;margin-top:2rem}
.charts{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
figure{margin:0}figcaption{font-weight:600}svg{display:block;width:100%;height:auto}svg text{fill:var(--ink)!important}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{border-bottom:1px solid var(--faint);padding:.3rem .6rem;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
.sides{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,18rem),1fr))}
mark{background:var(--mark);color:var(--ink)}
"""


def page(told: Mapping[str, Any]) -> str:
    """The page of a report as plain values; they are in it whole, as JSON. Every text is escaped."""
    drawn = "".join(
        f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in charts(told).items()
    )
    data, adapter = told["data"], told["adapter"]
    what = f"{adapter['source']} to {adapter['target']}: {data['queries']:,} queries, {data['corpus']:,} corpus rows."
    notes = "".join(f"<li>{escape(note)}</li>" for note in told["notes"])
    embedded = json.dumps(told, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,"><title>{escape(what)}</title><style>{STYLE}</style></head><body>
<header><h1 id="verdict">{escape(told["verdict"])}</h1>
<p>{escape(what)}</p><p><b>{escape(told["protocol"]["name"])}</b>: {escape(told["protocol"]["measures"])}
In brackets: 95 % bootstrap intervals over queries.</p><ul>{notes}</ul></header>
<main><section class="charts">{drawn}</section>
{"".join(_table(*table) for table in tables(told))}
{_neighbours(told["neighbours"])}</main>
<script type="application/json" id="report">{embedded}</script>
</body></html>
"""


def _table(title: str, head: list[str], rows: list[list[tuple[Any, str]]]) -> str:
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(_cell(*cell) for cell in row) + "</tr>" for row in rows)
    table = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<section><h2>{escape(title)}</h2><div class="wide" tabindex="0">{table}</div></section>'


def _cell(value: Any, path: str) -> str:
    """A figure says where in the JSON it is."""
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td data-figure="{escape(path, quote=True)}">{escape(shown(value))}</td>'


def _neighbours(samples: list[Any]) -> str:
    if not samples:
        return ""

    def side(name: str, rows: list[Any]) -> str:
        marked = (f"<mark>{escape(r['text'])}</mark>" if r["both"] else escape(r["text"]) for r in rows)
        return f"<div><b>{name}</b><ol>{''.join(f'<li>{text}</li>' for text in marked)}</ol></div>"

    told = "".join(
        f"<details open><summary>{escape(s['query'])}</summary>"
        f'<div class="sides">{side("native", s["native"])}{side("adapter", s["adapter"])}</div></details>'
        for s in samples
    )
    return f"<section><h2>Nearest neighbours: those that both find are marked</h2>{told}</section>"
