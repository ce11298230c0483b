"""Fit on an index in Qdrant with the commands of the README, and judge each fit with another exact search.

    python -m benchmarks.retrieval.own_index ../shared/data build
    python -m benchmarks.retrieval.own_index ../shared/data build --rows 300 1000    # some of the fits

The index is the rows of the own-index protocol of the data's `split.py`, queries included, in a collection of local
Qdrant. `ea-jax fit` takes rows that are not held out, and `ea-jax eval` queries with the held-out ones. The judge knows
the rule by which rows are held out, the adapter and the native vectors; its search and its count of hits are its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from benchmarks import readme
from benchmarks.data.corpora import embedded, split_module
from benchmarks.machine import results_file, write_json
from ea_jax import load

SOURCE, TARGET = MODELS = ("minilm-plus", "oai-3-small")
LONGEST = 2000
ROWS = (0, 300, 1000, 5000, 7500)
DEFAULT_ROWS = 5000  # of `ea-jax fit`
PROTOTYPE = {  # R@1 / R@10 of the prototype, one matrix on the rows of `split.own_index`; the last with fine-tuning
    0: ".518 / .870",
    300: ".563 / .907",
    1000: ".578 / .924",
    7500: ".659 / .948, .685 / .960",
}
Figures = dict[str, Any]


def fill(folder: Path, texts: list[str], vectors: Float[np.ndarray, "n d"]) -> None:
    """Create the collection as an application does, with Qdrant's client."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(folder / "qdrant"))
    params = models.VectorParams(size=vectors.shape[1], distance=models.Distance.COSINE)
    client.create_collection("docs", params)
    ids, payload = range(len(texts)), [{"text": text} for text in texts]
    client.upload_collection("docs", vectors=vectors, payload=payload, ids=ids)
    client.close()


def run(folder: Path, *arguments: str) -> tuple[str, str]:
    """Run `ea-jax` in a folder, with its own registry beside it, and return its output and its last message."""
    command = [str(Path(sys.executable).with_name("ea-jax")), *arguments]
    environment = {**os.environ, "XDG_DATA_HOME": str(folder / "data")}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {result.stderr}")
    return result.stdout, (result.stderr.strip().splitlines() or [""])[-1]


def find_held_out(n: int) -> Bool[np.ndarray, " n"]:
    """Rows that fits leave out, as the README of stores describes: one in ten, by a hash of the id."""
    digests = [blake2b(str(i).encode(), digest_size=8).hexdigest() for i in range(n)]
    return np.array([int(digest, 16) % 10 == 0 for digest in digests])


def judge(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"], root: Path | None) -> dict[str, float]:
    """R@1 and R@10 of the held-out rows among the others. Rows with equal native vectors count as one.

    Args:
        x: Source embeddings of all rows.
        y: Native vectors of all rows.
        root: Registry folder of the adapter; None for the bundled one.
    """
    queries = find_held_out(len(x))
    adapt = load(*MODELS, purpose="query", root=root)
    corpus = y[~queries]
    _, label = np.unique(corpus, axis=0, return_inverse=True)
    true = label[np.argmax(y[queries] @ corpus.T, axis=1)]
    scores = np.asarray(adapt(adapt.params, x[queries])) @ corpus.T
    first = label[np.argsort(-scores, axis=1, kind="stable")[:, :10]]
    hits = first == true[:, None]
    return {"recall@1": float(hits[:, 0].mean()), "recall@10": float(hits.any(axis=1).mean())}


def measure(rows: int, texts: list[str], x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"]) -> Figures:
    """Fit on a number of rows (0: take the bundled adapter), evaluate with the command, and judge."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as path:
        folder = Path(path)
        fill(folder, texts, y)
        url, names = "qdrant:./qdrant#docs", ("--source", SOURCE, "--target", TARGET)
        sentence = root = None
        if rows:
            size = () if rows == DEFAULT_ROWS else ("--rows", str(rows))
            entry, sentence = run(folder, "fit", url, *names, *size)
            root = Path(entry.strip()).parent
        report = json.loads(run(folder, "eval", url, *names, "--json")[0])
        conditions = ("adapter", "native", "keep_source")
        measured = {c: {k: report["conditions"][c][k]["value"] for k in ("recall@1", "recall@10")} for c in conditions}
        return {
            "queries": report["data"]["queries"],
            "corpus": report["data"]["corpus"],
            "eval": measured,
            "judge": judge(x, y, root),
            "sentence": sentence,
        }


def table(measured: Figures) -> str:
    """Format the figures as Markdown."""
    cells = []
    for rows, f in measured["figures"].items():
        pair = [_pair(part) for part in (f["eval"]["adapter"], f["judge"], f["eval"]["keep_source"])]
        cells.append((f"{int(rows):,}", *pair))
    head = ("rows fitted on", "`ea-jax eval`", "another exact search", "keep `minilm-plus`")
    return readme.markdown_table(head, cells)


def _pair(recall: dict[str, float]) -> str:
    return " / ".join(f"{recall[name]:.3f}".lstrip("0") for name in ("recall@1", "recall@10"))


def main() -> None:
    """Measure, merge the figures with those of earlier runs, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    arguments = parser.parse_args()
    split = split_module(arguments.data)
    rows = split.rows(TARGET)
    own = split.own_index(rows, LONGEST)
    index = np.sort(np.concatenate([own["own"], own["query"]]))
    x = embedded(arguments.build, TARGET, SOURCE, [row["text"] for row in rows])[index]
    y, texts = split.vectors(TARGET)[index], [rows[i]["text"] for i in index]
    file = results_file(__file__)
    figures = json.loads(file.read_text())["figures"] if file.exists() else {}
    for n in arguments.rows:
        figures[str(n)] = measure(n, texts, x, y)
        figures = dict(sorted(figures.items(), key=lambda item: int(item[0])))
        write_json(__file__, {"figures": figures})
        f = figures[str(n)]
        prototype = PROTOTYPE.get(n, "not measured")
        print(f"{n:,} rows: eval {_pair(f['eval']['adapter'])}, judge {_pair(f['judge'])}, prototype {prototype}")
        print(f"  {f['queries']:,} queries, corpus {f['corpus']:,}. {f['sentence'] or ''}", flush=True)
    readme.update("own index in a store")


if __name__ == "__main__":
    main()
