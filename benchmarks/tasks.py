"""Tasks of the family benchmark: a pair of spaces, pairs to fit on, and two test sets with their native truth.

In-domain queries come from the sources that are fitted on, across ones from sources that are not. Training rows that
are near-duplicates of a test query, in either space, are left out. The native corpora are whole at every size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.corpora import NOT_MIXED, Corpus, news, provider, split_module, texts
from ea_jax.heldout import HeldOut
from ea_jax.recipe import far_from_tests
from ea_jax.tables import Pairs

LONGEST = 2000
NEAR = 0.95
TOP = 10
BLOCK = 500
SIZES = (250, 500, 1000, 2000, 5000, 10_000, 20_000)
ALL = "all"
ENGLISH = 0.9
PROVIDER_QUERIES = 600
ACROSS = {
    "oai-ada-002": (
        "pathakpriyanshu/GraphRAG-financial-analytics",
        "jps/newskit-qa",
        "nyquistdata/clinical-qa",
        "EverettBerry/chat-your-data",
    ),
    "nomic": ("LW-Weiss/manuscript_certification", "Obito-2/myArAppRag"),
}
NEWS = "ag_news"
NEWS_QUERIES, NEWS_ACROSS = 1600, (1500, 10_000)
MIXED_QUERIES, MIXED_CORPUS, MIXED_TRAIN = 2000, 20_000, 30_000

Size = int | str


class Split(NamedTuple):
    """Rows of a set: no query is in a corpus or in the training rows."""

    train: np.ndarray
    in_query: np.ndarray
    in_corpus: np.ndarray
    across_query: np.ndarray
    across_corpus: np.ndarray


class Side(NamedTuple):
    """One test set, and the native top ten of each query: `hit` is the first, `top` all of them in no order."""

    test: HeldOut
    hit: np.ndarray
    top: np.ndarray


@dataclass(frozen=True)
class Task:
    """Pairs to fit on, the source of each, and the sides to judge on."""

    name: str
    x: np.ndarray
    y: np.ndarray
    groups: np.ndarray
    sides: dict[str, Side]
    left_out: int

    def sizes(self) -> list[Size]:
        """Numbers of pairs that there are, and all."""
        return [*(n for n in SIZES if n < len(self.x)), ALL]

    def draw(self, size: Size, seed: int) -> np.ndarray:
        """Training rows; those of a smaller size are among those of a larger one with the same seed."""
        return np.random.default_rng(seed).permutation(len(self.x))[: None if size == ALL else int(size)]


# By name: source, target and the set whose texts are used.
TASKS = {
    **{
        f"{a}--{b}": (a, b, remote)
        for remote in ("oai-3-small", "oai-ada-002", "nomic")
        for local in ("minilm", "wordllama")
        for a, b in ((local, remote), (remote, local))
    },
    **{
        f"{a}--{b}--{name}": (a, b, name)
        for name in ("ag-news", "mixed")
        for a, b in (("minilm", "wordllama"), ("wordllama", "minilm"))
    },
}


def load_task(name: str, data: Path, build: Path) -> Task:
    """Vectors, split and native truth of a task; training rows near to a test query are left out."""
    source, target, where = TASKS[name]
    corpus, split = _set(where, data, build)
    x, y = corpus.vectors[source], corpus.vectors[target]
    tests = {
        "in": HeldOut(x[split.in_query], y[split.in_query], x[split.in_corpus], y[split.in_corpus]),
        "across": HeldOut(x[split.across_query], y[split.across_query], x[split.across_corpus], y[split.across_corpus]),
    }
    rows = split.train
    kept = far_from_tests(Pairs(y=y[rows], x=x[rows]), tests, NEAR)
    rows = rows[kept]
    sides = {side: Side(test, *native_truth(test)) for side, test in tests.items()}
    return Task(name, x[rows], y[rows], corpus.source[rows], sides, int((~kept).sum()))


def scores(queries: np.ndarray, corpus: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Inner products with the corpus, a block of queries at a time."""
    for start in range(0, len(queries), BLOCK):
        part = slice(start, min(start + BLOCK, len(queries)))
        yield part, queries[part] @ corpus.T


def first_ten(score: np.ndarray) -> np.ndarray:
    """Columns of the ten largest scores of each row, in no order."""
    return np.argpartition(score, score.shape[1] - TOP, axis=1)[:, -TOP:]


def native_truth(test: HeldOut) -> tuple[np.ndarray, np.ndarray]:
    """Top hit and top ten of the native queries in the native corpus."""
    found = [(score.argmax(axis=1), first_ten(score)) for _, score in scores(test.y, test.corpus_y)]
    hits, tops = zip(*found, strict=True)
    return np.concatenate(hits), np.concatenate(tops)


@lru_cache(maxsize=1)
def _set(where: str, data: Path, build: Path) -> tuple[Corpus, Split]:
    corpus = _short(data, build, "texts" if where in ("ag-news", "mixed") else where)
    if where == "ag-news":
        corpus = news(data, build).joined(corpus.at(np.flatnonzero(corpus.source != NEWS)))
    if where == "oai-3-small":
        rows: list[dict[str, Any]] = [
            {"source": s, "ascii": a} for s, a in zip(corpus.source.tolist(), corpus.ascii, strict=True)
        ]
        parts = split_module(data).standard_split(rows)
        return corpus, Split(**{part: parts[part] for part in Split._fields})
    splits = {"ag-news": _news_split, "mixed": _mixed_split}
    return corpus, splits[where](corpus) if where in splits else _source_split(corpus, ACROSS[where])


@lru_cache(maxsize=1)
def _short(data: Path, build: Path, name: str) -> Corpus:
    corpus = texts(data, build) if name == "texts" else provider(data, build, name)
    return corpus.at(np.flatnonzero([len(text) < LONGEST for text in corpus.text]))


def _source_split(corpus: Corpus, across: tuple[str, ...]) -> Split:
    """Some sources are held out, half of their rows ask; of the others, those in English, some rows are held out."""
    out = np.isin(corpus.source, across)
    english = {s: corpus.ascii[corpus.source == s].mean() >= ENGLISH for s in set(corpus.source.tolist())}
    rng = np.random.default_rng(0)
    rest = rng.permutation(np.flatnonzero(~out & [english[s] for s in corpus.source.tolist()]))
    away = rng.permutation(np.flatnonzero(out))
    asks = min(PROVIDER_QUERIES, len(away) // 2)
    train = rest[PROVIDER_QUERIES:]
    return Split(train, rest[:PROVIDER_QUERIES], train, away[:asks], away[asks:])


def _news_split(corpus: Corpus) -> Split:
    """Fit on AG News; across, questions, definitions, dialogue, reviews and so on."""
    rng = np.random.default_rng(0)
    news = rng.permutation(np.flatnonzero(corpus.source == NEWS))
    other = rng.permutation(np.flatnonzero(~np.isin(corpus.source, NOT_MIXED[:-1])))
    asks, size = NEWS_ACROSS
    train = news[NEWS_QUERIES:]
    return Split(train, news[:NEWS_QUERIES], train, other[:asks], other[asks : asks + size])


def _mixed_split(corpus: Corpus) -> Split:
    """Fit on the mixed texts; across, AG News."""
    rng = np.random.default_rng(0)
    news = rng.permutation(np.flatnonzero(corpus.source == NEWS))
    mixed = rng.permutation(np.flatnonzero(~np.isin(corpus.source, NOT_MIXED)))
    train = mixed[MIXED_QUERIES : MIXED_QUERIES + MIXED_TRAIN]
    return Split(train, mixed[:MIXED_QUERIES], train[:MIXED_CORPUS], news[:NEWS_QUERIES], news[NEWS_QUERIES:])
