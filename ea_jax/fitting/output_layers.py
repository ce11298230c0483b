"""Fit the output layers in closed form, with out-of-fold outputs for a sample of the pairs."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapters.adapter import Adapter
from ea_jax.adapters.quantization import quantize_columns
from ea_jax.errors import BadInput
from ea_jax.fitting.cross_validation import FOLDS
from ea_jax.fitting.domain_statistics import PRIOR_ROWS, SAMPLE, covariance_of_statistics
from ea_jax.fitting.query_layer import whiten_layer
from ea_jax.fitting.regression.moments import Affine, Moments, covariance, moments
from ea_jax.fitting.regression.ridge import LowRankCovariance, Ridge, fit_ridge, pool_covariances, solve_ridge
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.neighbors import Ranking, rank_true_neighbors, unit_rows
from ea_jax.typing import ArrayIn, Params

QUERIES = 4096  # out-of-fold queries that search the corpus; the sampling error of their recall is below .005
CORPUS = 16384  # native vectors that queries search; limits time and memory


class Prior(NamedTuple):
    """The prior of a fit.

    Attributes:
        kernel: Kernel of the store layer.
        quality: Parameters of the quality part; None if the prior has none.
        xx: Covariance of the source embeddings, from the quality part.
        target: Covariance of the target embeddings, from the quality part.
    """

    kernel: Float[np.ndarray, "d_in d_out"] | None = None
    quality: Params | None = None
    xx: Float[np.ndarray, "d_in d_in"] | None = None
    target: LowRankCovariance | None = None


class OutputLayers(NamedTuple):
    """Closed-form output layers, and out-of-fold outputs: each from a fit without the fold of its pair.

    Attributes:
        ridge: The store layer.
        query: The query layer.
        query_without_fold: The query layer of the fit without fold 0.
        rows: Row numbers of the sampled pairs.
        store_outputs: Out-of-fold outputs of the store layer for the sample, before normalization.
        query_outputs: Out-of-fold outputs of the query layer for the first rows of the sample.
        ranking: Results of a search of the corpus with `query_outputs`.
    """

    ridge: Ridge
    query: Affine
    query_without_fold: Affine
    rows: Int[np.ndarray, " s"]
    store_outputs: Float32[np.ndarray, "s d_out"]
    query_outputs: Float32[np.ndarray, "q d_out"]
    ranking: Ranking


def read_prior(prior: Adapter | Quality | None, d_in: int, d_out: int) -> Prior:
    """Extract the parts of a prior that a fit uses.

    Raises:
        BadInput: The prior is not a linear adapter for `store` with these widths.
    """
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
    source, target = (covariance_of_statistics(statistics) for statistics in (quality, quality["target"]))
    return Prior(kernel, quality, source.matrix(), target)


def sample_corpus(corpus: Float[ArrayIn, "m d_out"], seed: int) -> Float32[np.ndarray, "c d_out"]:
    """Load a sample of the native corpus into memory, normalized."""
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(corpus))[:CORPUS])
    return unit_rows(corpus[rows])


def fit_output_layers(
    z: Float[ArrayIn, "n d"],
    y: Float[ArrayIn, "n d_out"],
    fold: Int[np.ndarray, " n"],
    prior: Prior,
    native: Float32[np.ndarray, "c d_out"],
    seed: int,
) -> OutputLayers:
    """Fit the output layers on all pairs, and once without each fold for the out-of-fold outputs.

    Args:
        z: Features of the pairs.
        y: Target embeddings of the pairs.
        fold: Fold of each pair.
        prior: The prior of the fit.
        native: Native vectors that the out-of-fold queries search.
        seed: Random seed of the sample.
    """
    fold_moments = [moments(z, y, np.flatnonzero(fold == k)) for k in range(FOLDS)]
    total = reduce(Moments.plus, fold_moments)
    ridge = fit_ridge(z, y, total, prior.kernel, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(z))[:SAMPLE]
    store_outputs = np.zeros((len(rows), y.shape[1]), np.float32)
    query_outputs = np.zeros((min(QUERIES, len(rows)), y.shape[1]), np.float32)
    query_without_fold = None
    for k in range(FOLDS):
        others, m = np.flatnonzero(fold != k), total.minus(fold_moments[k])
        # the dual form of few rows needs the rows themselves, without those of the fold
        is_dual = len(others) < max(z.shape[1], y.shape[1])
        pairs = (as_float32(z[others]), as_float32(y[others])) if is_dual else (z, y)
        store = solve_ridge(pairs[0], covariance(m), ridge.penalty, prior.kernel)
        query = _fit_query_layer(store, *pairs, m, prior)
        inside = np.flatnonzero(fold[rows] == k)
        inputs = as_float32(z[rows[inside]])
        store_outputs[inside] = store.apply(inputs)
        is_query = inside < len(query_outputs)
        query_outputs[inside[is_query]] = query.apply(inputs[is_query])
        query_without_fold = query if k == 0 else query_without_fold
    assert query_without_fold is not None
    true = unit_rows(y[rows[: len(query_outputs)]])
    ranking = rank_true_neighbors(unit_rows(query_outputs), true, native)
    query = _fit_query_layer(ridge.layer, z, y, total, prior)
    return OutputLayers(ridge, query, query_without_fold, rows, store_outputs, query_outputs, ranking)


def _fit_query_layer(
    store: Affine, z: Float[ArrayIn, "n d"], y: Float[ArrayIn, "n d_out"], m: Moments, prior: Prior
) -> Affine:
    """Fit the query layer in closed form, with covariances averaged with those of the prior."""
    c, weight = covariance(m), len(z) / (len(z) + PRIOR_ROWS)
    xx = c.xx if prior.xx is None else weight * c.xx + (1 - weight) * prior.xx
    return whiten_layer(store, c, xx, pool_covariances(y, c.y_mean, c.yy, prior.target, PRIOR_ROWS))


def quantize_layer(layer: Affine) -> Params:
    """Convert an output layer to its stored form, with the kernel as int8 codes."""
    if not np.isfinite(layer.kernel).all():
        raise BadInput("The fit is not finite. Look for values near the largest of their dtype in x and y.")
    return {"kernel": quantize_columns(layer.kernel)._asdict(), "bias": layer.bias.astype(np.float32)}


def as_float32(rows: ArrayIn) -> Float32[np.ndarray, "n d"]:
    return np.asarray(rows, np.float32)
