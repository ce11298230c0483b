"""The charts of a report, as inline SVG: matplotlib draws them, and the style sheet of the page sets their colors."""

import math
import re
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any, NamedTuple

from ea_jax.errors import MissingDependency
from ea_jax.evaluation.bootstrap import Estimate
from ea_jax.evaluation.results import CosineDistribution, Projection, ReliabilityBin, Results, RoutingPoint, Slice
from ea_jax.retrieval.metrics import KS

INK, FIRST, SECOND = "#010203", "#040506", "#070809"  # placeholders that the SVG text is searched for
CSS_COLORS = {INK: "var(--ink)", FIRST: "var(--first)", SECOND: "var(--second)"}
WIDTH, HEIGHT, ROW_HEIGHT = 3.7, 2.7, 0.2  # inches: text stays readable when a chart fills a phone screen
BAND_OPACITY = 0.25  # too faint for some readers, so a band also has solid edges
MAX_NAME = 20  # characters of a group name
Draw = Callable[[Any], None]  # takes the axes of matplotlib


class Chart(NamedTuple):
    """A chart: its title, an explanation, and its SVG."""

    title: str
    note: str
    svg: str


def make_charts(results: Results) -> list[Chart]:
    """Make the charts that the results have data for.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingDependency("Charts need matplotlib: pip install 'ea_jax[report]'.") from error
    style: dict[Any, Any] = {"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9.5, "text.color": INK}
    style |= dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK)
    style |= {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "svg.hashsalt": "ea_jax"}
    with mpl.rc_context(style):
        return [
            Chart(title, note, _draw_svg(draw, title, number))
            for number, (title, note, draw) in enumerate(_chart_list(results))
        ]


def _chart_list(results: Results) -> list[tuple[str, str, Draw]]:
    """Title, explanation and drawing function of each chart."""
    measure, metric = results.measure, results.measure.partition("@")[0]
    charts: list[tuple[str, str, Draw]] = [
        (
            f"{metric.capitalize()} by k",
            f"{metric}@k by type of query; bars are 95 % intervals.",
            lambda axes: _draw_conditions(axes, results, metric),
        )
    ]
    if cosine := results.cosine:
        note = "Cosine between stored and native vector of each query. Dashed: the mean."
        charts.append(("Cosine to the native vectors", note, lambda axes: _draw_cosine(axes, cosine)))
    if reliability := results.reliability:
        note = "By tenth of the confidence. Perfectly calibrated confidence lies on the dotted line."
        charts.append(
            ("Reliability of the confidence", note, lambda axes: _draw_reliability(axes, reliability, measure))
        )
    if routing := results.routing:
        note = (
            f"{measure} if the adapter serves this share of the queries and the target model the others. The oracle "
            "picks the queries that lose least."
        )
        charts.append(("Routing", note, lambda axes: _draw_routing(axes, routing, measure)))
    if projection := results.projection:
        note = "Native and adapted query vectors on the first two principal components of the native ones."
        charts.append(("Projection to two dimensions", note, lambda axes: _draw_projection(axes, projection)))
    if groups := results.slices.get("group"):
        note = f"{measure}, the largest groups first."
        charts.append((f"{metric.capitalize()} by group", note, lambda axes: _draw_groups(axes, groups, measure)))
    return charts


def _draw_svg(draw: Draw, title: str, number: int) -> str:
    """Draw a chart as SVG with the colors of the style sheet, unique ids and an accessible name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    draw(axes)
    out = StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    for placeholder, color in CSS_COLORS.items():
        svg = svg.replace(placeholder, color)
    svg = re.sub(r'\bid="', f'id="c{number}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>c{number}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _values(estimates: Sequence[Estimate]) -> list[float]:
    return [estimate.value for estimate in estimates]


def _error_bars(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances from each value to both ends of its interval; never negative, which matplotlib refuses."""
    return [[max(0.0, e.value - e.low) for e in estimates], [max(0.0, e.high - e.value) for e in estimates]]


def _draw_bars(
    axes: Any, x: Sequence[float], estimates: Sequence[Estimate], label: str, color: str, line_style: str
) -> None:
    style = {"color": color, "ls": line_style, "lw": 1.5, "marker": "o", "ms": 4, "capsize": 3, "elinewidth": 1}
    axes.errorbar(x, _values(estimates), _error_bars(estimates), label=label, **style)


def _draw_band(axes: Any, x: Sequence[float], estimates: Sequence[Estimate], label: str, color: str) -> None:
    axes.plot(x, _values(estimates), color=color, lw=2, label=label)
    low, high = [e.low for e in estimates], [e.high for e in estimates]
    axes.fill_between(x, low, high, color=color, alpha=BAND_OPACITY, lw=0, gid="band")
    for edge in (low, high):
        axes.plot(x, edge, color=color, lw=0.8)


def _draw_conditions(axes: Any, results: Results, metric: str) -> None:
    lines = {"adapter": ("adapter", FIRST, "-", -0.12), "keep_source": ("keep the source model", SECOND, "--", 0.12)}
    if metric == "success":  # the recall of native queries is 1 by definition
        lines["native"] = ("native", INK, ":", 0.0)
    for name, (label, color, line_style, offset) in lines.items():
        if name in results.conditions:
            estimates = [results.conditions[name][f"{metric}@{k}"] for k in KS]
            _draw_bars(axes, [k + offset for k in KS], estimates, label, color, line_style)
    axes.set(xlabel="k", ylabel=f"{metric}@k", xticks=KS, ylim=(0, 1.02))
    axes.legend(loc="best")


def _draw_cosine(axes: Any, cosine: CosineDistribution) -> None:
    axes.stairs(cosine.counts, cosine.edges, fill=True, color=FIRST, alpha=BAND_OPACITY, gid="band")
    axes.stairs(cosine.counts, cosine.edges, color=FIRST, lw=1.2)
    axes.axvline(cosine.mean.value, color=INK, ls="--", lw=1.2)
    axes.set(xlabel="cosine", ylabel="queries")


def _draw_reliability(axes: Any, bins: Sequence[ReliabilityBin], measure: str) -> None:
    axes.plot([0, 1], [0, 1], color=INK, ls=":", lw=1.2, label="perfectly calibrated")
    _draw_bars(axes, [b.confidence for b in bins], [b.score for b in bins], "observed", FIRST, "-")
    axes.set(xlabel="confidence", ylabel=measure, xlim=(0, 1.02), ylim=(0, 1.02))
    axes.legend(loc="best")


def _draw_routing(axes: Any, points: Sequence[RoutingPoint], measure: str) -> None:
    share = [point.share for point in points]
    axes.plot(share, _values([point.oracle for point in points]), color=INK, ls=":", lw=1.5, label="oracle")
    _draw_band(axes, share, [point.score for point in points], "by confidence", FIRST)
    axes.plot(share, _values([point.random for point in points]), color=SECOND, ls="--", lw=1.5, label="at random")
    axes.set(xlabel="share served by the adapter", ylabel=measure)
    axes.legend(loc="best")


def _draw_projection(axes: Any, projection: Projection) -> None:
    for points, label, color, marker in (
        (projection.native, "native", SECOND, "x"),
        (projection.adapted, "adapted", FIRST, "o"),
    ):
        axes.plot(points[:, 0], points[:, 1], ls="", marker=marker, ms=2.5, mew=0.8, color=color, label=label)
    axes.set(xlabel=f"{projection.explained:.0%} of the native variance", xticks=[], yticks=[])
    axes.legend(loc="best", markerscale=2)


def _draw_groups(axes: Any, groups: Sequence[Slice], measure: str) -> None:
    groups = [group for group in reversed(groups) if math.isfinite(group.score.value)]
    axes.figure.set_figheight(max(HEIGHT, 0.7 + ROW_HEIGHT * len(groups)))
    scores = [group.score for group in groups]
    style = {"color": FIRST, "ls": "", "marker": "o", "ms": 4, "capsize": 2}
    axes.errorbar(_values(scores), range(len(groups)), xerr=_error_bars(scores), **style)
    names = [g.label if len(g.label) <= MAX_NAME else g.label[: MAX_NAME - 1] + "…" for g in groups]
    axes.set_yticks(range(len(groups)), [name.replace("$", r"\$") for name in names])
    axes.set(xlabel=measure, xlim=(-0.02, 1.02))
