"""Write the standard split of the shared pairs as files that `ea-jax fit` reads.

    python -m benchmarks.pairs ../shared/data build

Texts under 2,000 characters, embedded with MiniLM. `train.parquet` holds the training rows; `in-domain.parquet` and
`across.parquet` the queries and native corpora of the two settings (rows of the in-domain corpus are training rows too,
whose native vectors alone are searched).
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from ea_jax import load_encoder
from ea_jax.cli.device import start_jax
from ea_jax.tables import Pairs, write_pairs

LONGEST = 2000


def main(data: Path, out: Path) -> None:
    """Read `split.py`'s rows and vectors in `data`, embed the texts and write three files into `out`."""
    spec = importlib.util.spec_from_file_location("split", data / "split.py")
    assert spec is not None
    assert spec.loader is not None
    split = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(split)

    rows, y = split.rows(), split.vectors()
    short = [i for i, row in enumerate(rows) if len(row["text"]) < LONGEST]
    rows, y = [rows[i] for i in short], y[short]
    parts = split.standard_split(rows)
    text = [row["text"] for row in rows]
    x = np.zeros((len(rows), 384), np.float32)
    used = np.unique(np.concatenate(list(parts.values())))
    x[used] = load_encoder("minilm")([text[i] for i in used], show_progress=True)

    def pairs(index: np.ndarray, query: np.ndarray | None = None) -> Pairs:
        group = [rows[i]["source"] for i in index]
        return Pairs(y=y[index], x=x[index], text=[text[i] for i in index], group=group, query=query)

    out.mkdir(parents=True, exist_ok=True)
    write_pairs(out / "train.parquet", pairs(parts["train"]))
    for name, key in {"in-domain": "in", "across": "across"}.items():
        queries, corpus = parts[f"{key}_query"], parts[f"{key}_corpus"]
        asks = np.arange(len(queries) + len(corpus)) < len(queries)
        write_pairs(out / f"{name}.parquet", pairs(np.concatenate([queries, corpus]), asks))


if __name__ == "__main__":
    start_jax()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
