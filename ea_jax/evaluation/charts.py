"""The charts of a report as SVG for inside a page: matplotlib draws, the page's style sheet colours."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple

from ea_jax.errors import MissingDependency
from ea_jax.retrieval.metrics import KS

INK, FIRST, SECOND = "#010203", "#040506", "#070809"  # what the style sheet's colours replace
COLOURS = {INK: "var(--ink)", FIRST: "var(--first)", SECOND: "var(--second)"}
WIDTH, HEIGHT, LINE = 3.7, 2.7, 0.2  # inches: text stays readable where a chart fills a phone
BAND = 0.25  # opacity; its edges are drawn solid, so that it is seen by all
NAME = 20  # characters of a group


class Chart(NamedTuple):
    """A chart: its title, how to read it, and the drawing."""

    title: str
    note: str
    svg: str


def charts(told: Mapping[str, Any]) -> list[Chart]:
    """Each chart that the report has figures for.

    Raises:
        BadInput: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingDependency("Charts are drawn by matplotlib: pip install 'ea_jax[report]'.") from error
    measure = told["measure"]
    drawn: list[tuple[str, str, Callable[..., None], Any]] = [
        (
            "Recall against k",
            f"{measure.partition('@')[0]}@k by who asks; bars are 95 % intervals.",
            _recall,
            told["conditions"],
        ),
        (
            "Cosine to the native vectors",
            "Of stored vectors, a query each. Dashed: the mean.",
            _cosine,
            told["cosine"],
        ),
        (
            "Reliability of the confidence",
            "By tenth of the confidence. On the dotted line, what was said came true.",
            _reliability,
            told["reliability"],
        ),
        (
            "Routing",
            f"{measure} if only that share is kept with the adapter, and the others are asked natively. The oracle "
            "knows which lose nothing.",
            _routing,
            told["routing"],
        ),
        (
            "Both clouds in two dimensions",
            "Native and adapted vectors on the two leading directions of the native ones.",
            _projection,
            told["projection"],
        ),
        ("Recall by group", f"{measure}, the largest groups first.", _groups, told["slices"].get("group")),
    ]
    style: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": INK}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "ea_jax"}
    with mpl.rc_context(style):
        return [
            Chart(title, note, _svg(chart, part, measure, title, number))
            for number, (title, note, chart, part) in enumerate(drawn)
            if part
        ]


def _svg(chart: Callable[..., None], part: Any, measure: str, title: str, number: int) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    chart(axes, part, measure)
    return _inline(figure, title, number)


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


def _away(figures: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """How far the ends of intervals are from their figures, which rounding may put outside."""
    return [[max(0.0, sign * (f[side] - f["value"])) for f in figures] for side, sign in (("low", -1), ("high", 1))]


def _bars(axes: Any, at: Sequence[float], figures: Sequence[Any], label: str, colour: str, line: str) -> None:
    value = [f["value"] for f in figures]
    axes.errorbar(
        at, value, _away(figures), color=colour, ls=line, lw=1.5, marker="o", ms=4, capsize=3, elinewidth=1, label=label
    )


def _band(axes: Any, at: Sequence[float], figures: Sequence[Any], label: str, colour: str) -> None:
    axes.plot(at, [f["value"] for f in figures], color=colour, lw=2, label=label)
    low, high = ([f[side] for f in figures] for side in ("low", "high"))
    axes.fill_between(at, low, high, color=colour, alpha=BAND, lw=0, gid="band")
    for edge in (low, high):
        axes.plot(at, edge, color=colour, lw=0.8)


def _recall(axes: Any, part: Any, measure: str) -> None:
    kind = measure.partition("@")[0]
    lines = {"adapter": ("adapter", FIRST, "-", -0.12), "keep_source": ("keep the source model", SECOND, "--", 0.12)}
    lines |= {"native": ("native", INK, ":", 0.0)} if kind == "found" else {}
    for name, (label, colour, line, aside) in lines.items():
        if name in part:
            _bars(axes, [k + aside for k in KS], [part[name][f"{kind}@{k}"] for k in KS], label, colour, line)
    axes.set(xlabel="k", ylabel=f"{kind}@k", xticks=KS, ylim=(0, 1.02))
    axes.legend(loc="best")


def _cosine(axes: Any, part: Any, _: str) -> None:
    axes.stairs(part["counts"], part["edges"], fill=True, color=FIRST, alpha=BAND, gid="band")
    axes.stairs(part["counts"], part["edges"], color=FIRST, lw=1.2)
    axes.axvline(part["mean"]["value"], color=INK, ls="--", lw=1.2)
    axes.set(xlabel="cosine", ylabel="queries")


def _reliability(axes: Any, part: Any, measure: str) -> None:
    axes.plot([0, 1], [0, 1], color=INK, ls=":", lw=1.2, label="as said")
    _bars(axes, [p["said"] for p in part], [p["recall@10"] for p in part], "came true", FIRST, "-")
    axes.set(xlabel="confidence", ylabel=measure, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="best")


def _routing(axes: Any, part: Any, measure: str) -> None:
    kept = [p["kept"] for p in part]
    axes.plot(kept, [p["oracle"]["value"] for p in part], color=INK, ls=":", lw=1.5, label="oracle")
    _band(axes, kept, [p["recall@10"] for p in part], "by confidence", FIRST)
    axes.plot(kept, [p["random"]["value"] for p in part], color=SECOND, ls="--", lw=1.5, label="at random")
    axes.set(xlabel="share kept with the adapter", ylabel=measure)
    axes.legend(loc="best")


def _groups(axes: Any, part: Any, measure: str) -> None:
    part = [p for p in part if p["recall@10"]["value"] is not None][::-1]
    axes.figure.set_figheight(max(HEIGHT, 0.7 + LINE * len(part)))
    figures = [p["recall@10"] for p in part]
    value = [f["value"] for f in figures]
    axes.errorbar(value, range(len(part)), xerr=_away(figures), color=FIRST, ls="", marker="o", ms=4, capsize=2)
    names = [p["label"] if len(p["label"]) <= NAME else p["label"][: NAME - 1] + "…" for p in part]
    axes.set_yticks(range(len(part)), [name.replace("$", r"\$") for name in names])
    axes.set(xlabel=measure, xlim=(-0.02, 1.02))


def _projection(axes: Any, part: Any, _: str) -> None:
    for name, colour, mark in (("native", SECOND, "x"), ("adapted", FIRST, "o")):
        axes.plot(*zip(*part[name], strict=True), ls="", marker=mark, ms=2.5, mew=0.8, color=colour, label=name)
    axes.set(xlabel=f"{part['explained']:.0%} of the native variance", xticks=[], yticks=[])
    axes.legend(loc="best", markerscale=2)
