"""Fit an adapter and its quality part: pairs, folds, features, output layers, out-of-fold outputs, quality.

A choice is made from data only where it changes results by more than its sampling error, and by one criterion: the mean
reciprocal rank of the true neighbor for held-out queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapters.adapter import Adapter
from ea_jax.adapters.families import FAMILIES
from ea_jax.errors import BadInput
from ea_jax.fitting.cross_validation import group_folds
from ea_jax.fitting.features import Features, fit_features, fitted_families
from ea_jax.fitting.output_layers import (
    Solution,
    as_float32,
    fit_output_layers,
    quantize_layer,
    read_prior,
    sample_corpus,
)
from ea_jax.fitting.quality import Foreign, OutOfFold, fit_quality
from ea_jax.fitting.query_layer import FINE_TUNING, FineTuned, fine_tune, similarity_map
from ea_jax.fitting.regression.moments import Affine
from ea_jax.fitting.report import measure_held_out
from ea_jax.fitting.result import Fitted
from ea_jax.fitting.training.train import Held
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.neighbors import SELF_COSINE, TOP, rank_true_neighbors, unit_rows
from ea_jax.typing import ArrayIn

AUTO = "auto"  # try every family, keep the one that ranks best
LEAST_PAIRS = 50  # fewer held-out queries tell nothing
FINE_TUNED = 16384  # pairs, each of which 60 steps see four times at the most
VALIDATION = 1000  # queries that stop fine-tuning
BLOCK = 8192


def fit(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    *,
    prior: Adapter | Quality | None = None,
    family: str = "linear",
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
    start = read_prior(prior, x.shape[1], y.shape[1])
    if start.kernel is not None and family != "linear":
        raise BadInput(f"family is {family!r}, but a fit with a prior is linear. Leave one of the two out.")
    fold = group_folds(groups, len(x))
    native = sample_corpus(y if corpus is None else corpus, seed)
    candidates = []
    for name in fitted_families() if family == AUTO else (family,):
        features = fit_features(name, x, y, seed)
        candidates.append((features, fit_output_layers(features.z, y, fold, start, native, seed)))
    features, solution = max(candidates, key=lambda candidate: float(np.mean(1 / candidate[1].searched.rank)))
    validation = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(fold == 0))[:VALIDATION]
    query, tuned = solution.query, FineTuned(solution.without, 0, [])
    if fine_tune and (fold != 0).sum() >= FINE_TUNING.batch:  # fewer negatives than a batch mislead
        query, tuned = _fine_tuned(features, y, fold, solution, validation, native, seed, show_progress)
    figures = measure_held_out(features, x, y, blocks or {}, solution, tuned, validation, seed)
    out = OutOfFold(solution.rows, solution.store, solution.searched.rank <= TOP, solution.searched.top)
    quality = fit_quality(x, y, fold, out, start.quality, foreign, seed=seed)
    quality["similarity"] = similarity_map(
        solution.asked[:VALIDATION], as_float32(y[solution.rows[: len(solution.asked)][:VALIDATION]]), native[:4096]
    )
    layers = {"store": solution.ridge.layer, "query": query}
    params = features.params | {"out": {name: quantize_layer(layer) for name, layer in layers.items()}}
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


def check_family(family: str) -> None:
    """Raise BadInput unless `fit` can fit this family."""
    names = fitted_families()
    if family in (*names, AUTO):
        return
    meanings = "; ".join(f"{name}: {FAMILIES[name].description}" for name in names)
    raise BadInput(
        f"family is {family!r}; it must be one of {', '.join((*names, AUTO))}. {meanings}; {AUTO}: the family that "
        "ranks best."
    )


def _check(x: Any, y: Any, groups: Sequence[str] | None, family: str, corpus: Any) -> None:
    if len(x) != len(y) or (groups is not None and len(groups) != len(x)):
        raise BadInput(f"x has {len(x)} rows and y {len(y)}; pairs (and their groups) must be row-aligned.")
    if len(x) < LEAST_PAIRS:
        raise BadInput(f"There are {len(x)} pairs; a fit needs {LEAST_PAIRS} at the least, and thousands to be good.")
    check_family(family)
    if corpus is not None and (corpus.ndim != 2 or corpus.shape[1] != y.shape[1]):
        raise BadInput(f"corpus has shape {corpus.shape}, but targets have width {y.shape[1]}; give native vectors.")
    if corpus is not None and len(corpus) <= TOP:
        raise BadInput(f"corpus has {len(corpus)} rows; queries need more than {TOP} to search. Leave it out to use y.")
    for start in range(0, len(x), BLOCK):
        a, b = (np.isfinite(np.asarray(v[start : start + BLOCK])).all(axis=1) for v in (x, y))
        if not (a & b).all():
            row = start + int((~(a & b)).argmax())
            raise BadInput(f"Row {row} of x or y has a value that is not finite. Leave such pairs out.")


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
    asked, answers = as_float32(z[validation]), unit_rows(y[validation])
    itself = np.concatenate(
        [(native[i : i + BLOCK] @ answers.T >= SELF_COSINE).any(axis=1) for i in range(0, len(native), BLOCK)]
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
    after, before = (1 / rank_true_neighbors(unit_rows(a.apply(x)), native, corpus).rank for a in (layer, start))
    return bool(np.mean(after - before) > np.std(after - before) / np.sqrt(len(x)))
