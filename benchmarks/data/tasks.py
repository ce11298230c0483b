"""Pairs that the bundled adapters are fitted on, and the test sets that their cards report.

For 3-small, no bundled adapter is fitted on the in-domain queries and the three across-sources of the standard split.
The other sets are small: shipped adapters are fitted on all of their pairs, and the reported figures are of a second
fit that holds out a third of the sources.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.data.corpora import MIXED, Corpus, mixed, provider, split_module
from ea_jax.data.pairs import Pairs
from ea_jax.retrieval.held_out import HeldOut
from ea_jax.workflows.fit_entry import find_test_duplicates

NEAR = 0.95
THIRDS = 3
QUERIES, CORPUS = 600, 20_000
IN_DOMAIN, ACROSS = "in-domain", "across"
SPLIT_SET = "oai-3-small"

Tests = dict[str, HeldOut]


@dataclass(frozen=True)
class Task:
    """A pair of spaces with their pairs.

    Attributes:
        source: Alias of the source space.
        target: Alias of the target space.
        set: Name of the set of texts.
    """

    source: str
    target: str
    set: str

    @property
    def name(self) -> str:
        """Registry name without the flavor."""
        return f"{self.source}--{self.target}"


PLUS = "minilm-plus"
SHIPPED = ("oai-3-small", "oai-ada-002", "nomic", "bge-m3")  # the others have under 1,500 pairs of few sources
TASKS = [
    *(Task(PLUS, target, target) for target in SHIPPED),
    *(
        Task(a, b, remote)
        for remote in ("oai-3-small", "oai-ada-002", "nomic")
        for local in ("minilm", "wordllama")
        for a, b in ((local, remote), (remote, local))
    ),
    Task("minilm", "wordllama", MIXED),
    Task("wordllama", "minilm", MIXED),
]


@dataclass(frozen=True)
class Split:
    """Pairs to fit on, their sources, and test sets whose queries (and near-duplicates) are not among the pairs."""

    x: np.ndarray
    y: np.ndarray
    groups: list[str]
    tests: Tests
    left_out: int


def corpus_of(task: Task, data: Path, build: Path) -> Corpus:
    """The texts of a task with the vectors of both its spaces."""
    local = tuple(name for name in (task.source, task.target) if name != task.set)
    return mixed(data, build, local) if task.set == MIXED else provider(data, build, task.set, local)


def shipped(task: Task, data: Path, build: Path) -> Split:
    """The split of a shipped adapter: all pairs, except the test sets of 3-small."""
    corpus = corpus_of(task, data, build)
    if task.set != SPLIT_SET:
        return _split(task, corpus, np.arange(len(corpus)), {})
    tests, held_out = standard_tests(corpus, data)
    return _split(task, corpus, np.setdiff1d(np.arange(len(corpus)), held_out), tests)


def standard_tests(corpus: Corpus, data: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """Rows of the queries and the corpus of each test set of the standard split, and all rows that no fit may take."""
    split = split_module(data)
    parts = split.standard_split(split.rows(SPLIT_SET))
    first = corpus.file == SPLIT_SET

    def at(part: str) -> np.ndarray:
        return np.flatnonzero(first & np.isin(corpus.row, parts[part]))

    tests = {IN_DOMAIN: (at("in_query"), at("in_corpus")), ACROSS: (at("across_query"), at("across_corpus"))}
    return tests, np.concatenate([at("in_query"), *tests[ACROSS]])


def measured(task: Task, data: Path, build: Path) -> Split:
    """The split that a card reports: the shipped one for 3-small, else one that holds out a third of the sources."""
    if task.set == SPLIT_SET:
        return shipped(task, data, build)
    corpus = corpus_of(task, data, build)
    names, counts = np.unique(corpus.source, return_counts=True)
    order = names[np.argsort(-counts, kind="stable")]
    held_out = np.isin(corpus.source, order[1::THIRDS])  # the second largest, the fifth, and so on
    rng = np.random.default_rng(0)
    inside, outside = (rng.permutation(np.flatnonzero(rows)) for rows in (~held_out, held_out))
    a, b = min(QUERIES, len(inside) // 5), min(QUERIES, len(outside) // 2)
    train = inside[a:]
    tests = {IN_DOMAIN: (inside[:a], train[:CORPUS]), ACROSS: (outside[:b], outside[b:][:CORPUS])}
    return _split(task, corpus, train, tests)


def _split(task: Task, corpus: Corpus, train: np.ndarray, tests: dict[str, tuple[np.ndarray, np.ndarray]]) -> Split:
    x, y = corpus.vectors[task.source], corpus.vectors[task.target]
    test_sets = {name: HeldOut(x[q], y[q], x[c], y[c]) for name, (q, c) in tests.items()}
    kept = ~find_test_duplicates(Pairs(y=y[train], x=x[train]), test_sets, NEAR)
    rows = train[kept]
    return Split(x[rows], y[rows], corpus.source[rows].tolist(), test_sets, int((~kept).sum()))
