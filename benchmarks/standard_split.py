"""How good are the bundled MiniLM to text-embedding-3-small adapters on text they have not seen? Beside simpler ones.

    python -m benchmarks.pairs ../shared/data build
    python -m benchmarks.standard_split build

Prints the table of README.md, writes it there, and writes standard_split.json.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.machine import write_json, write_readme
from ea_jax import load
from ea_jax.entries import metrics_table
from ea_jax.heldout import KEEP_SOURCE, held_out_figures
from ea_jax.loading import PURPOSES
from ea_jax.recipe import far_from_tests, held_out
from ea_jax.registry import find_entry
from ea_jax.solve import covariance, mean_only, moments, procrustes, ridge
from ea_jax.tables import read_pairs

ROWS = {
    "mean": "mean vector alone",
    "ridge": "ridge",
    "procrustes": "centred Procrustes",
    "small store": '**ea_jax** `small`, `purpose="store"`',
    "small query": '**ea_jax** `small`, `purpose="query"`',
    "large store": '**ea_jax** `large`, `purpose="store"`',
    "large query": '**ea_jax** `large`, `purpose="query"`',
    KEEP_SOURCE: "keep MiniLM on both sides (re-embed the corpus)",
}
PENALTY = 0.01


def main(folder: Path) -> None:
    """Fit the simple answers on the rows that the adapter was fitted on, and judge all of them on both test sets."""
    tests = {
        name: held_out(read_pairs([folder / f"{name}.parquet"]), name, "sentence-transformers/all-MiniLM-L6-v2")
        for name in ("in-domain", "across")
    }
    train = read_pairs([folder / "train.parquet"])
    assert train.x is not None
    entry = find_entry("minilm", "oai-3-small")
    kept = far_from_tests(train, tests, entry.training["near_duplicate_cosine"])
    if kept.sum() != entry.training["pairs"]:
        raise SystemExit(f"{kept.sum()} training rows here, {entry.training['pairs']} in the entry: not the same data.")

    c = covariance(moments(train.x[kept], train.y[kept]))
    maps = {"mean": mean_only(c), "ridge": ridge(c, PENALTY), "procrustes": procrustes(c, "target-length")}
    adapters = {
        f"{flavor} {purpose}": load("minilm", "oai-3-small", flavor=flavor, purpose=purpose, dtype="float32")
        for flavor in ("small", "large")
        for purpose in PURPOSES
    }
    figures = {}
    for name, test in tests.items():
        outputs = {row: affine.apply(test.x) for row, affine in maps.items()}
        outputs |= {row: np.asarray(adapt(adapt.params, test.x)) for row, adapt in adapters.items()}
        figures[name] = held_out_figures(test, outputs)
    sizes = {name: {"queries": len(test.x), "corpus": len(test.corpus_x)} for name, test in tests.items()}
    write_json(__file__, {"sizes": sizes, "penalty": PENALTY, "figures": figures})
    table = metrics_table(figures, ROWS)
    print(table)
    write_readme("standard split", table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
