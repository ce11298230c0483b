"""Write the tables of benchmarks/README.md, and the one of the front page, from the JSON files in results/.

    python -m benchmarks.readme

A table stands between `<!-- NAME -->` and the next `<!-- end -->`. Each benchmark calls `update` when it has run.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS

HERE = Path(__file__).parent
FRONT_PAGE, README = HERE.parent / "README.md", HERE / "README.md"
Measured = dict[str, Any]


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; every column but the first is aligned to the right."""
    head = list(head)
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine_line(machine: Measured) -> str:
    """Processor, cores and versions, in one line."""
    versions = [f"{name} {machine[name]}" for name in ("jax", "numpy", "ea_jax") if name in machine]
    text = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, {', '.join(versions)}"
    return f"*Measured on: {text}.*"


def fit_learning_curves(measured: Measured) -> str:
    from benchmarks.fit.__main__ import note, table

    figures = measured["learning_curves"]["figures"]
    return f"{note(figures)}\n\n{table(figures)}\n\n{machine_line(measured['learning_curves']['machine'])}"


def own_index(measured: Measured) -> str:
    from benchmarks.fit.__main__ import own_table

    return own_table(measured["learning_curves"]["figures"])


def own_index_in_a_store(measured: Measured) -> str:
    from benchmarks.retrieval.own_index import table

    return table(measured)


def fit_confidence(measured: Measured) -> str:
    part = measured["confidence"]
    rows = [(name, f"{f['mean']:.3f}", f"{f['spread']:.3f}") for name, f in part["figures"].items()]
    return markdown_table(("figure", "mean", "spread"), rows) + f"\n\n{machine_line(part['machine'])}"


def fit_time(measured: Measured) -> str:
    part = measured["time"]
    rows = [
        (f"{f['pairs']:,} pairs, {f['d_in']:,} to {f['d_out']:,}", f"{f['seconds']:.1f}", f"{f['peak_mib']:,.0f}")
        for f in part["figures"].values()
    ]
    return markdown_table(("fit", "seconds", "peak MiB"), rows) + f"\n\n{machine_line(part['machine'])}"


def layers(measured: Measured) -> str:
    rows = [
        (name, f"{f['width']:,}", f"{f['recall@1']:.3f}", f"{f['recall@10']:.3f}")
        for name, f in measured["figures"].items()
    ]
    return markdown_table(("hidden states and static table", "width", "R@1", "R@10"), rows)


def encoder(measured: Measured) -> str:
    from benchmarks.speed.encoder import table

    return table(measured["figures"], measured["padding"])


def latency(measured: Measured) -> str:
    from benchmarks.speed.latency import table

    return table(measured)


def resmlp(measured: Measured) -> str:
    from benchmarks.speed.resmlp import table

    return table(measured["figures"])


def adapter(measured: Measured) -> str:
    rows = [
        (f"{int(n):,}", f"{f['ea_jax'] * 1e6:,.0f}", f"{f['numpy'] * 1e6:,.0f}", f"{f['ea_jax'] / f['numpy']:.2f}")
        for n, f in measured["seconds"].items()
    ]
    return markdown_table(("vectors a call", "ea_jax, microseconds", "NumPy, microseconds", "ratio"), rows)


def startup(measured: Measured) -> str:
    rows = [
        (f"`{name}`" if name.startswith(("ea-jax list", "python")) and "," not in name else name,
         *(f"{f[key]:.2f}" for key in ("median", "least", "most")))
        for name, f in measured["seconds"].items()
    ]  # fmt: skip
    return markdown_table(("command", "median s", "least", "most"), rows)


def search(measured: Measured) -> str:
    f = measured["figures"]
    return (
        f"{f['queries']:,.0f} queries against {f['corpus']:,.0f} rows of {f['width']:,.0f} dimensions, the first "
        f"{f['k']:.0f} of each: {f['seconds']:.1f} s, {f['most_memory_gib']:.1f} GiB at the peak."
    )


def batch(measured: Measured) -> str:
    from benchmarks.batch.__main__ import report

    return report(measured)


def serve(measured: Measured) -> str:
    from benchmarks.serve.__main__ import report

    return report(measured)


def routing(measured: Measured) -> str:
    from benchmarks.serve.routing import report

    return report(measured)


def accelerator(measured: Measured) -> str:
    f = measured["figures"]
    rows = [
        (purpose, *(f"{f[purpose][key] / 1e6:,.2f} M" for key in ("vectors_a_second", "from_and_to_numpy_a_second")))
        for purpose in ("store", "query")
    ]
    table = markdown_table(("purpose", "vectors a second, on the device", "from and to NumPy"), rows)
    peak = f"{f['device']}: {f['bfloat16_tflops']:,.0f} TFLOP/s in bfloat16, {f['copy_gb_a_second']:,.0f} GB/s copied"
    return f"{table}\n\n{peak}, {f['host_to_device_gb_a_second']:.1f} GB/s from the host."


def routes(measured: Measured) -> str:
    rows = []
    for route, tests in measured["figures"].items():
        cells = (
            " / ".join(f"{f[name]['recall@10']:.3f}" for f in tests.values() if name in f)
            for name in ("route", "direct", "keep_source")
        )
        rows.append((route, *cells))
    return markdown_table(("R@10 in domain / across sources", "route", "direct adapter", "keep the source"), rows)


def fuzz(measured: Measured) -> str:
    rows = [
        (kind, ", ".join(f"{name} {n:,}" for name, n in sorted(outcomes.items())))
        for kind, outcomes in measured["outcomes"].items()
    ]
    total = f"{measured['mutations']:,} mutations in {measured['seconds']} s, {measured['peak MiB']} MiB at the peak."
    return markdown_table(("damaged", "outcomes"), rows) + f"\n\n{total}"


def identify(measured: Measured) -> str:
    sizes = ("200", "20", "10")

    def shares(figures: Measured) -> list[str]:
        return [f"{figures[size]:.3f}" if size in figures else "" for size in sizes]

    rows = []
    for space, f in measured["figures"]["right"].items():
        count = "1 (halves)" if f["halves of one source"] else str(f["sources"])
        rows.append((f"`{space}`", count, *shares(f["right"]), " / ".join(shares(f["left out, called unknown"]))))
    unknown = [(kind, *shares(f)) for kind, f in measured["figures"]["unknown"].items()]
    return "\n\n".join(
        [
            markdown_table(
                ("space", "sources", "right, 200 rows", "20 rows", "10 rows", "unknown without its signature"), rows
            ),
            markdown_table(("called unknown", *(f"{size} rows" for size in sizes)), unknown),
        ]
    )


def stores(measured: Measured) -> str:
    from benchmarks.stores.tables import tables

    return tables(measured["figures"], measured["clients"])


TABLES: dict[str, tuple[str, Callable[[Measured], str]]] = {  # by block: the JSON file, and the table
    "own index": ("fit", own_index),
    "own index in a store": ("own_index", own_index_in_a_store),
    "fit": ("fit", fit_learning_curves),
    "fit confidence": ("fit", fit_confidence),
    "fit time": ("fit", fit_time),
    "layers": ("layers", layers),
    "routes": ("routes", routes),
    "encoder": ("encoder", encoder),
    "latency": ("latency", latency),
    "resmlp": ("resmlp", resmlp),
    "adapter": ("adapter", adapter),
    "startup": ("startup", startup),
    "search": ("search", search),
    "accelerator": ("accelerator", accelerator),
    "batch": ("batch", batch),
    "stores": ("stores", stores),
    "serve": ("serve", serve),
    "routing by confidence": ("routing", routing),
    "fuzz": ("fuzz", fuzz),
    "identify": ("identify", identify),
}


def table_of(block: str) -> str:
    """The Markdown of a block, with the machine where the JSON file names one."""
    file, make = TABLES[block]
    measured = json.loads((RESULTS / f"{file}.json").read_text())
    return make(measured) + (f"\n\n{machine_line(measured['machine'])}" if "machine" in measured else "")


def update(*blocks: str) -> None:
    """Rewrite blocks of the READMEs."""
    for block in blocks:
        file = FRONT_PAGE if block == "own index" else README
        before, start, rest = file.read_text().partition(f"<!-- {block} -->\n")
        if not start:
            raise SystemExit(f"{file.name} has no line <!-- {block} -->.")
        file.write_text(before + start + table_of(block) + "\n<!-- end -->" + rest.partition("<!-- end -->")[2])


if __name__ == "__main__":
    update(*TABLES)
