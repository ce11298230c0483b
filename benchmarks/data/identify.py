"""How often does `ea-jax identify` name the model that made vectors of sources it has not seen?

    python -m benchmarks.data.identify ../shared/data build
    python -m benchmarks.data.identify ../shared/data build registry/signatures.npz

The sources of each space are dealt into five folds. Samples of a fold are scored with a signature of the other folds,
and with a calibration that was fitted without the fold. Where only one source has twenty rows, one half of it is scored
with the other, which says less. Unknown spaces are each space in turn, its own signature left out, and vectors that
were rotated, permuted, or sampled at random. With a third argument, signatures of all sources are written there, with a
calibration on all samples.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.fft import dct
from scipy.optimize import minimize

from benchmarks import readme
from benchmarks.data.corpora import embedded, mixed, split_module
from benchmarks.machine import write_json
from ea_jax.registry.identification import (
    SURE,
    Reference,
    Signature,
    Signatures,
    features,
    fits,
    log_odds,
    make_signature,
    reference,
    save_signatures,
)
from ea_jax.registry.spaces import find_space

FILES = {
    "openai/text-embedding-3-small": ("oai-3-small", "oai-3-small-2"),
    "openai/text-embedding-3-large": ("oai-3-large", "oai-3-large-2"),
    "openai/text-embedding-ada-002": ("oai-ada-002", "oai-ada-002-2"),
    "gemini/gemini-embedding-001": ("gemini-001", "gemini-001-2"),
    "gemini/text-embedding-004": ("gemini-text-004-2",),
    "BAAI/bge-large-en-v1.5": ("bge-large",),
    "BAAI/bge-m3": ("bge-m3-2",),
    "nomic-ai/nomic-embed-text": ("nomic", "nomic-2"),
    "mixedbread-ai/mxbai-embed-large-v1": ("mxbai-large-2",),
    "mistral/mistral-embed": ("mistral-embed-2",),
    "amazon/titan-embed-text-v2": ("titan-v2-2",),
    "cohere/embed-english-v3.0": ("cohere-en-3",),
    "Snowflake/snowflake-arctic-embed-l": ("arctic-l",),
}
LOCAL = ("minilm", "wordllama", "minilm-plus")
VARIED = (
    "oai-3-small",
    "oai-3-small-2",
    "bge-m3-2",
    "gemini-text-004-2",
    "mistral-embed-2",
    "mxbai-large-2",
    "titan-v2-2",
)
VARIED_ROWS, VARIED_LENGTH, ENGLISH = 50, 600, 0.9
CUTS = {  # spaces whose makers say that the leading numbers are an embedding too, and widths to judge at
    "openai/text-embedding-3-small": (512, 384, 256),
    "openai/text-embedding-3-large": (1536, 1024, 256),
    "gemini/gemini-embedding-001": (1536, 768),
    "gemini/text-embedding-004": (512, 256),
    "mixedbread-ai/mxbai-embed-large-v1": (512,),
    "nomic-ai/nomic-embed-text": (512, 256),
    "dleemiller/word-llama-l2-supercat": (128, 64),
}
RELATIVES = ("BAAI/bge-large-en-v1.5", "mixedbread-ai/mxbai-embed-large-v1")  # their means have a cosine of .85
# Labelled text-embedding-004, but its mean has a cosine of -.05 to -.02 with those of the other sources, which have .38
# to .72 with each other.
DOUBTFUL = "Selvadev2/PDF_Reader"
FOLDS, CAP, DRAWS = 5, 500, 8
SIZES, LEAST = (200, 20, 10), 50  # a source of 50 to 199 rows is one sample of all its rows
MOVED, CHECKED, LEFT_OUT = ("rotated", "permuted"), "doubtful label", "left out: "
RANDOM = ("normal", "uniform", "normal around a mean", "alike")
PENALTY = 1e-4


class Sample(NamedTuple):
    """Features of a sample by space; `space` made it, None where no known one did."""

    space: str | None
    kind: str
    source: str
    fold: int
    rows: int
    evidence: dict[str, np.ndarray]


def read_sources(data: Path, build: Path) -> dict[str, dict[str, np.ndarray]]:
    """Unit vectors by space and source; at most 500 rows of each source."""
    rng, split, result = np.random.default_rng(0), split_module(data), {}
    for space, files in FILES.items():
        source = np.array([row["source"] for file in files for row in split.rows(file)])
        result[space] = _by_source(np.concatenate([split.vectors(file) for file in files]), source, rng)
    english, (text, source) = mixed(data, build, LOCAL), varied_texts(split)
    every = embedded(build, "varied", "minilm-plus", text)
    varied = {"minilm": every[:, 768:1152], "wordllama": every[:, 1152:], "minilm-plus": every}  # blocks of minilm-plus
    for name in LOCAL:
        vectors = np.concatenate([english.vectors[name], varied[name]])
        result[find_space(name).id] = _by_source(vectors, np.concatenate([english.source, source]), rng)
    return result


def varied_texts(split: Any) -> tuple[list[str], np.ndarray]:
    """Beginnings of texts of many kinds and languages, and their sources."""
    by_source: dict[str, list[dict[str, Any]]] = {}
    for file in VARIED:
        for row in split.rows(file):
            by_source.setdefault(f"{file}: {row['source']}", []).append(row)
    text, source = [], []
    for name, rows in by_source.items():
        foreign = np.mean([row["ascii"] for row in rows]) < ENGLISH
        if len(rows) >= SIZES[1] and (foreign or not name.startswith("oai-3-small: ")):
            chosen = np.random.default_rng(0).permutation(len(rows))[:VARIED_ROWS]
            text += [rows[i]["text"][:VARIED_LENGTH] for i in chosen]
            source += [name] * len(chosen)
    return text, np.array(source)


def _by_source(vectors: np.ndarray, source: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    there = vectors.any(axis=1)  # WordLlama has no token of some texts
    vectors, source = vectors[there], source[there]
    return {str(name): vectors[rng.permutation(np.flatnonzero(source == name))[:CAP]] for name in np.unique(source)}


def in_halves(sources: dict[str, np.ndarray]) -> bool:
    """Whether only one source has rows enough for a sample."""
    return sum(len(x) >= SIZES[1] for x in sources.values()) < 2


def deal(sources: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Sources in folds of about equal size; halves of the only large one."""
    if in_halves(sources):
        name, x = max(sources.items(), key=lambda item: len(item[1]))
        return [{name: x[::2]}, {name: x[1::2]}]
    folds: list[dict[str, np.ndarray]] = [{} for _ in range(min(FOLDS, len(sources)))]
    for name, x in sorted(sources.items(), key=lambda item: -len(item[1])):
        min(folds, key=lambda fold: sum(map(len, fold.values())))[name] = x
    return folds


def draw_samples(sources: dict[str, dict[str, np.ndarray]]) -> Iterator[Sample]:
    """Samples of sources that their space's signature was made without, whole, cut, rotated and permuted."""
    whole = Known({space: signature(space, s) for space, s in sources.items()})
    rng = np.random.default_rng(1)
    for space, held in sources.items():
        folds = deal({name: x for name, x in held.items() if name != DOUBTFUL})
        for k, fold in enumerate(folds):
            rest = {name: x for j, other in enumerate(folds) if j != k for name, x in other.items()}
            known = whole.with_space(space, signature(space, rest))
            for source, x in fold.items():
                yield from _of_source(space, "", source, k, x, known, rng)
        if DOUBTFUL in held:
            yield from _of_source(space, CHECKED, DOUBTFUL, 0, held[DOUBTFUL], whole, rng)
    for d in (64, 128, 256, 384, 512, 768, 1024, 1408, 1536, 3072):
        for size in SIZES:
            for i, (kind, x) in enumerate(random_vectors(size, d, rng)):
                yield Sample(None, kind, kind, i % FOLDS, size, evidence(x, whole))


def _of_source(
    space: str, kind: str, source: str, fold: int, x: np.ndarray, known: "Known", rng: np.random.Generator
) -> Iterator[Sample]:
    for size in SIZES:
        for draw in range(DRAWS if len(x) > size else 1):
            if len(x) < min(size, LEAST):
                continue
            part = x[rng.permutation(len(x))[:size]]
            yield Sample(space, kind, source, fold, size, evidence(part, known))
            for width in CUTS.get(space, ()) if draw < 2 and not kind else ():
                yield Sample(space, f"cut to {width}", source, fold, size, evidence(part[:, :width], known))
            for way in MOVED if draw == 0 and not kind else ():
                yield Sample(None, way, source, fold, size, evidence(moved(part, way, rng), known))


def moved(x: np.ndarray, kind: str, rng: np.random.Generator) -> np.ndarray:
    """The same rows in other coordinates."""
    if kind == "permuted":
        return x[:, rng.permutation(x.shape[1])]
    for _ in range(2):  # random signs and a cosine transform, twice: as good as any rotation
        x = np.asarray(dct(x * rng.choice([-1.0, 1.0], x.shape[1]), norm="ortho", axis=1), np.float32)
    return x


def random_vectors(n: int, d: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """Vectors that no model made."""
    for _ in range(4):
        normal = rng.normal(size=(n, d))
        around = (rng.uniform(size=(n, d)), normal + 2 * rng.normal(size=d), 0.1 * normal + rng.normal(size=d))
        yield from zip(RANDOM, (normal, *around), strict=True)


def signature(space: str, sources: dict[str, np.ndarray]) -> Signature:
    """Of some sources of a space."""
    return make_signature([x for name, x in sources.items() if name != DOUBTFUL], space in CUTS)


class Known:
    """Signatures, with their references by width, which many samples share."""

    def __init__(
        self, spaces: dict[str, Signature], references: dict[tuple[str, int], Reference] | None = None
    ) -> None:
        self.spaces, self.references = spaces, references or {}

    def with_space(self, space: str, signature: Signature) -> "Known":
        """The same, but for the signature of one space."""
        references = {key: value for key, value in self.references.items() if key[0] != space}
        return Known(self.spaces | {space: signature}, references)

    def at(self, width: int) -> dict[str, Reference]:
        """References for vectors of a width, by space."""
        for space, s in self.spaces.items():
            if fits(s, width) and (space, width) not in self.references:
                self.references[space, width] = reference(s, width)
        return {space: self.references[space, width] for space, s in self.spaces.items() if fits(s, width)}


def evidence(x: np.ndarray, known: Known) -> dict[str, np.ndarray]:
    """Features of every space that the vectors may be of."""
    x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return {space: features(x, r) for space, r in known.at(x.shape[1]).items()}


def without(sample: Sample) -> Sample:
    """The same sample where its space has no signature."""
    kept = {space: f for space, f in sample.evidence.items() if space != sample.space}
    return sample._replace(space=None, kind=f"{LEFT_OUT}{sample.space}", evidence=kept)


def calibrate(samples: list[Sample]) -> np.ndarray:
    """Calibration of most likelihood; every space counts alike, and unknown ones as much as all of them."""
    samples = [
        sample for sample in samples if sample.kind != CHECKED and sample.kind.removeprefix(LEFT_OUT) not in RELATIVES
    ]
    group = [sample.space or "" for sample in samples]
    count = Counter(group)
    weight = np.array([(1 if name else len(count) - 1) / count[name] for name in group])
    spaces = sorted({space for sample in samples for space in sample.evidence})
    measured = np.full((len(samples), len(spaces), 3), np.nan)
    for i, sample in enumerate(samples):
        for space, feature in sample.evidence.items():
            measured[i, spaces.index(space)] = feature
    there, measured = ~np.isnan(measured[..., 0]), np.nan_to_num(measured)
    truth = [spaces.index(name) + 1 if name else 0 for name in group]

    def loss(calibration: np.ndarray) -> float:
        odds = np.where(there, log_odds(measured, calibration), -np.inf)
        odds = np.concatenate([np.zeros((len(odds), 1)), odds], axis=1)
        missed = np.logaddexp.reduce(odds, axis=1) - odds[np.arange(len(odds)), truth]
        return float(weight @ missed / weight.sum() + PENALTY * calibration @ calibration)

    return minimize(loss, np.array([-5.0, -1.0, 2.0]), method="BFGS").x


def answer(sample: Sample, calibration: np.ndarray) -> tuple[str | None, float]:
    """What `identify` answers for a sample, and the confidence of its best candidate."""
    if not sample.evidence:
        return None, 0.0
    odds = {space: float(log_odds(f, calibration)) for space, f in sample.evidence.items()}
    best = max(odds, key=lambda space: odds[space])
    confidence = float(np.exp(odds[best] - np.logaddexp.reduce([0, *odds.values()])))
    return best if confidence >= SURE else None, confidence


def score(samples: list[Sample]) -> list[tuple[Sample, bool, float]]:
    """Each sample, whether its answer is right, and the confidence, by a calibration without its fold."""
    fitted = [calibrate([sample for sample in samples if sample.fold != k]) for k in range(FOLDS)]
    scored = []
    for sample in samples:
        space, confidence = answer(sample, fitted[sample.fold])
        scored.append((sample, space == sample.space, confidence))
    return scored


def shares(scored: list[tuple[Sample, bool, float]], space: str | None, kind: str) -> dict[str, float]:
    """Share of right answers by number of rows."""
    result: dict[str, float] = {}
    for size in SIZES:
        right = [ok for s, ok, _ in scored if (s.space, s.kind, s.rows) == (space, kind, size)]
        if right:
            result[str(size)] = round(float(np.mean(right)), 3)
    return result


def reliability(scored: list[tuple[Sample, bool, float]]) -> dict[str, float]:
    """Share of right answers among the models named, by confidence."""
    named = [(confidence, ok) for _, ok, confidence in scored if confidence >= SURE]
    edges = (SURE, 0.7, 0.9, 0.97, 1.01)
    return {
        f"{low} to {min(high, 1)}": round(float(np.mean([ok for c, ok in named if low <= c < high])), 3)
        for low, high in pairwise(edges)
    }


def main(data: Path, build: Path, out: Path | None = None) -> None:
    """Print the tables and write identify.json, and the signatures if a path is given."""
    sources = read_sources(data, build)
    samples = list(draw_samples(sources))
    samples += [without(sample) for sample in samples if sample.space and not sample.kind]
    scored = score(samples)
    rows, unknown = {}, {}
    print("| space | sources | 200 rows | 20 rows | 10 rows | its signature left out |\n|" + " --- |" * 6)
    for space, held in sources.items():
        kinds = sorted({s.kind for s, _, _ in scored if s.space == space and s.kind})
        right, gone = shares(scored, space, ""), shares(scored, None, f"{LEFT_OUT}{space}")
        rows[space] = {
            "sources": len(held),
            "halves of one source": in_halves(held),
            "right": right,
            "left out, called unknown": gone,
            **{kind: shares(scored, space, kind) for kind in kinds},
        }
        mark = "halves of one" if in_halves(held) else str(len(held))
        cells = [f"{right.get(str(size), float('nan')):.3f}" for size in SIZES]
        print(f"| {space} | {mark} | {' | '.join(cells)} | {' / '.join(f'{share:.3f}' for share in gone.values())} |")
        for kind in kinds:
            print(f"| ... {kind} | | {' | '.join(f'{share:.3f}' for share in rows[space][kind].values())} | |")
    print("\n| called unknown | 200 rows | 20 rows | 10 rows |\n|" + " --- |" * 4)
    for kind in (*MOVED, *RANDOM):
        unknown[kind] = shares(scored, None, kind)
        print(f"| {kind} | {' | '.join(f'{share:.3f}' for share in unknown[kind].values())} |")
    calibration = calibrate(samples)
    figures = {"right": rows, "unknown": unknown, "right by confidence": reliability(scored)}
    print("\nright by confidence:", figures["right by confidence"], "calibration:", calibration.round(2).tolist())
    write_json(__file__, {"figures": figures, "calibration": calibration.round(3).tolist()})
    readme.update("identify")
    if out is not None:
        save_signatures(out, Signatures({space: signature(space, s) for space, s in sources.items()}, calibration))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
