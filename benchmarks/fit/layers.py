"""Which hidden states and which weight make the best composite encoder? Measured once, on held-out sources.

    python -m benchmarks.fit.layers ../shared/data build

The training rows of the standard split (OpenAI 3-small) are split by source into five folds. Each held-out row is a
query that searches the other rows of its fold, mapped by the closed-form query layer of the other folds. The test
sources of benchmarks/fit/ are not used. The definition of `minilm-plus` in spaces.toml follows from this table.
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks import readme
from benchmarks.data.corpora import embedded, provider, split_module
from benchmarks.machine import write_json
from ea_jax.fitting.cross_validation import FOLDS, group_folds
from ea_jax.fitting.query_layer import whiten_layer
from ea_jax.fitting.regression.moments import Moments, covariance, moments
from ea_jax.fitting.regression.ridge import low_rank_covariance, solve_ridge
from ea_jax.retrieval.search import search

EVERY = "minilm@0,1,2,3,4,5,6+wordllama"
WIDTH, LAST = 384, 6
CHOICES = {
    "minilm": ((LAST,), 0.0),
    "layers 0, 2, 4, 6": ((0, 2, 4, 6), 0.0),
    "6 + wordllama": ((LAST,), 0.7),
    "0, 6 + wordllama": ((0, 6), 0.7),
    "3, 6 + wordllama": ((3, 6), 0.7),
    "0, 3, 6 + wordllama at .4": ((0, 3, 6), 0.4),
    "0, 3, 6 + wordllama at .7 (minilm-plus)": ((0, 3, 6), 0.7),
    "0, 3, 6 + wordllama at 1": ((0, 3, 6), 1.0),
    "0, 2, 4, 6 + wordllama": ((0, 2, 4, 6), 0.7),
    "all seven + wordllama": (tuple(range(7)), 0.7),
}
PENALTY = 0.1  # leave-one-out selects .03 to .1 for every composite at this size


def columns(every: np.ndarray, layers: tuple[int, ...], weight: float) -> np.ndarray:
    """Build the composite of some layers from the composite of all, whose blocks are scaled by a common factor."""
    blocks = [every[:, layer * WIDTH : (layer + 1) * WIDTH] for layer in layers]
    table = every[:, (LAST + 1) * WIDTH :]
    blocks = [block / np.linalg.norm(block, axis=1, keepdims=True) for block in blocks]
    blocks += [weight * table / np.linalg.norm(table, axis=1, keepdims=True)] if weight else []
    x = np.concatenate(blocks, axis=1)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def recalls(x: np.ndarray, y: np.ndarray, fold: np.ndarray) -> tuple[float, float]:
    """R@1 and R@10 of queries from held-out sources."""
    parts = [moments(x, y, np.flatnonzero(fold == k)) for k in range(FOLDS)]
    ranks = []
    for k in range(FOLDS):
        m = parts[(k + 1) % FOLDS]
        for other in range(2, FOLDS):
            m = Moments.plus(m, parts[(k + other) % FOLDS])
        c, inside, others = covariance(m), np.flatnonzero(fold == k), np.flatnonzero(fold != k)
        layer = whiten_layer(
            solve_ridge(x[others], c, PENALTY), c, c.xx, low_rank_covariance(y[others], c.y_mean, c.yy)
        )
        out = layer.apply(x[inside])
        native, ours = (search(q, y[inside], 11).row for q in (y[inside], out / np.linalg.norm(out, axis=1)[:, None]))
        itself = np.arange(len(inside))[:, None]
        true = np.where(native[:, :1] == itself, native[:, 1:2], native[:, :1])
        rank = np.where((ours == true).any(axis=1), (ours == true).argmax(axis=1), 99)
        before = ((ours == itself) & (np.arange(11) < rank[:, None])).any(axis=1)
        ranks.append(rank - before)
    rank = np.concatenate(ranks)
    return float(np.mean(rank < 1)), float(np.mean(rank < 10))


def main(data: Path, build: Path) -> None:
    """Print the table and write layers.json."""
    corpus = provider(data, build, "oai-3-small", ())
    split = split_module(data)
    parts = split.standard_split(split.rows("oai-3-small"))
    train = np.flatnonzero((corpus.file == "oai-3-small") & np.isin(corpus.row, parts["train"]))
    first = np.flatnonzero(corpus.file == "oai-3-small")
    every = embedded(build, "oai-3-small-short", EVERY, [corpus.text[i] for i in first])
    x, y = every[np.searchsorted(first, train)], corpus.vectors["oai-3-small"][train]
    fold = group_folds(corpus.source[train].tolist(), len(train))
    rows = {}
    print("| hidden states and static table | width | R@1 | R@10 |\n| --- | ---: | ---: | ---: |")
    for name, (layers, weight) in CHOICES.items():
        z = columns(x, layers, weight)
        one, ten = recalls(z, y, fold)
        rows[name] = {"width": z.shape[1], "recall@1": round(one, 4), "recall@10": round(ten, 4)}
        print(f"| {name} | {z.shape[1]:,} | {one:.3f} | {ten:.3f} |", flush=True)
    write_json(__file__, {"queries": len(y), "sources": len(set(corpus.source[train].tolist())), "figures": rows})
    readme.update("layers")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
