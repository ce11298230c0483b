"""Fit an adapter and its quality part: folds, features, output layers, out-of-fold outputs, quality.

A choice is made from data only if it changes results by more than their sampling error. Every choice uses the same
criterion: the mean reciprocal rank of the true neighbor for held-out queries.
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
    OutputLayers,
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
from ea_jax.fitting.training.train import ValidationSet
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.neighbors import SELF_COSINE, TOP, rank_true_neighbors, unit_rows
from ea_jax.typing import ArrayIn

AUTO = "auto"  # try every family, keep the one that ranks best
MIN_PAIRS = 50  # fewer held-out queries say nothing
TUNING_PAIRS = 16384  # 60 steps use each of them at most four times
VALIDATION_QUERIES = 1000  # for early stopping of the fine-tuning
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

    The store layer is a ridge regression towards the prior. The query layer is the store layer, partially whitened, and
    fine-tuned if held-out queries improve by more than the standard error. The metrics in the report come from fits
    without the held-out pairs; the returned adapter is fitted on all pairs.

    Args:
        x: Source embeddings, at the scale of later inputs. Memory maps larger than memory are streamed.
        y: Target embeddings of unit length, row-aligned with x.
        prior: A linear adapter for `store` between the same spaces; the fit is a compromise between it and the pairs.
            A `Quality` is better than an `Adapter`: its covariances and regressions improve `query` and the quality
            part of fits on few pairs.
        family: `linear`; `kernel` for vectors of a source that is no composite, without texts; or `auto`, which keeps
            the family that ranks best.
        groups: Group of each pair (document, repository, customer). A group is never split between folds. If None,
            each pair is its own group.
        corpus: Native vectors that queries will search, if the index has more than y.
        foreign: Source embeddings of junk texts, and of ordinary texts unlike the pairs, from which the confidence
            learns to reject junk.
        blocks: Columns of x that are embeddings on their own, by name, such as the members of a composite. The report
            compares the adapter with the best of them, used for queries and corpus.
        fine_tune: Whether to try contrastive fine-tuning of the query layer.
        seed: Random seed; the same seed gives the same result.
        show_progress: Show progress bars on stderr.

    Returns:
        The adapter, its quality part and a report.

    Raises:
        BadInput: The rows of x and y do not match, there are too few pairs, a value is not finite, the prior is not
            linear or has other widths, or another argument is invalid.
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
    features, layers = max(candidates, key=lambda candidate: float(np.mean(1 / candidate[1].ranking.rank)))
    validation = np.random.default_rng([seed, 1]).permutation(np.flatnonzero(fold == 0))[:VALIDATION_QUERIES]
    query, tuned = layers.query, FineTuned(layers.query_without_fold, 0, [])
    if fine_tune and (fold != 0).sum() >= FINE_TUNING.batch_size:  # smaller batches have too few negatives
        query, tuned = _fine_tune(features, y, fold, layers, validation, native, seed, show_progress)
    metrics = measure_held_out(features, x, y, blocks or {}, layers, tuned, validation, seed)
    out = OutOfFold(layers.rows, layers.store_outputs, layers.ranking.rank <= TOP, layers.ranking.top)
    quality = fit_quality(x, y, fold, out, start.quality, foreign, seed=seed)
    queries = layers.query_outputs[:VALIDATION_QUERIES]
    quality["similarity"] = similarity_map(queries, as_float32(y[layers.rows[: len(queries)]]), native[:4096])
    output = {"store": quantize_layer(layers.ridge.layer), "query": quantize_layer(query)}
    report = {
        "pairs": len(x),
        "groups": len(set(groups)) if groups is not None else len(x),
        "corpus": len(native),
        "prior": "given" if start.kernel is not None else "none",
        "penalty": layers.ridge.penalty,
        "fine_tuning_steps": tuned.steps,
        **metrics,
    }
    return Fitted(features.family, features.sizes, features.params | {"out": output}, quality, report)


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
        raise BadInput(f"x has {len(x)} rows and y {len(y)}; pairs and their groups must be row-aligned.")
    if len(x) < MIN_PAIRS:
        raise BadInput(f"There are {len(x)} pairs; a fit needs at least {MIN_PAIRS}, and thousands for good results.")
    check_family(family)
    if corpus is not None and (corpus.ndim != 2 or corpus.shape[1] != y.shape[1]):
        raise BadInput(f"corpus has shape {corpus.shape}, but targets have width {y.shape[1]}; they must be equal.")
    if corpus is not None and len(corpus) <= TOP:
        raise BadInput(f"corpus has {len(corpus)} rows; queries need more than {TOP}. Leave it out to search y.")
    for start in range(0, len(x), BLOCK):
        a, b = (np.isfinite(np.asarray(v[start : start + BLOCK])).all(axis=1) for v in (x, y))
        if not (a & b).all():
            row = start + int((~(a & b)).argmax())
            raise BadInput(f"Row {row} of x or y has a value that is not finite. Remove such pairs.")


def _fine_tune(
    features: Features,
    y: Float[ArrayIn, "n d_out"],
    fold: Int[np.ndarray, " n"],
    layers: OutputLayers,
    validation: Int[np.ndarray, " v"],
    native: Float32[np.ndarray, "c d_out"],
    seed: int,
    show_progress: bool,
) -> tuple[Affine, FineTuned]:
    """Fine-tune the query layer without fold 0 to find the number of steps, then with all pairs for as many steps.

    Returns:
        The query layer of all pairs, and the one without fold 0; with zero steps if fold 0 did not improve.
    """
    z, others = features.z, np.flatnonzero(fold != 0)
    queries, true = as_float32(z[validation]), unit_rows(y[validation])
    blocks = [native[i : i + BLOCK] for i in range(0, len(native), BLOCK)]
    is_query = np.concatenate([(block @ true.T >= SELF_COSINE).any(axis=1) for block in blocks])
    held_out = ValidationSet(queries, true, native[~is_query])
    rows = np.sort(others[np.random.default_rng([seed, 3]).permutation(len(others))[:TUNING_PAIRS]])
    start = layers.query_without_fold
    tuned = fine_tune(start, z, y, held_out, rows=rows, seed=seed, show_progress=show_progress)
    if not tuned.steps or not _improves(tuned.layer, start, held_out):
        return layers.query, FineTuned(start, 0, tuned.scores)
    same_steps = replace(FINE_TUNING, steps=tuned.steps, eval_every=tuned.steps)
    rows = np.sort(np.concatenate([rows, np.flatnonzero(fold == 0)]))
    final = fine_tune(layers.query, z, y, held_out, same_steps, rows=rows, seed=seed, show_progress=show_progress)
    return final.layer, tuned


def _improves(layer: Affine, start: Affine, held_out: ValidationSet) -> bool:
    """Whether the mean reciprocal rank rises by more than the standard error of the difference."""
    x, native, corpus = (np.asarray(rows) for rows in held_out)
    after, before = (1 / rank_true_neighbors(unit_rows(a.apply(x)), native, corpus).rank for a in (layer, start))
    return bool(np.mean(after - before) > np.std(after - before) / np.sqrt(len(x)))
