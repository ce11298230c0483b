"""How good is a fit on N pairs? Compare ea_jax with simpler and larger maps, from MiniLM to OpenAI 3-small.

    python -m benchmarks.fit ../shared/data build                # learning curves; writes the tables of README.md
    python -m benchmarks.fit ../shared/data build --confidence   # is the confidence calibrated?
    python -m benchmarks.fit ../shared/data build --time         # seconds and peak memory of fits

The protocols are those of the data's `split.py`. Fits on N rows of the standard split's training sources are tested
in domain, across sources and on new sources. Fits on N rows of an index are tested on queries of that index.

Each result is saved in `build/fit.json` and not computed again: rerun after any interruption, and use `--again` to
repeat methods. README.md and fit.json are written once all results are complete.
"""

import argparse
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from benchmarks import readme
from benchmarks.data.corpora import embedded, split_module
from benchmarks.fit.peers import MLP_STEPS, PEERS, RESMLP_STEPS
from benchmarks.machine import describe, results_file
from ea_jax import threshold_for
from ea_jax.cli.runtime import start_jax
from ea_jax.fitting import fit
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.metrics import cosines, first_equal, recalls
from ea_jax.retrieval.search import search

NAME = "oai-3-small"
MINILM, PLUS = ENCODERS = ("minilm", "minilm-plus")
LONGEST = 2000
SIZES = (50, 100, 300, 1000, 2000, 5000)
SEEDS = (0, 1, 2)
NETWORKS, NETWORK_SIZES = ("mlp", "resmlp"), (100, 1000, math.inf)  # they take minutes, so fewer sizes
TOP = 10
STANDARD, OWN = "standard", "own"
TESTS = {"in": "in domain", "across": "across sources", "new": "new sources", "own": "own index"}
SHOWN = {"in": (1000, math.inf), "across": (1000, math.inf), "new": (1000, math.inf), "own": (100, 1000, math.inf)}
WORST, PROMISE, BINS, SURE = 0.1, 0.95, 10, 0.9
CONFIDENCE_ROWS = 1000
OTHER_MODELS = ("nomic", "oai-ada-002", "oai-3-large", "gemini-001")
TIMED_OWN_ROWS = 100
SYNTHETIC_ROWS, SYNTHETIC_RANK, SYNTHETIC_BLOCK = 1_000_000, 256, 50_000

Rows = Int[np.ndarray, " n"]
Vectors = Float[np.ndarray, "n d"]
Apply = Callable[[Vectors], Vectors]
Figures = dict[str, Any]


class Method(NamedTuple):
    """A map from an encoder to the target. `peer` names a baseline; the result of `random` fits depends on the seed."""

    label: str
    encoder: str
    peer: str | None
    random: bool


METHODS = {
    "mean": Method("mean vector", MINILM, "mean", False),
    "procrustes": Method("Procrustes", MINILM, "procrustes", False),
    "ridge": Method("ridge", MINILM, "ridge", False),
    "mlp": Method("MLP-256 (Drift-Adapter)", MINILM, "mlp", True),
    "resmlp": Method("ResMLP (embedding_adapters, small)", MINILM, "resmlp", True),
    "procrustes-plus": Method("Procrustes", PLUS, "procrustes", False),
    "ridge-plus": Method("ridge", PLUS, "ridge", False),
    "ours": Method("**ea_jax**", MINILM, None, True),
    "ours-plus": Method("**ea_jax**", PLUS, None, True),
}
KEEP = {f"keep {encoder}": encoder for encoder in ENCODERS}


@dataclass(frozen=True)
class Test:
    """Queries and the index that they search. Encoder vectors are in dicts by the name of the encoder.

    Attributes:
        itself: Whether query i is row i of the index, and is excluded from its own results.
        true: The true neighbor: the index row that the native query ranks first.
        same: `first_equal` of the index; rows with equal native vectors count as one.
    """

    x: dict[str, Vectors]
    y: Vectors
    corpus_x: dict[str, Vectors]
    corpus_y: Vectors
    itself: bool
    true: Rows = field(init=False)
    same: Rows = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "same", first_equal(self.corpus_y))
        object.__setattr__(self, "true", self.first_rows(self.y, self.corpus_y)[:, 0])

    def first_rows(self, queries: Vectors, corpus: Vectors) -> Int[np.ndarray, "n 10"]:
        """The first ten index rows of each query."""
        rows = search(queries, corpus, TOP + self.itself).row
        if not self.itself:
            return rows
        others = np.argsort(rows == np.arange(len(rows))[:, None], axis=1, kind="stable")
        return np.take_along_axis(rows, others[:, :TOP], axis=1)

    def hits(self, queries: Vectors, corpus: Vectors) -> dict[str, Float[np.ndarray, " n"]]:
        """For each query, whether its true neighbor is among the first k results, by the name `recall@k`."""
        if not np.isfinite(queries).all():
            raise ValueError("Some query vectors are not finite.")
        return recalls(self.first_rows(queries, corpus), self.true, self.same)

    def figures(self, queries: Vectors, corpus: Vectors) -> dict[str, float]:
        """R@1 and R@10."""
        hits = self.hits(queries, corpus)
        return {f"r{k}": float(hits[f"recall@{k}"].mean()) for k in (1, TOP)}


@dataclass(frozen=True)
class Protocol:
    """Pairs to fit on, and tests. `corpus_y` is the index if the pairs are rows of it, else None."""

    x: dict[str, Vectors]
    y: Vectors
    tests: dict[str, Test]
    corpus_y: Vectors | None

    def sample(self, n: int, seed: int) -> Rows:
        """Sample n rows. A smaller sample is a subset of a larger one with the same seed."""
        return np.random.default_rng(seed).permutation(len(self.y))[:n]


class Files(NamedTuple):
    """Folders of the shared data and of the cached embeddings."""

    data: Path
    build: Path

    def pairs(self, name: str) -> tuple[list[dict], dict[str, Vectors], Vectors]:
        """Rows of a file of pairs, the vectors of each encoder, and the native vectors."""
        split = split_module(self.data)
        rows = split.rows(name)
        texts = [row["text"] for row in rows]
        return rows, {encoder: embedded(self.build, name, encoder, texts) for encoder in ENCODERS}, split.vectors(name)


@cache
def protocols(files: Files) -> dict[str, Protocol]:
    """The pairs and tests of `split.py`."""
    split = split_module(files.data)
    rows, x, y = files.pairs(NAME)
    short = np.array([len(row["text"]) < LONGEST for row in rows])
    part, own = split.standard_split(rows), split.own_index(rows, LONGEST)
    in_query, in_corpus, train = (part[name][short[part[name]]] for name in ("in_query", "in_corpus", "train"))
    new_rows, new_x, new_y = files.pairs(f"{NAME}-2")
    new = split.new_sources(new_rows, LONGEST)
    across = _test(x, y, own["query"], own["corpus"])
    tests = {"in": _test(x, y, in_query, in_corpus), "across": across, "new": _test(new_x, new_y, new, new)}
    return {
        STANDARD: Protocol(_at(x, train), y[train], tests, None),
        OWN: Protocol(_at(x, own["own"]), y[own["own"]], {"own": across}, across.corpus_y),
    }


def _test(x: dict[str, Vectors], y: Vectors, query: Rows, corpus: Rows) -> Test:
    return Test(_at(x, query), y[query], _at(x, corpus), y[corpus], np.array_equal(query, corpus))


def _at(x: dict[str, Vectors], rows: Rows) -> dict[str, Vectors]:
    return {encoder: vectors[rows] for encoder, vectors in x.items()}


class Key(NamedTuple):
    """One fit: a protocol, a method, the number of pairs (inf for all) and the seed of the sample."""

    protocol: str
    method: str
    pairs: float
    seed: int

    def __str__(self) -> str:
        return f"{self.protocol} {self.method} {size_name(self.pairs)} {self.seed}"


def size_name(pairs: float) -> str:
    """Format a number of pairs: `1,000`, or `all`."""
    return "all" if pairs == math.inf else f"{pairs:,.0f}"


def planned_fits() -> Iterator[Key]:
    """List every fit: first the priors, then by number of pairs. Deterministic fits on all pairs have one seed."""
    for name in METHODS:
        if METHODS[name].peer is None:
            yield Key(STANDARD, name, math.inf, 0)
            yield Key(OWN, name, 0, 0)
    for pairs in (*SIZES, math.inf):
        for protocol in (STANDARD, OWN):
            for name, method in METHODS.items():
                network = method.peer in NETWORKS
                if network and pairs not in NETWORK_SIZES:
                    continue
                for seed in SEEDS if pairs < math.inf or (method.random and not network) else SEEDS[:1]:
                    yield Key(protocol, name, pairs, seed)


@cache
def prior(files: Files, encoder: str) -> tuple[Any, float]:
    """The fit on all training pairs of the standard split, which is the prior of own-index fits, and its seconds."""
    standard = protocols(files)[STANDARD]
    return timed_fit(partial(fit, standard.x[encoder], standard.y, seed=0))


def timed_fit(call: Callable[[], Any]) -> tuple[Any, float]:
    """Run a fit and measure its seconds."""
    start = time.perf_counter()
    fitted = call()
    return fitted, time.perf_counter() - start


def fit_own(files: Files, encoder: str, pairs: float, seed: int) -> tuple[Any, float]:
    """Fit on rows of the index with the prior; without rows, return the prior."""
    own, start = protocols(files)[OWN], prior(files, encoder)[0]
    if not pairs:
        return start, 0.0
    rows = own.sample(int(min(pairs, len(own.y))), seed)
    call = partial(fit, own.x[encoder][rows], own.y[rows], prior=start.quality, corpus=own.corpus_y, seed=seed)
    return timed_fit(call)


def measure(files: Files, key: Key) -> Figures:
    """Fit once, and measure on the tests of the protocol."""
    method, protocol = METHODS[key.method], protocols(files)[key.protocol]
    encoder = method.encoder
    rows = protocol.sample(int(min(key.pairs, len(protocol.y))), key.seed)
    x, y = protocol.x[encoder][rows], protocol.y[rows]
    if method.peer is not None:
        apply, seconds = timed_fit(partial(PEERS[method.peer], x, y, key.seed))
        store = query = apply
    else:
        if key.protocol == OWN:
            fitted, seconds = fit_own(files, encoder, key.pairs, key.seed)
        elif key.pairs == math.inf and key.seed == 0:
            fitted, seconds = prior(files, encoder)
        else:
            fitted, seconds = timed_fit(partial(fit, x, y, seed=key.seed))
        store, query = (partial(fitted.apply, purpose=purpose) for purpose in ("store", "query"))
    figures: Figures = {"pairs": len(rows), "seconds": seconds}
    for name, test in protocol.tests.items():
        cosine = float(cosines(store(test.x[encoder]), test.y).mean())
        figures[name] = {**test.figures(query(test.x[encoder]), test.corpus_y), "cosine": cosine}
    return figures


def keep_source(files: Files, encoder: str) -> Figures:
    """Measure encoder queries on an index of encoder vectors: the alternative if the corpus can be embedded again."""
    tests = {name: test for protocol in protocols(files).values() for name, test in protocol.tests.items()}
    return {name: test.figures(test.x[encoder], test.corpus_x[encoder]) for name, test in tests.items()}


def run(files: Files, methods: Sequence[str], sizes: Sequence[float], again: Sequence[str]) -> dict[str, Figures]:
    """Measure every row that is not in `build/fit.json`, and save each at once. Returns all rows."""
    saved = files.build / "fit.json"
    rows: dict[str, Figures] = json.loads(saved.read_text()) if saved.exists() else {}
    rows = {key: figures for key, figures in rows.items() if key.split()[1] not in again}
    keep = {name: partial(keep_source, files, encoder) for name, encoder in KEEP.items()}
    fits = {
        str(key): partial(measure, files, key)
        for key in planned_fits()
        if key.method in methods and (key.pairs in sizes or not key.pairs)
    }
    todo = {name: call for name, call in {**keep, **fits}.items() if name not in rows}
    for i, (name, call) in enumerate(todo.items()):
        start = time.perf_counter()
        rows[name] = _rounded(call())
        scratch = saved.with_suffix(".part")
        scratch.write_text(json.dumps(rows, indent=1))
        scratch.rename(saved)
        shown = ", ".join(f"{test} {rows[name][test]['r1']:.3f}" for test in TESTS if test in rows[name])
        say(f"{i + 1}/{len(todo)} {name}: R@1 {shown}; {time.perf_counter() - start:.1f} s")
    return rows


def _rounded(figures: Any) -> Any:
    """Round floats to five significant digits, in nested dicts too."""
    if isinstance(figures, dict):
        return {name: _rounded(value) for name, value in figures.items()}
    return float(f"{figures:.5g}") if isinstance(figures, float) else figures


def summarize(rows: dict[str, Figures]) -> dict[str, Figures]:
    """Mean and range over the seeds, by protocol, method and number of pairs."""
    by: dict[tuple[str, str, str], list[Figures]] = {}
    for key, figures in rows.items():
        if key not in KEEP:
            protocol, method, pairs, _ = key.split()
            by.setdefault((protocol, method, pairs), []).append(figures)
    out: dict[str, Figures] = {name: rows[name] for name in KEEP if name in rows}
    for (protocol, method, pairs), runs in by.items():
        cell = out.setdefault(protocol, {}).setdefault(method, {}).setdefault(pairs, {"seeds": len(runs)})
        cell["seconds"] = _mean_and_spread([figures["seconds"] for figures in runs])
        for test in (test for test in TESTS if test in runs[0]):
            cell[test] = {name: _mean_and_spread([f[test][name] for f in runs]) for name in runs[0][test]}
    return out


def _mean_and_spread(values: list[float]) -> dict[str, float]:
    return _rounded({"mean": float(np.mean(values)), "spread": float(np.ptp(values))})


def table(summary: dict[str, Figures]) -> str:
    """Format the table of the README: one row per method, one column per test and number of pairs."""
    columns = [(test, pairs) for test, sizes in SHOWN.items() for pairs in sizes]
    heads = ["method", "vectors", *(f"{TESTS[test]}, {size_name(pairs)}" for test, pairs in columns)]
    lines = [heads, ["---", "---", *["---:"] * len(columns)]]
    for name, method in METHODS.items():
        cells = [
            _recalls(_cell(summary, OWN if test == OWN else STANDARD, name, pairs).get(test)) for test, pairs in columns
        ]
        lines.append([method.label, f"`{method.encoder}`", *cells])
    for name, encoder in KEEP.items():
        lines.append(["keep the source model", f"`{encoder}`", *(_recalls(summary[name][t]) for t, _ in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def own_table(summary: dict[str, Figures]) -> str:
    """Format the table of the quick start: recall on an index, by the number of its rows that were fitted on."""
    sizes = (0, *SIZES, math.inf)
    curve = [_cell(summary, OWN, "ours-plus", n).get(OWN) for n in sizes]
    keep = [summary[name][OWN] for name in KEEP]
    lines = [
        ["rows fitted on", *map(size_name, sizes), *(f"keep `{encoder}`" for encoder in KEEP.values())],
        ["---", *["---:"] * (len(sizes) + len(KEEP))],
        ["R@1", *(_short(f["r1"]["mean"]) if f else "" for f in curve), *(_short(f["r1"]) for f in keep)],
        ["R@10", *(_short(f["r10"]["mean"]) if f else "" for f in curve), *(_short(f["r10"]) for f in keep)],
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(summary: dict[str, Figures], protocol: str, method: str, pairs: float) -> Figures:
    """Figures of a method and a number of pairs; empty if not measured."""
    return summary.get(protocol, {}).get(method, {}).get(size_name(pairs), {})


def _recalls(figures: Figures | None) -> str:
    if figures is None:
        return ""
    r1, r10 = (f["mean"] if isinstance(f, dict) else f for f in (figures["r1"], figures["r10"]))
    return f"{_short(r1)} / {_short(r10)}"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def note(summary: dict[str, Figures]) -> str:
    """Format the explanation of the table."""
    spreads = [
        cell[test]["r1"]["spread"]
        for protocol in (STANDARD, OWN)
        for method in summary[protocol].values()
        for pairs, cell in method.items()
        for test in TESTS
        if test in cell and pairs not in ("0", "50", "100")
    ]
    return (
        f"R@1 / R@10 of the true neighbor by the number of pairs fitted on; means of {len(SEEDS)} draws of the pairs "
        f"(from 300 pairs, R@1 differs by at most {_short(max(spreads))} between draws). *Own index*: the pairs are "
        "rows of the index that is searched, and ea_jax starts from its fit on the standard split. Networks are "
        f"trained for at most {MLP_STEPS:,} (MLP-256) and {RESMLP_STEPS:,} (ResMLP, 256 wide, 2 blocks) steps of 256 "
        "pairs, with early stopping, and once on all pairs. *Keep the source model*: embed the corpus again."
    )


def is_complete(rows: dict[str, Figures]) -> bool:
    """Whether every row has been measured."""
    return all(str(key) in rows for key in planned_fits()) and all(name in rows for name in KEEP)


def write_part(part: str, figures: Figures) -> None:
    """Replace one part of fit.json. Each part names the machine of its measurement."""
    file = results_file(__file__)
    parts = json.loads(file.read_text()) if file.exists() else {}
    parts[part] = {"machine": describe(), **figures}
    file.write_text(json.dumps(parts, indent=1, ensure_ascii=False) + "\n")


def confidence_figures(files: Files, seed: int) -> dict[str, float]:
    """Measure the scores of an own-index fit: AUROC of the worst queries, calibration, and foreign vectors."""
    protocol = protocols(files)[OWN]
    test = protocol.tests[OWN]
    x = test.x[PLUS]
    fitted = fit_own(files, PLUS, CONFIDENCE_ROWS, seed)[0]
    quality: Quality = fitted.quality
    scores = quality(quality.params, x)
    confidence, expected = np.asarray(scores.confidence), np.asarray(scores.expected_cosine)
    cosine = cosines(fitted.apply(x, purpose="store"), test.y)
    queries = fitted.apply(x, purpose="query")
    hits = test.hits(queries, test.corpus_y)[f"recall@{TOP}"]
    after = np.asarray(quality.after_search(quality.params, confidence, search(queries, test.corpus_y, TOP).score))

    def accepted(vectors: Vectors) -> float:
        return float((np.asarray(quality(quality.params, vectors).confidence) >= SURE).mean())

    return {
        "auroc_worst_tenth": auroc(-expected, cosine <= np.quantile(cosine, WORST)),
        "recall@10": float(hits.mean()),
        "calibration_error": calibration_error(confidence, hits),
        "auroc_hit": auroc(confidence, hits > 0),
        **kept(confidence, threshold_for(quality, PROMISE).confidence, hits),
        "calibration_error_after_search": calibration_error(after, hits),
        "auroc_hit_after_search": auroc(after, hits > 0),
        **{
            f"{name}_after_search": value
            for name, value in kept(after, threshold_for(quality, PROMISE, after_search=True).confidence, hits).items()
        },
        **{f"confident of {name}": accepted(rows) for name, rows in foreign(files, protocol.x[PLUS], seed).items()},
    }


def kept(confidence: Float[np.ndarray, " n"], threshold: float, hits: Float[np.ndarray, " n"]) -> dict[str, float]:
    """Fraction of queries at or above a threshold, and their recall; 1 if there are none."""
    above = confidence >= threshold
    return {"kept": float(above.mean()), "recall_of_kept": float(hits[above].mean()) if above.any() else 1.0}


def foreign(files: Files, own: Vectors, seed: int) -> dict[str, Vectors]:
    """Unit vectors of other origins than the source model, in its width."""
    rng = np.random.default_rng(seed)
    width = own.shape[1]
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    vectors = split_module(files.data).vectors
    others = {name: np.resize(vectors(name).T, (width, len(vectors(name)))).T for name in OTHER_MODELS}
    vectors_by_kind = {
        "random unit vectors": rng.normal(size=(CONFIDENCE_ROWS, width)),
        "permuted own rows": own[:, rng.permutation(width)],
        "rotated own rows": own @ rotation,
        **others,
    }
    return {
        name: (v / np.linalg.norm(v, axis=1, keepdims=True)).astype(np.float32) for name, v in vectors_by_kind.items()
    }


def auroc(score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Area under the ROC curve: the probability that a positive scores above a negative."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score))


def calibration_error(confidence: Float[np.ndarray, " n"], hits: Float[np.ndarray, " n"]) -> float:
    """Expected calibration error over bins with equal numbers of queries. Source: Naeini et al. 2015, AAAI."""
    bins = np.array_split(np.argsort(confidence, kind="stable"), BINS)
    return float(sum(len(b) * abs(confidence[b].mean() - hits[b].mean()) for b in bins) / len(hits))


def measure_confidence(files: Files) -> Figures:
    """`confidence_figures` of each seed, as means and spreads."""
    by_seed = []
    for seed in SEEDS:
        by_seed.append(confidence_figures(files, seed))
        say(f"seed {seed}: " + ", ".join(f"{name} {value:.3f}" for name, value in by_seed[-1].items()))
    return {
        "rows": CONFIDENCE_ROWS,
        "promise": PROMISE,
        "figures": {name: _mean_and_spread([figures[name] for figures in by_seed]) for name in by_seed[0]},
    }


def measure_time(files: Files) -> Figures:
    """Measure seconds and peak memory (MiB, without mapped files) of fits on vectors, each in its own process."""
    folder = files.build / "fit-time"
    # The peak of a child includes that of its parent at the start, so this process loads no vectors.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        quality = pool.submit(_prepare, files, folder).result()
        results: Figures = {}
        for name in ("few", "own", "standard", "synthetic"):
            start = quality if name in ("few", "own") else None
            results[name] = _rounded(pool.submit(_time_one, folder, name, start).result())
            say(f"{name}: {results[name]}")
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    return {"figures": results}


def _prepare(files: Files, folder: Path) -> Quality:
    """Write the pairs of each case to the folder, and return the prior."""
    start_jax()
    folder.mkdir(parents=True, exist_ok=True)
    own, standard = (protocols(files)[name] for name in (OWN, STANDARD))
    few = own.sample(TIMED_OWN_ROWS, 0)
    cases = {
        "few": (own.x[PLUS][few], own.y[few]),
        "own": (own.x[PLUS], own.y),
        "standard": (standard.x[PLUS], standard.y),
    }
    for name, (x, y) in cases.items():
        np.save(folder / f"{name}-x.npy", x)
        np.save(folder / f"{name}-y.npy", y)
    assert own.corpus_y is not None
    for name in ("few", "own"):
        np.save(folder / f"{name}-corpus.npy", own.corpus_y)
    _write_synthetic(folder, own.x[PLUS].shape[1], own.y.shape[1])
    return prior(files, PLUS)[0].quality


def _write_synthetic(folder: Path, d_in: int, d_out: int) -> None:
    """Write pairs of unit rows in float16: linear maps of common Gaussian factors, each with independent noise."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(SYNTHETIC_RANK, d)).astype(np.float32) for d in (d_in, d_out)]
    names = ("synthetic-x.npy", "synthetic-y.npy")
    files = [
        np.lib.format.open_memmap(folder / name, "w+", np.float16, (SYNTHETIC_ROWS, m.shape[1]))
        for name, m in zip(names, maps, strict=True)
    ]
    for i in range(0, SYNTHETIC_ROWS, SYNTHETIC_BLOCK):
        factors = rng.standard_normal((SYNTHETIC_BLOCK, SYNTHETIC_RANK), np.float32)
        for file, m in zip(files, maps, strict=True):
            rows = factors @ m + 4 * rng.standard_normal((SYNTHETIC_BLOCK, m.shape[1]), np.float32)
            file[i : i + SYNTHETIC_BLOCK] = rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _time_one(folder: Path, name: str, start: Quality | None) -> dict[str, float]:
    """Time one fit in a new process."""
    start_jax()
    is_synthetic = name == "synthetic"
    x, y = (np.load(folder / f"{name}-{side}.npy", mmap_mode="r" if is_synthetic else None) for side in "xy")
    corpus = np.load(folder / f"{name}-corpus.npy") if start is not None else None
    seconds = timed_fit(partial(fit, x, y, prior=start, corpus=corpus, fine_tune=not is_synthetic))[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    mapped = (x.nbytes + y.nbytes) / 1024**2 if is_synthetic else 0  # pages of the files, which the system can reclaim
    return {"pairs": len(x), "d_in": x.shape[1], "d_out": y.shape[1], "seconds": seconds, "peak_mib": peak - mapped}


def size(text: str) -> float:
    """Parse a number of pairs, or `all`."""
    return {size_name(n).replace(",", ""): n for n in (*SIZES, math.inf)}[text]


def say(text: str) -> None:
    """Print to stderr and flush."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure one part, print it, and write it if it is complete."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle torch threads must not spin on shared cores
    parser = argparse.ArgumentParser(prog="benchmarks.fit")
    parser.add_argument("data", type=Path)
    parser.add_argument("build", type=Path)
    parser.add_argument("--confidence", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--sizes", nargs="+", type=size, metavar="N", default=[*SIZES, math.inf], help="or: all")
    parser.add_argument("--again", nargs="+", choices=[*METHODS, *ENCODERS], default=[])
    options = parser.parse_args()
    files = Files(options.data, options.build)
    if options.time:
        figures = measure_time(files)
        write_part("time", figures)
        readme.update("fit time")
        print(json.dumps(figures, indent=1))
        return
    start_jax()
    if options.confidence:
        figures = measure_confidence(files)
        write_part("confidence", figures)
        readme.update("fit confidence")
        print(json.dumps(figures, indent=1))
        return
    rows = run(files, options.methods, options.sizes, options.again)
    if not is_complete(rows):
        say("Some rows are still to be measured; their cells in the tables are empty.")
    summary = summarize(rows)
    write_part("learning_curves", {"figures": summary})
    text = f"{note(summary)}\n\n{table(summary)}"
    readme.update("fit", "own index")
    print(text, own_table(summary), sep="\n\n")


if __name__ == "__main__":
    main()
