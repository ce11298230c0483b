"""Fit an adapter and its quality part: pairs, folds, features, output layers, out-of-fold outputs, quality.

A choice is made from data only where it changes results by more than its sampling error, and by one criterion: the mean
reciprocal rank of the true neighbor for held-out queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapters.adapter import Adapter, forward
from ea_jax.adapters.families import build
from ea_jax.adapters.quantization import column_grid, packed, unpacked
from ea_jax.adapters.spec import Purpose, Spec
from ea_jax.domain_statistics import PRIOR_ROWS, SAMPLE, prior_directions
from ea_jax.errors import BadInput
from ea_jax.fitting.features import Features, kernel_features, linear_features
from ea_jax.fitting.folds import FOLDS, group_folds
from ea_jax.fitting.quality import Foreign, OutOfFold, fit_quality
from ea_jax.fitting.query_layer import FINE_TUNING, FineTuned, fine_tune, similarity_map, whitened
from ea_jax.quality.schema import prepared
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.neighbors import SAME, TOP, Searched, search_native, unit_rows
from ea_jax.ridge import Directions, Ridge, fit_ridge, pooled, solve_ridge
from ea_jax.solve import Affine, Moments, covariance, moments
from ea_jax.train import Held
from ea_jax.typing import ArrayIn, Params, leaf_paths

Family = Literal["linear", "kernel", "auto"]
FAMILIES: dict[Family, tuple[str, ...]] = {
    "linear": ("linear",),
    "kernel": ("kernel",),
    "auto": ("linear", "kernel"),
}
LEAST_PAIRS = 50  # fewer held-out queries tell nothing
RANKED = 4096  # out-of-fold queries that search the corpus; their sampling error is below .005
FINE_TUNED = 16384  # pairs, each of which 60 steps see four times at the most
VALIDATION = 1000  # queries that stop fine-tuning
CORPUS = 16384  # native vectors that queries search, which bounds time and memory
BLOCK = 8192


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns.

    Attributes:
        family: Which module computes it.
        sizes: The family's widths and counts.
        params: What a registry entry stores: an output layer `out` for each purpose, weights as int8 codes.
        quality_params: What a registry entry stores of the quality part.
        report: What was fitted on and chosen, and figures of held-out queries.
    """

    family: str
    sizes: dict[str, int]
    params: Params
    quality_params: Params
    report: dict[str, Any]

    def apply(self, x: Float[ArrayIn, "n d_in"], purpose: Purpose = "store") -> Float32[np.ndarray, "n d_out"]:
        """Outputs of unit length for source embeddings."""
        adapter = self.adapter(purpose)
        module = build(adapter.spec)
        blocks = [np.asarray(x[i : i + BLOCK], np.float32) for i in range(0, len(x), BLOCK)]
        return np.concatenate([np.asarray(forward(module, adapter.params, block)) for block in blocks])

    def adapter(self, purpose: Purpose = "store") -> Adapter:
        """The adapter for a purpose, without the names of its models."""
        params = unpacked(self.params | {"out": self.params["out"][purpose]})
        return Adapter(replace(self._spec, purpose=purpose), params)

    @property
    def quality(self) -> Quality:
        """Its quality part: `fitted.quality(fitted.quality.params, x)`; also a prior for another fit."""
        return Quality(self._spec, {**prepared(self.quality_params), "adapter": self.adapter().params})

    @property
    def parameters(self) -> int:
        """Numbers that a call for one purpose reads."""
        return sum(leaf.size for leaf in leaf_paths(self.adapter().params).values())

    @property
    def _spec(self) -> Spec:
        d_in, d_out = len(self.quality_params["mean"]), len(self.params["out"]["store"]["bias"])
        return Spec(self.family, "", "", d_in, d_out, sizes=tuple(sorted(self.sizes.items())))


class Prior(NamedTuple):
    """What a fit starts from.

    Attributes:
        kernel: Of the store layer.
        quality: Parameters of the quality part, prepared; None where the prior has none.
        xx: Covariance of the source embeddings, out of the quality part.
        target: Directions of the target embeddings, likewise.
    """

    kernel: Float[np.ndarray, "d_in d_out"] | None = None
    quality: Params | None = None
    xx: Float[np.ndarray, "d_in d_in"] | None = None
    target: Directions | None = None


class Solution(NamedTuple):
    """Closed-form output layers, and their outputs for a sample of the pairs by fits without each pair's fold.

    Attributes:
        ridge: The store layer.
        query: The query layer.
        without: Query layer of a fit without the fold number 0.
        rows: Row numbers of the sample.
        store: Out-of-fold store outputs of the sample, not of unit length.
        asked: Out-of-fold query outputs of its first rows.
        searched: What these find in the corpus.
    """

    ridge: Ridge
    query: Affine
    without: Affine
    rows: Int[np.ndarray, " s"]
    store: Float32[np.ndarray, "s d_out"]
    asked: Float32[np.ndarray, "q d_out"]
    searched: Searched


def fit(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    *,
    prior: Adapter | Quality | None = None,
    family: Family = "linear",
    groups: Sequence[str] | None = None,
    corpus: Float[ArrayIn, "m d_out"] | None = None,
    foreign: Foreign | None = None,
    blocks: Mapping[str, slice] | None = None,
    fine_tune: bool = True,
    seed: int = 0,
    show_progress: bool = False,
) -> Fitted:
    """Fit an adapter for both purposes with its quality part, and measure it on held-out queries.

    The store layer is ridge regression towards the prior. The query layer is that, partially whitened, and fine-tuned
    where held-out queries gain by more than the standard error. Figures are of fits without the held-out pairs; what is
    returned is then fitted on all pairs.

    Args:
        x: Source embeddings, at the scale at which they will come in. Memory maps larger than memory are streamed.
        y: Target embeddings of unit length, row-aligned with x.
        prior: A linear adapter for `store` between the same spaces, which the fit stays near to. Give a
            `Quality`: with the covariances and the quality part that it brings, few pairs improve `query` too.
        family: `linear`; `kernel` for bare vectors of a plain source, if no text is at hand; `auto` takes whichever
            ranks better.
        groups: What must not straddle a fold (document, repository, customer); rows are their own groups if None.
        corpus: Native vectors that queries will search, where the index holds more than y.
        foreign: Source embeddings of junk texts, and of ordinary texts unlike the pairs: the confidence learns to tell
            them apart. Vectors of no text at all are made here.
        blocks: Columns of x that are embeddings of their own, by name, as in a composite: keeping one of them for
            queries and corpus may be the better alternative, and the report then compares with that.
        fine_tune: Whether to try contrastive fine-tuning of the query layer.
        seed: Random seed; the same one gives the same result.
        show_progress: Draw bars on stderr.

    Raises:
        BadInput: x and y have different lengths, there are too few pairs, a value is not finite, the prior is not
            linear or of other widths, or another argument is not what it must be.
    """
    _check(x, y, groups, family, corpus)
    start = _read_prior(prior, x.shape[1], y.shape[1])
    if start.kernel is not None and family != "linear":
        raise BadInput(f"family is {family!r}, but a fit with a prior is linear. Leave one of the two out.")
    fold = group_folds(groups, len(x))
    native = _native(y if corpus is None else corpus, seed)
    candidates = []
    for name in FAMILIES[family]:
        features = linear_features(x) if name == "linear" else kernel_features(x, seed)
        candidates.append((features, _solve(features.z, y, fold, start, native, seed)))
    features, solution = max(candidates, key=lambda candidate: float(np.mean(1 / candidate[1].searched.rank)))
    validation = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(fold == 0))[:VALIDATION]
    query, tuned = solution.query, FineTuned(solution.without, 0, [])
    if fine_tune and (fold != 0).sum() >= FINE_TUNING.batch:  # fewer negatives than a batch mislead
        query, tuned = _fine_tuned(features, y, fold, solution, validation, native, seed, show_progress)
    figures = _figures(features, x, y, blocks or {}, solution, tuned, validation, seed)
    out = OutOfFold(solution.rows, solution.store, solution.searched.rank <= TOP, solution.searched.top)
    quality = fit_quality(x, y, fold, out, start.quality, foreign, seed=seed)
    quality["similarity"] = similarity_map(
        solution.asked[:VALIDATION], _float(y[solution.rows[: len(solution.asked)][:VALIDATION]]), native[:4096]
    )
    layers = {"store": solution.ridge.layer, "query": query}
    params = features.params | {"out": {name: _stored(layer) for name, layer in layers.items()}}
    report = {
        "pairs": len(x),
        "groups": len(set(groups)) if groups is not None else len(x),
        "corpus": len(native),
        "prior": "given" if start.kernel is not None else "none",
        "penalty": solution.ridge.penalty,
        "fine_tuning_steps": tuned.steps,
        **figures,
    }
    return Fitted(features.family, features.sizes, params, quality, report)


def verdict(report: dict[str, Any], source: str) -> str:
    """A sentence: recall of local queries, recall of keeping the source model, and which of them is better."""
    ours, keep, n = report["query"], report["keep_source"], report["held_out_queries"]
    source = source if report["kept"] == "source" else report["kept"]
    found = f"{ours['recall@10']:.1%} of {n:,} held-out queries find their true neighbor among the first ten"
    beside = (
        f"({ours['recall@1']:.1%} first); with {source} on both sides, {keep['recall@10']:.1%} ({keep['recall@1']:.1%})"
    )
    error = np.hypot(ours["standard_error"], keep["standard_error"])
    difference = ours["reciprocal_rank"] - keep["reciprocal_rank"]
    if difference > error:
        return f"{found} {beside}. The adapter is better."
    if difference < -error:
        return f"{found} {beside}. Embedding the corpus again with {source} would rank better."
    return f"{found} {beside}. They differ by less than the sampling error."


def _check(x: Any, y: Any, groups: Sequence[str] | None, family: str, corpus: Any) -> None:
    if len(x) != len(y) or (groups is not None and len(groups) != len(x)):
        raise BadInput(f"x has {len(x)} rows and y {len(y)}; pairs (and their groups) must be row-aligned.")
    if len(x) < LEAST_PAIRS:
        raise BadInput(f"There are {len(x)} pairs; a fit needs {LEAST_PAIRS} at the least, and thousands to be good.")
    if family not in FAMILIES:
        raise BadInput(f"family is {family!r}; it must be one of {', '.join(FAMILIES)}.")
    if corpus is not None and (corpus.ndim != 2 or corpus.shape[1] != y.shape[1]):
        raise BadInput(f"corpus has shape {corpus.shape}, but targets have width {y.shape[1]}; give native vectors.")
    if corpus is not None and len(corpus) <= TOP:
        raise BadInput(f"corpus has {len(corpus)} rows; queries need more than {TOP} to search. Leave it out to use y.")
    for start in range(0, len(x), BLOCK):
        a, b = (np.isfinite(np.asarray(v[start : start + BLOCK])).all(axis=1) for v in (x, y))
        if not (a & b).all():
            row = start + int((~(a & b)).argmax())
            raise BadInput(f"Row {row} of x or y has a value that is not finite. Leave such pairs out.")


def _read_prior(prior: Adapter | Quality | None, d_in: int, d_out: int) -> Prior:
    if prior is None:
        return Prior()
    spec = prior.spec
    params = prior.params["adapter"] if isinstance(prior, Quality) else prior.params
    if spec.family != "linear" or spec.purpose != "store":
        raise BadInput(f"The prior is a {spec.family} adapter for {spec.purpose}; give a linear one for store.")
    if (spec.d_in, spec.d_out) != (d_in, d_out):
        raise BadInput(f"The prior maps width {spec.d_in} to {spec.d_out}, but the pairs have {d_in} and {d_out}.")
    quality = prior.params if isinstance(prior, Quality) and "cosine" in prior.params else None
    kernel = np.asarray(params["out"]["kernel"], np.float64)
    if quality is None:
        return Prior(kernel)
    return Prior(kernel, quality, prior_directions(quality).matrix(), prior_directions(quality["target"]))


def _native(corpus: Float[ArrayIn, "m d_out"], seed: int) -> Float32[np.ndarray, "c d_out"]:
    """A sample of the native corpus in memory, of unit length."""
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(corpus))[:CORPUS])
    return unit_rows(corpus[rows])


def _solve(
    z: Float[ArrayIn, "n d"],
    y: Float[ArrayIn, "n d_out"],
    fold: Int[np.ndarray, " n"],
    prior: Prior,
    native: Float32[np.ndarray, "c d_out"],
    seed: int,
) -> Solution:
    """Output layers in closed form on all pairs, and on all folds but one for each fold."""
    parts = [moments(z, y, np.flatnonzero(fold == k)) for k in range(FOLDS)]
    whole = reduce(Moments.plus, parts)
    ridge = fit_ridge(z, y, whole, prior.kernel, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(z))[:SAMPLE]
    store = np.zeros((len(rows), y.shape[1]), np.float32)
    asked = np.zeros((min(RANKED, len(rows)), y.shape[1]), np.float32)
    without = None
    for k in range(FOLDS):
        others, m = np.flatnonzero(fold != k), whole.minus(parts[k])
        few = (_float(z[others]), _float(y[others])) if len(others) < max(z.shape[1], y.shape[1]) else (z, y)
        layer = solve_ridge(few[0], covariance(m), ridge.penalty, prior.kernel)
        query = _query(layer, *few, m, prior)
        inside = np.flatnonzero(fold[rows] == k)
        inputs = _float(z[rows[inside]])
        store[inside] = layer.apply(inputs)
        first = inside < len(asked)
        asked[inside[first]] = query.apply(inputs[first])
        without = query if k == 0 else without
    assert without is not None
    found = search_native(unit_rows(asked), unit_rows(y[rows[: len(asked)]]), native)
    return Solution(ridge, _query(ridge.layer, z, y, whole, prior), without, rows, store, asked, found)


def _query(store: Affine, z: Float[ArrayIn, "n d"], y: Float[ArrayIn, "n d_out"], m: Moments, prior: Prior) -> Affine:
    """The query layer in closed form; its covariances are pooled with the prior's."""
    c, own = covariance(m), len(z) / (len(z) + PRIOR_ROWS)
    xx = c.xx if prior.xx is None else own * c.xx + (1 - own) * prior.xx
    return whitened(store, c, xx, pooled(y, c.y_mean, c.yy, prior.target, PRIOR_ROWS))


def _fine_tuned(
    features: Features,
    y: Float[ArrayIn, "n d_out"],
    fold: Int[np.ndarray, " n"],
    solution: Solution,
    validation: Int[np.ndarray, " v"],
    native: Float32[np.ndarray, "c d_out"],
    seed: int,
    show_progress: bool,
) -> tuple[Affine, FineTuned]:
    """The query layer fine-tuned on all pairs for as many steps as queries of fold 0 gained from, or as it was."""
    z, others = features.z, np.flatnonzero(fold != 0)
    asked, answers = _float(z[validation]), unit_rows(y[validation])
    itself = np.concatenate(
        [(native[i : i + BLOCK] @ answers.T >= SAME).any(axis=1) for i in range(0, len(native), BLOCK)]
    )
    held = Held(asked, answers, native[~itself])
    kept = others[np.random.default_rng([seed, 3]).permutation(len(others))[:FINE_TUNED]]
    rows = np.sort(kept)
    tuned = fine_tune(solution.without, z, y, held, rows=rows, seed=seed, show_progress=show_progress)
    if not tuned.steps or not _gains(tuned.layer, solution.without, held):
        return solution.query, FineTuned(solution.without, 0, tuned.scores)
    again = replace(FINE_TUNING, steps=tuned.steps, every=tuned.steps)
    rows = np.sort(np.concatenate([rows, np.flatnonzero(fold == 0)]))
    final = fine_tune(solution.query, z, y, held, again, rows=rows, seed=seed, show_progress=show_progress)
    return final.layer, tuned


def _gains(layer: Affine, start: Affine, held: Held) -> bool:
    """Whether held-out reciprocal ranks rise by more than the standard error of their difference."""
    x, native, corpus = (np.asarray(rows) for rows in held)
    after, before = (1 / search_native(unit_rows(a.apply(x)), native, corpus).rank for a in (layer, start))
    return bool(np.mean(after - before) > np.std(after - before) / np.sqrt(len(x)))


def _figures(
    features: Features,
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    blocks: Mapping[str, slice],
    solution: Solution,
    tuned: FineTuned,
    validation: Int[np.ndarray, " v"],
    seed: int,
) -> dict[str, Any]:
    """Figures of held-out queries that search the pairs, by the adapter and by the best of the source embeddings."""
    rows = solution.rows[: len(solution.asked)]
    asked, outputs = rows, solution.asked
    if tuned.steps:
        asked, outputs = validation, tuned.layer.apply(_float(features.z[validation]))
    searched = np.sort(np.random.default_rng([seed, 4]).permutation(len(x))[:CORPUS])
    corpus, native = unit_rows(y[searched]), unit_rows(y[asked])
    ours = search_native(unit_rows(outputs), native, corpus).rank
    sources = {"source": slice(None), **blocks}
    keep = {
        name: search_native(unit_rows(x[asked][:, part]), native, corpus, unit_rows(x[searched][:, part])).rank
        for name, part in sources.items()
    }
    kept = max(keep, key=lambda name: float(np.mean(1 / keep[name])))
    truth = unit_rows(y[solution.rows])
    mean = unit_rows(truth.mean(axis=0)[None])[0]
    return {
        "held_out_queries": len(asked),
        "query": _recalls(ours),
        "keep_source": _recalls(keep[kept]),
        "kept": kept,
        "store": {
            "cosine": round(float(np.mean(np.sum(unit_rows(solution.store) * truth, axis=1))), 4),
            "cosine_of_mean_vector": round(float(np.mean(truth @ mean)), 4),
        },
    }


def _recalls(ranks: Int[np.ndarray, " q"]) -> dict[str, float]:
    figures = {f"recall@{k}": float(np.mean(ranks <= k)) for k in (1, TOP)}
    figures |= {"reciprocal_rank": float(np.mean(1 / ranks))}
    figures |= {"standard_error": float(np.std(1 / ranks) / np.sqrt(len(ranks)))}
    return {name: round(value, 4) for name, value in figures.items()}


def _stored(layer: Affine) -> Params:
    """An output layer as it is stored: its kernel as int8 codes."""
    if not np.isfinite(layer.kernel).all():
        raise BadInput("The fit is not finite. Are there values near the largest of their dtype in x or y?")
    return {"kernel": packed(column_grid(layer.kernel)), "bias": layer.bias.astype(np.float32)}


def _float(rows: ArrayIn) -> Float32[np.ndarray, "n d"]:
    return np.asarray(rows, np.float32)
