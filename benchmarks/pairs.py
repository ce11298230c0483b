"""Write the standard split of the shared pairs as files that `ea-jax fit` reads.

    python -m benchmarks.pairs ../shared/data build

Texts under 2,000 characters, embedded with MiniLM. `train.parquet` holds the training rows; `in-domain.parquet` and
`across.parquet` the queries and native corpora of the two settings (rows of the in-domain corpus are training rows too,
whose native vectors alone are searched).
"""

import sys
from pathlib import Path

import numpy as np

from benchmarks.corpora import provider, split_module
from ea_jax.cli.device import start_jax
from ea_jax.tables import Pairs, write_pairs

LONGEST = 2000


def main(data: Path, out: Path) -> None:
    """Read `split.py`'s rows and vectors in `data`, embed the texts and write three files into `out`."""
    corpus = provider(data, out, "oai-3-small", ("minilm",))
    corpus = corpus.at(np.flatnonzero([len(text) < LONGEST for text in corpus.text]))
    rows = [{"source": s, "ascii": a} for s, a in zip(corpus.source.tolist(), corpus.ascii, strict=True)]
    parts = split_module(data).standard_split(rows)

    def pairs(index: np.ndarray, query: np.ndarray | None = None) -> Pairs:
        at = corpus.at(index)
        x, y = at.vectors["minilm"], at.vectors["oai-3-small"]
        return Pairs(y=y, x=x, text=at.text, group=at.source.tolist(), query=query)

    out.mkdir(parents=True, exist_ok=True)
    write_pairs(out / "train.parquet", pairs(parts["train"]))
    for name, key in {"in-domain": "in", "across": "across"}.items():
        queries, others = parts[f"{key}_query"], parts[f"{key}_corpus"]
        asks = np.arange(len(queries) + len(others)) < len(queries)
        write_pairs(out / f"{name}.parquet", pairs(np.concatenate([queries, others]), asks))


if __name__ == "__main__":
    start_jax()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
