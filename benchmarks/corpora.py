"""Texts and vectors of the shared data, by set; what local models make of the texts is kept in `build/vectors`.

    python -m benchmarks.corpora ../shared/data build

A set is one of the provider's files of `pairs/` (texts with native vectors), or the texts of `texts/` as one set,
`texts`, whose sources are its files and, in `mixed`, their own.
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
from ea_jax.fitting import Foreign
from ea_jax.junk import junk_texts
from ea_jax.registry import find_space

PROVIDERS = {"oai-3-small": "oai-3-small", "oai-ada-002": "oai-ada-002", "nomic": "nomic"}
LOCAL = ("minilm", "wordllama")
NOT_MIXED = ("ag_news", "stsb_en", "stsb_en_dev", "vaswani_corpus", "trec_questions")
FOREIGN_SEED, JUNK, ORDINARY = 7, 600, 12_000
COLUMNS = {
    "ag_news": ("text",),
    "mixed": ("text",),
    "stsb_en_train": ("s1", "s2"),
    "stsb_en_dev": ("s1", "s2"),
    "stsb_en_test": ("s1", "s2"),
    "trec_questions_train": ("text",),
    "vaswani_corpus": ("text",),
}


@dataclass(frozen=True)
class Corpus:
    """Row-aligned texts, their sources, their share of ASCII characters, and vectors by space alias."""

    text: list[str]
    source: np.ndarray
    ascii: np.ndarray
    vectors: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.text)

    def joined(self, other: "Corpus") -> "Corpus":
        """The rows of both, of the spaces that both have."""
        vectors = {name: np.concatenate([v, other.vectors[name]]) for name, v in self.vectors.items()}
        source, share = (np.concatenate(pair) for pair in ((self.source, other.source), (self.ascii, other.ascii)))
        return Corpus(self.text + other.text, source, share, vectors)

    def at(self, rows: np.ndarray) -> "Corpus":
        """The same columns at some rows."""
        vectors = {name: v[rows] for name, v in self.vectors.items()}
        return Corpus([self.text[i] for i in rows], self.source[rows], self.ascii[rows], vectors)


def split_module(data: Path) -> Any:
    """The data's own `split.py`, whose arithmetic every figure uses."""
    spec = importlib.util.spec_from_file_location("split", data / "split.py")
    assert spec is not None
    assert spec.loader is not None
    split = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(split)
    return split


def provider(data: Path, build: Path, name: str, local: Sequence[str] = LOCAL) -> Corpus:
    """All rows of one provider's file, in its order, with the local models' vectors beside the native ones."""
    split = split_module(data)
    rows = split.rows(name)
    text = [row["text"] for row in rows]
    vectors = {PROVIDERS[name]: split.vectors(name)} | {model: embedded(build, name, model, text) for model in local}
    source, share = (np.array([row[key] for row in rows]) for key in ("source", "ascii"))
    return Corpus(text, source, share, vectors)


def texts(data: Path, build: Path, local: Sequence[str] = LOCAL) -> Corpus:
    """Distinct texts of `texts/`, in order, with the local models' vectors."""
    found: dict[str, str] = {}
    for name, columns in COLUMNS.items():
        with gzip.open(data / "texts" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                for column in columns:
                    if row[column].strip():
                        found.setdefault(row[column], row.get("source", name.rsplit("_t", 1)[0]))
    text = list(found)
    share = np.array([sum(map(str.isascii, t)) / len(t) for t in text])
    vectors = {model: embedded(build, "texts", model, text) for model in local}
    return Corpus(text, np.array(list(found.values())), share, vectors)


def news(data: Path, build: Path, local: Sequence[str] = LOCAL) -> Corpus:
    """AG News as title and text, distinct, with the local models' vectors."""
    with gzip.open(data / "texts" / "ag_news.jsonl.gz", "rt", encoding="utf-8") as lines:
        text = list(dict.fromkeys(f"{row['title']}. {row['text']}" for row in map(json.loads, lines)))
    vectors = {model: embedded(build, "ag-news", model, text) for model in local}
    return Corpus(text, np.full(len(text), "ag_news"), np.ones(len(text)), vectors)


@lru_cache(maxsize=2)
def foreign(data: Path, build: Path, model: str) -> Foreign | None:
    """Junk and texts of `mixed` as a local model embeds them; None for a model that runs elsewhere."""
    if model not in LOCAL:
        return None
    rng = np.random.default_rng(FOREIGN_SEED)
    corpus = texts(data, build, (model,))
    known = rng.permutation(np.flatnonzero(~np.isin(corpus.source, NOT_MIXED)))[:ORDINARY]
    made = [text for kind in junk_texts([corpus.text[i] for i in known], JUNK, FOREIGN_SEED).values() for text in kind]
    return Foreign(junk=embedded(build, "junk", model, made), ordinary=corpus.vectors[model][known])


def embedded(build: Path, name: str, model: str, text: list[str]) -> np.ndarray:
    """What a local model makes of a set's texts; read from `build/vectors` where it is there already."""
    file = build / "vectors" / f"{name}--{find_space(model).alias}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = load_encoder(model)(text, show_progress=True)
        scratch = file.with_suffix(".part.npy")
        np.save(scratch, made)
        scratch.rename(file)
    found = np.load(file)
    if len(found) != len(text):
        raise SystemExit(f"{file} has {len(found)} rows for {len(text)} texts: remove it, the data has changed.")
    return found


if __name__ == "__main__":
    from ea_jax.cli.device import start_jax

    start_jax()
    data, build = map(Path, sys.argv[1:3])
    for name in PROVIDERS:
        print(name, len(provider(data, build, name)))
    print("texts", len(texts(data, build)))
    print("ag-news", len(news(data, build)))
