"""Output layers in closed form, and their out-of-fold outputs."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapters.adapter import Adapter
from ea_jax.adapters.quantization import quantize_columns
from ea_jax.errors import BadInput
from ea_jax.fitting.cross_validation import FOLDS
from ea_jax.fitting.domain_statistics import PRIOR_ROWS, SAMPLE, prior_directions
from ea_jax.fitting.query_layer import whitened
from ea_jax.fitting.regression.moments import Affine, Moments, covariance, moments
from ea_jax.fitting.regression.ridge import Directions, Ridge, fit_ridge, pooled, solve_ridge
from ea_jax.quality.scores import Quality
from ea_jax.retrieval.neighbors import Ranking, rank_true_neighbors, unit_rows
from ea_jax.typing import ArrayIn, Params

RANKED = 4096  # out-of-fold queries that search the corpus; their sampling error is below .005


CORPUS = 16384  # native vectors that queries search, which bounds time and memory


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
    searched: Ranking


def read_prior(prior: Adapter | Quality | None, d_in: int, d_out: int) -> Prior:
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


def sample_corpus(corpus: Float[ArrayIn, "m d_out"], seed: int) -> Float32[np.ndarray, "c d_out"]:
    """A sample of the native corpus in memory, of unit length."""
    rows = np.sort(np.random.default_rng([seed, 2]).permutation(len(corpus))[:CORPUS])
    return unit_rows(corpus[rows])


def fit_output_layers(
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
        few = (as_float32(z[others]), as_float32(y[others])) if len(others) < max(z.shape[1], y.shape[1]) else (z, y)
        layer = solve_ridge(few[0], covariance(m), ridge.penalty, prior.kernel)
        query = _query(layer, *few, m, prior)
        inside = np.flatnonzero(fold[rows] == k)
        inputs = as_float32(z[rows[inside]])
        store[inside] = layer.apply(inputs)
        first = inside < len(asked)
        asked[inside[first]] = query.apply(inputs[first])
        without = query if k == 0 else without
    assert without is not None
    found = rank_true_neighbors(unit_rows(asked), unit_rows(y[rows[: len(asked)]]), native)
    return Solution(ridge, _query(ridge.layer, z, y, whole, prior), without, rows, store, asked, found)


def _query(store: Affine, z: Float[ArrayIn, "n d"], y: Float[ArrayIn, "n d_out"], m: Moments, prior: Prior) -> Affine:
    """The query layer in closed form; its covariances are pooled with the prior's."""
    c, own = covariance(m), len(z) / (len(z) + PRIOR_ROWS)
    xx = c.xx if prior.xx is None else own * c.xx + (1 - own) * prior.xx
    return whitened(store, c, xx, pooled(y, c.y_mean, c.yy, prior.target, PRIOR_ROWS))


def quantize_layer(layer: Affine) -> Params:
    """An output layer as it is stored: its kernel as int8 codes."""
    if not np.isfinite(layer.kernel).all():
        raise BadInput("The fit is not finite. Are there values near the largest of their dtype in x or y?")
    return {"kernel": quantize_columns(layer.kernel)._asdict(), "bias": layer.bias.astype(np.float32)}


def as_float32(rows: ArrayIn) -> Float32[np.ndarray, "n d"]:
    return np.asarray(rows, np.float32)
