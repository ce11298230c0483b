"""Load texts and vectors of the shared data by set. Vectors of local models are cached in `build/vectors`.

    python -m benchmarks.data.corpora ../shared/data build

A set is a provider's texts with native vectors (the files `NAME` and `NAME-2` of `pairs/`), or `mixed`: public texts
without vectors. Texts of 2,000 characters or more, and texts that are not English, are excluded.
"""

import gzip
import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ea_jax import load_encoder
from ea_jax.data.junk import junk_texts
from ea_jax.fitting import Foreign
from ea_jax.registry.spaces import find_space

PROVIDERS = {  # alias of the space, and the names of its files
    "oai-3-small": ("oai-3-small", "oai-3-small-2"),
    "oai-ada-002": ("oai-ada-002", "oai-ada-002-2"),
    "nomic": ("nomic", "nomic-2"),
    "bge-m3": ("bge-m3-2",),
    "mxbai-large": ("mxbai-large-2",),
    "gemini-004": ("gemini-text-004-2",),
    "oai-3-large": ("oai-3-large", "oai-3-large-2"),
}
MIXED, MIXED_ROWS = "mixed", 34_000
LONGEST, ENGLISH = 2000, 0.9
FOREIGN_SEED, JUNK, ORDINARY = 7, 100, 4000


@dataclass(frozen=True)
class Corpus:
    """Row-aligned texts, their sources, their files and row numbers there, and vectors by space alias."""

    text: list[str]
    source: np.ndarray
    file: np.ndarray
    row: np.ndarray
    vectors: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.text)

    def at(self, rows: np.ndarray) -> "Corpus":
        """The same columns at the given rows."""
        vectors = {name: v[rows] for name, v in self.vectors.items()}
        return Corpus([self.text[i] for i in rows], self.source[rows], self.file[rows], self.row[rows], vectors)


def split_module(data: Path) -> Any:
    """The `split.py` of the data folder, which defines the splits of every figure."""
    spec = importlib.util.spec_from_file_location("split", data / "split.py")
    assert spec is not None
    assert spec.loader is not None
    split = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(split)
    return split


@lru_cache(maxsize=1)
def provider(data: Path, build: Path, name: str, local: tuple[str, ...]) -> Corpus:
    """A provider's English texts under 2,000 characters, with native vectors and vectors of local models."""
    split = split_module(data)
    parts = []
    for file in PROVIDERS[name]:
        rows, native = split.rows(file), split.vectors(file)
        selected = np.flatnonzero([row["ascii"] >= ENGLISH and len(row["text"]) < LONGEST for row in rows])
        text = [rows[i]["text"] for i in selected]
        vectors = {name: native[selected]} | {model: embedded(build, f"{file}-short", model, text) for model in local}
        source = np.array([rows[i]["source"] for i in selected])
        parts.append(Corpus(text, source, np.full(len(selected), file), selected, vectors))
    vectors = {key: np.concatenate([part.vectors[key] for part in parts]) for key in parts[0].vectors}
    source, file, row = (np.concatenate([getattr(part, key) for part in parts]) for key in ("source", "file", "row"))
    return Corpus([text for part in parts for text in part.text], source, file, row, vectors)


@lru_cache(maxsize=1)
def mixed(data: Path, build: Path, local: tuple[str, ...]) -> Corpus:
    """A sample of distinct public texts, with the vectors of local models."""
    source_of: dict[str, str] = {}
    with gzip.open(data / "texts" / "mixed.jsonl.gz", "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["text"].strip() and len(row["text"]) < LONGEST:
                source_of.setdefault(row["text"], row["source"])
    every = list(source_of)
    rows = np.random.default_rng(0).permutation(len(every))[:MIXED_ROWS]
    text = [every[i] for i in rows]
    vectors = {model: embedded(build, MIXED, model, text) for model in local}
    return Corpus(text, np.array([source_of[t] for t in text]), np.full(len(text), MIXED), rows, vectors)


@lru_cache(maxsize=1)
def foreign(data: Path, build: Path, model: str) -> Foreign:
    """Embeddings of junk texts and of ordinary texts, which train a confidence to separate them."""
    text = mixed(data, build, ()).text
    ordinary = [text[i] for i in np.random.default_rng(FOREIGN_SEED).permutation(len(text))[:ORDINARY]]
    junk = [text for kind in junk_texts(ordinary, JUNK, FOREIGN_SEED).values() for text in kind]
    return Foreign(*(embedded(build, name, model, made) for name, made in (("junk", junk), ("ordinary", ordinary))))


def embedded(build: Path, name: str, model: str, text: Sequence[str]) -> np.ndarray:
    """Embeddings of a set's texts by a local model, cached in `build/vectors`."""
    file = build / "vectors" / f"{name}--{find_space(model).alias}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = load_encoder(model, dtype="float32")(text, show_progress=True)
        scratch = file.with_suffix(".part.npy")
        np.save(scratch, made)
        scratch.rename(file)
    vectors = np.load(file)
    if len(vectors) != len(text):
        raise SystemExit(f"{file} has {len(vectors)} rows for {len(text)} texts: the data changed; delete the file.")
    return vectors


if __name__ == "__main__":
    from ea_jax.cli.runtime import start_jax

    start_jax()
    data, build = map(Path, sys.argv[1:3])
    for name in PROVIDERS:
        print(name, len(provider(data, build, name, ("minilm-plus",))))
    print(MIXED, len(mixed(data, build, ("minilm", "wordllama"))))
