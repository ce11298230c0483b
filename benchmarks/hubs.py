"""Does the query purpose undo hubs? How often each native row is among the first ten of the queries, before and after.

    python -m benchmarks.pairs ../shared/data build
    python -m benchmarks.hubs build

Regression shrinks its outputs towards the mean, so that a few native rows are near to all of them: the k-occurrences of
the corpus are skewed. Writes hubs.json and hubs.png, and the table of README.md.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.machine import write_json, write_readme
from ea_jax import Adapter, load
from ea_jax.heldout import HeldOut
from ea_jax.metrics import occurrences, skewness
from ea_jax.recipe import far_from_tests, held_out
from ea_jax.routes import routes
from ea_jax.solve import Affine, covariance, moments, ridge
from ea_jax.tables import read_pairs

SOURCE, TARGET = "minilm", "oai-3-small"
SIDES = ("in-domain", "across")
K, PENALTY, NEAR = 10, 0.01, 0.95
NATIVE, RIDGE = "native queries", "ridge"
PURPOSES = ("store", "query")
# Colours of Okabe and Ito, which colour-blind readers tell apart; dashes tell them apart without colour.
STYLES = (("#000000", "-"), ("#E69F00", ":"), ("#D55E00", "--"), ("#0072B2", "-."))


def counted(test: HeldOut, maps: Mapping[str, Affine], adapters: Mapping[str, Adapter]) -> dict[str, np.ndarray]:
    """K-occurrences of the native corpus, by what asks."""
    outputs = {NATIVE: test.y} | {row: affine.apply(test.x).astype(np.float32) for row, affine in maps.items()}
    outputs |= {row: adapt(adapt.params, test.x) for row, adapt in adapters.items()}
    return {row: np.asarray(occurrences(np.asarray(out), test.corpus_y, K)) for row, out in outputs.items()}


def figures(counts: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Skew of the k-occurrences and the largest one, by what asks."""
    return {row: {"skew": round(float(skewness(n)), 2), "most": int(n.max())} for row, n in counts.items()}


def table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """The README's table."""
    head = " | ".join(f"{side} skew | {side} largest" for side in found)
    lines = [f"| who asks | {head} |", "| --- |" + " ---: |" * (2 * len(found))]
    for row in next(iter(found.values())):
        cells = (f"{rows[row]['skew']:.1f} | {rows[row]['most']:,}" for rows in found.values())
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(counts: Mapping[str, Mapping[str, np.ndarray]], shown: Sequence[str], file: Path) -> None:
    """How many corpus rows are found at least n times: a panel a test set, a line a way to ask."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(counts), figsize=(9.5, 4), sharey=True, layout="constrained")
    for (side, by), axis in zip(counts.items(), axes, strict=True):
        for row, (colour, dashes) in zip(shown, STYLES, strict=True):
            often = np.arange(1, by[row].max() + 1)
            rows = len(by[row]) - np.searchsorted(np.sort(by[row]), often)
            axis.plot(often, rows, color=colour, ls=dashes, lw=2, label=row)
        size = len(by[shown[0]])
        axis.set(title=f"{side}, {size:,} native rows", xscale="log", yscale="log", xlabel="found at least n times")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel(f"native rows among the first {K}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(shown), frameon=False)
    figure.savefig(file, dpi=100)
    pyplot.close(figure)


def label(flavor: str, purpose: str) -> str:
    """Name of an adapter's row."""
    return f'{flavor}, purpose="{purpose}"'


def main(folder: Path) -> None:
    """Fit ridge on the rows that an adapter may be fitted on, count what each way to ask finds, and write it all."""
    sets = {side: held_out(read_pairs([folder / f"{side}.parquet"]), side, SOURCE) for side in SIDES}
    train = read_pairs([folder / "train.parquet"])
    assert train.x is not None
    kept = far_from_tests(train, sets, NEAR)
    maps = {RIDGE: ridge(covariance(moments(train.x[kept], train.y[kept])), PENALTY)}
    flavors = sorted({str(route.flavor) for route in routes(SOURCE, TARGET, 1)}, reverse=True)
    adapters = {label(f, p): load(SOURCE, TARGET, flavor=f, purpose=p) for f in flavors for p in PURPOSES}
    counts = {side: counted(test, maps, adapters) for side, test in sets.items()}
    found = {side: figures(by) for side, by in counts.items()}
    sizes = {side: {"queries": len(test.x), "corpus": len(test.corpus_x)} for side, test in sets.items()}
    best = "large" if "large" in flavors else flavors[0]
    plot(counts, [NATIVE, RIDGE, *(label(best, p) for p in PURPOSES)], Path(__file__).with_suffix(".png"))
    write_json(__file__, {"k": K, "penalty": PENALTY, "sizes": sizes, "figures": found})
    print(table(found))
    write_readme("hubs", table(found))


if __name__ == "__main__":
    from ea_jax.cli.device import start_jax

    start_jax()
    main(Path(sys.argv[1]))
