"""The charts of a report as SVG for inside a page: matplotlib draws, the page's style sheet colours."""

import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from ea_jax.errors import BadInput

INK, FIRST, SECOND, FAINT = "#010203", "#040506", "#070809", "#0a0b0c"  # what the style sheet's colours replace
COLOURS = {INK: "var(--ink)", FIRST: "var(--first)", SECOND: "var(--second)", FAINT: "var(--faint)"}
SIZE = (4.4, 3.0)  # inches: text stays readable where it fills a phone
KS = (1, 5, 10)


def charts(told: Mapping[str, Any]) -> dict[str, str]:
    """By title, each chart that the report has figures for.

    Raises:
        BadInput: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BadInput("Charts are drawn by matplotlib: pip install 'ea_jax[report]'.") from error
    draw = {
        "Cosine to the native vectors": (_cosine, told["cosine"]),
        "Recall against k": (_recall, told["conditions"]),
        "Reliability of the confidence": (_reliability, told["reliability"]),
        "Recall by share kept with the adapter": (_routing, told["routing"]),
        "Recall by group": (_groups, told["slices"].get("group")),
        "Native and adapted vectors, first two principal directions": (_projection, told["projection"]),
    }
    style: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "text.color": INK}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "ea_jax"}
    made = {}
    for title, (chart, part) in draw.items():
        if not part:
            continue
        with mpl.rc_context(style):
            figure = Figure(figsize=SIZE, layout="constrained")
            figure.patch.set_alpha(0)
            axes = figure.subplots()
            axes.patch.set_alpha(0)
            chart(axes, part, told["measure"])
            made[title] = _inline(figure, title, len(made))
    return made


def _inline(figure: Any, title: str, number: int) -> str:
    """The drawing with the style sheet's colours, ids of its own and a name for those who do not see it."""
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    for drawn, named in COLOURS.items():
        svg = svg.replace(drawn, named)
    svg = re.sub(r'\bid="', f'id="c{number}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>c{number}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _interval(
    axes: Any, at: Sequence[float | int], figures: list[Any], label: str, colour: str, line: str = "-"
) -> None:
    value = [f["value"] for f in figures]
    axes.plot(at, value, color=colour, ls=line, marker="o", ms=3, label=label)
    low, high = ([f[side] for f in figures] for side in ("low", "high"))
    axes.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)


def _cosine(axes: Any, part: Any, _: str) -> None:
    axes.stairs(part["counts"], part["edges"], fill=True, color=FIRST)
    axes.axvline(part["mean"]["value"], color=INK, ls="--", lw=1)
    axes.set(xlabel="cosine (dashed: mean)", ylabel="queries")


def _recall(axes: Any, part: Any, measure: str) -> None:
    kind = measure.partition("@")[0]
    lines = {"adapter": ("adapter", FIRST, "-"), "keep_source": ("keep the source", SECOND, "--")}
    lines |= {"native": ("native", INK, ":")} if kind == "found" else {}
    for name, (label, colour, line) in lines.items():
        if name in part:
            _interval(axes, list(KS), [part[name][f"{kind}@{k}"] for k in KS], label, colour, line)
    axes.set(xlabel="k", ylabel=f"{kind}@k", xticks=KS, ylim=(0, 1.02))
    axes.legend()


def _reliability(axes: Any, part: Any, measure: str) -> None:
    _interval(axes, [p["said"] for p in part], [p["recall@10"] for p in part], "came true", FIRST)
    axes.plot([0, 1], [0, 1], color=INK, ls=":", lw=1, label="as said")
    axes.set(xlabel="confidence", ylabel=measure, xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()


def _routing(axes: Any, part: Any, measure: str) -> None:
    kept = [p["kept"] for p in part]
    _interval(axes, kept, [p["recall@10"] for p in part], "by confidence", FIRST)
    axes.plot(kept, [p["random"] for p in part], color=SECOND, ls="--", label="at random")
    axes.set(xlabel="share kept; the others are asked natively", ylabel=measure)
    axes.legend()


def _groups(axes: Any, part: Any, measure: str) -> None:
    part = [p for p in part if p["recall@10"]["value"] is not None][::-1]
    figures = [p["recall@10"] for p in part]
    value = [f["value"] for f in figures]
    away = [[f["value"] - f["low"] for f in figures], [f["high"] - f["value"] for f in figures]]
    axes.barh(range(len(part)), value, xerr=away, color=FIRST, ecolor=INK)
    names = [p["label"] if len(p["label"]) <= 18 else p["label"][:17] + "…" for p in part]
    axes.set_yticks(range(len(part)), [name.replace("$", r"\$") for name in names])
    axes.set(xlabel=measure, xlim=(0, 1.02))


def _projection(axes: Any, part: Any, _: str) -> None:
    for name, colour, mark in (("native", SECOND, "x"), ("adapted", FIRST, "o")):
        axes.plot(*zip(*part[name], strict=True), ls="", marker=mark, ms=3, color=colour, alpha=0.7, label=name)
    axes.set(xlabel=f"{part['explained']:.0%} of the native variance", xticks=[], yticks=[])
    axes.legend()
