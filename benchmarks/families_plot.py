"""The frontier drawn: R@1 in domain by number of pairs."""

from pathlib import Path

import numpy as np

from benchmarks.families_report import AUTO, KEEP, LABELS, RIVALS, Cells, largest_run, settings
from benchmarks.families_table import TABLED, title
from benchmarks.tasks import SIZES

PLOTTED = (*TABLED, "oai-3-small--minilm", "minilm--oai-ada-002", "minilm--nomic", "minilm--wordllama--mixed")
# Okabe and Ito's colours, which colour-blind readers can tell apart; rivals are dashed.
LINES = {
    "procrustes": ("#999999", "s"),
    "ridge": ("#56B4E9", "v"),
    "rank-64": ("#F0E442", "D"),
    "mlp-256": ("#CC79A7", "P"),
    "resmlp": ("#E69F00", "X"),
    "linear": ("#0072B2", "o"),
    "kernel": ("#009E73", "o"),
    "mlp": ("#D55E00", "o"),
    AUTO: ("#000000", "o"),
}
PLAIN = str.maketrans("", "", "*`")


def plot(found: Cells, file: Path) -> None:
    """R@1 in domain by number of pairs: a panel a task, a line a family in a band as wide as its spread."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    figure, axes = pyplot.subplots(2, 3, figsize=(13, 7.6), layout="constrained")
    by = settings(found)
    for task, axis in zip(PLOTTED, axes.flat, strict=True):
        for family, (colour, marker) in LINES.items():
            line = sorted(
                (f[family].pairs, f[family].stats["in.r1"]) for (t, _), f in by.items() if t == task and family in f
            )
            if not line:
                continue
            n, mean = [p for p, _ in line], np.array([s.mean for _, s in line])
            half = np.array([s.spread for _, s in line]) / 2
            width, order = (3.4, 1.5) if family == AUTO else (1.6, 2)  # `auto` lies under the family that it took
            style = {"color": colour, "marker": marker, "ls": "--" if family in RIVALS else "-", "ms": 5}
            axis.plot(n, mean, lw=width, zorder=order, label=LABELS[family].translate(PLAIN), **style)
            axis.fill_between(n, mean - half, mean + half, color=colour, alpha=0.18, lw=0)
        if (task, KEEP, KEEP) in found:
            kept = found[task, KEEP, KEEP].stats["in.r1"].mean
            axis.axhline(kept, color="#444444", ls=":", lw=1.2, label="keep the source model")
        axis.set(title=title(task), xscale="log", xlabel="pairs", ylabel="R@1 of the native top hit, in domain")
        axis.grid(alpha=0.25)
        axis.set_xticks(SIZES, [f"{n:,}" if n < 10_000 else f"{n // 1000}k" for n in SIZES])
        axis.minorticks_off()
        axis.set_xlim(SIZES[0] / 1.15, (largest_run(found, task) or SIZES[-1]) * 1.15)
    handles = {label: h for a in axes.flat for h, label in zip(*a.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, dpi=100)
    Image.open(file).convert("RGB").quantize(96).save(file, optimize=True)
    pyplot.close(figure)
