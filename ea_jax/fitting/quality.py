"""Fit the quality part: regressions that forecast the error of the adapter, from its out-of-fold outputs.

Each regression shrinks towards the prior's, if there is one: a few pairs recalibrate it, many pairs replace it.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.special import expit

from ea_jax.fitting.cross_validation import FOLDS
from ea_jax.fitting.domain_statistics import (
    DIRECTIONS,
    REFERENCES,
    TARGET_DIRECTIONS,
    TARGET_REFERENCES,
    fit_statistics,
    measure_distances,
)
from ea_jax.fitting.regression.logistic import logistic
from ea_jax.fitting.regression.moments import moments
from ea_jax.fitting.regression.ridge import fit_ridge
from ea_jax.quality.schema import MARGINS, prepare_quality
from ea_jax.quality.scores import SOURCE_FEATURES, quadratic_features, search_features, stack_features, standardize
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn, Params

INPUT_SCALE = 10.0  # of the input beside the features of the cosine's ridge: AUROC .949 for 3 to 10, .940 without
HIT_PENALTY, FOREIGN_PENALTY, JUNK_PENALTY = 10.0, 1.0, 0.1  # times a squared standardized weight, in units of log loss
COVERAGE = 0.9
SYNTHETIC = 1000  # synthetic vectors of each kind
ORDINARY = 4096  # ordinary rows in the fit of junk
NEVER = -100.0  # logit


class Foreign(NamedTuple):
    """Source embeddings of other texts than the pairs, from which the confidence learns too.

    Attributes:
        junk: Embeddings of junk texts, as `junk_texts` makes them.
        ordinary: Embeddings of texts that are neither junk nor like the pairs; may have no rows.
    """

    junk: Float[np.ndarray, "j d_in"]
    ordinary: Float[np.ndarray, "o d_in"]


class OutOfFold(NamedTuple):
    """Outputs for a sample of the pairs, each by a fit without the fold of the pair.

    Attributes:
        rows: Row numbers of the pairs.
        raw: `store` outputs before normalization.
        hit: For the first rows, whether the `query` output has its true neighbor among its first ten results.
        top: For the same rows, the ten largest scores in the corpus, descending.
    """

    rows: Int[np.ndarray, " n"]
    raw: Float32[np.ndarray, "n d_out"]
    hit: Bool[np.ndarray, " q"]
    top: Float32[np.ndarray, "q k"]


def fit_quality(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    fold: Int[np.ndarray, " n"],
    out: OutOfFold,
    prior: Params | None,
    foreign: Foreign | None,
    *,
    seed: int = 0,
) -> Params:
    """Fit a quality part in its stored form, except for the map of similarities.

    Args:
        x: Source embeddings of the pairs.
        y: Target embeddings of the pairs.
        fold: Fold of each pair.
        out: Out-of-fold outputs of the rows that `fit_statistics` samples.
        prior: Parameters of a prior's quality part.
        foreign: Embeddings of other texts, if any.
        seed: Random seed of all samples.
    """
    stored, sample, out_of_fold = fit_statistics(x, fold, REFERENCES, DIRECTIONS, prior, seed=seed)
    target, *_ = fit_statistics(y, fold, TARGET_REFERENCES, TARGET_DIRECTIONS, prior and prior["target"], seed=seed)
    statistics = prepare_quality(stored)
    mahalanobis, knn = out_of_fold[:, np.searchsorted(sample, out.rows)]
    rows = unit_rows(x[out.rows])
    values = np.asarray(stack_features(mahalanobis, knn, rows, statistics["mean"], out.raw))
    scale = prior["features"] if prior else _as_float32({"mean": values.mean(0), "deviation": values.std(0) + 1e-6})
    z = np.asarray(standardize(scale, jnp.asarray(values)))
    true_cosine = np.sum(unit_rows(out.raw) * unit_rows(y[out.rows]), axis=1)
    cosine, forecast = fit_cosine(z, rows, true_cosine, prior and prior["cosine"])
    queries = slice(0, len(out.hit))
    query_fold = fold[out.rows][queries]
    hit, probability = fit_hit(z[queries], forecast[queries], out.hit, query_fold, prior and prior["hit"])
    not_source = fit_foreign(scale, statistics, z, rows, prior and prior["foreign"], seed)
    junk = prior["junk"] if prior and foreign is None else fit_junk(rows[:ORDINARY], foreign)
    is_foreign = expit(z[queries][:, :SOURCE_FEATURES] @ not_source["features"] + not_source["bias"])
    novelty = np.maximum(is_foreign, expit(rows[queries] @ np.asarray(junk["x"]) + junk["bias"]))
    confidence = probability * (1 - novelty)
    search, after_search = fit_search(confidence, out.top, out.hit, query_fold, prior and prior["search"])
    columns = (mahalanobis[queries], knn[queries], novelty, forecast[queries], confidence, after_search)
    return stored | {
        "target": target,
        "features": scale,
        "cosine": cosine,
        "margin": fit_margins(forecast, true_cosine),
        "hit": hit,
        "search": search,
        "foreign": not_source,
        "junk": _as_float32(junk),
        "calibration": {"scores": np.stack(columns, axis=1).astype(np.float32), "found": out.hit.astype(np.int8)},
    }


def fit_cosine(
    z: Float[np.ndarray, "n f"], x: Float[np.ndarray, "n d"], cosine: Float[np.ndarray, " n"], prior: Params | None
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Fit the ridge regression of the cosine towards the prior's. Also returns its leave-one-out forecasts."""
    quadratic = np.asarray(quadratic_features(jnp.asarray(z)))
    design = np.concatenate([quadratic, INPUT_SCALE * x], axis=1).astype(np.float32)
    start = None
    if prior is not None:
        start = np.concatenate([prior["quadratic"], np.asarray(prior["x"]) / INPUT_SCALE]).astype(np.float64)[:, None]
    column = cosine[:, None].astype(np.float32)
    ridge = fit_ridge(design, column, moments(design, column), start)
    of_quadratic, of_x = np.split(ridge.layer.kernel[:, 0], [quadratic.shape[1]])
    least, most = np.quantile(cosine, (0.001, 0.999))
    regression = {"quadratic": of_quadratic, "x": INPUT_SCALE * of_x, "bias": ridge.layer.bias[0]}
    forecast = ridge.leave_one_out(design, column)[:, 0]
    return _as_float32(regression | {"least": least, "most": most}), np.clip(forecast, least, most)


def fit_margins(forecast: Float[np.ndarray, " n"], cosine: Float[np.ndarray, " n"]) -> Params:
    """Fit the margin below a forecast that nine in ten cosines exceed, as a function of the forecast.

    Rows are split into bins of similar forecasts. The margin of a bin is the conformal quantile of its errors.

    Source: Vovk et al. 2003 (Mondrian); Lei et al. 2018, arXiv:1604.04173 (split conformal).
    """
    bins = np.array_split(np.argsort(forecast, kind="stable"), MARGINS)
    at = np.array([forecast[rows].mean() for rows in bins])
    level = [min(1.0, np.ceil((len(rows) + 1) * COVERAGE) / max(len(rows), 1)) for rows in bins]
    errors = [forecast[rows] - cosine[rows] for rows in bins]
    width = [np.quantile(error, q, method="higher") for error, q in zip(errors, level, strict=True)]
    return _as_float32({"at": at, "width": np.array(width)})


def fit_hit(
    z: Float[np.ndarray, "n f"],
    forecast: Float[np.ndarray, " n"],
    hit: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    prior: Params | None,
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Fit the logistic regression of a hit towards the prior's. Also returns out-of-fold probabilities."""
    columns = np.concatenate([z, forecast[:, None]], axis=1)
    start = None if prior is None else np.append(np.asarray(prior["features"]), prior["cosine"])
    weight, bias, probability = _out_of_fold_logistic(columns, hit, fold, start)
    return _as_float32({"features": weight[:-1], "cosine": weight[-1], "bias": bias}), probability


def fit_search(
    confidence: Float[np.ndarray, " n"],
    top: Float32[np.ndarray, "n k"],
    hit: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    prior: Params | None,
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Fit the logistic regression of a hit on the confidence and the scores of a search, as `fit_hit`."""
    columns = np.asarray(search_features(jnp.asarray(confidence), jnp.asarray(top)))
    start = None if prior is None else np.asarray(prior["features"])
    weight, bias, probability = _out_of_fold_logistic(columns, hit, fold, start)
    return _as_float32({"features": weight, "bias": bias}), probability


def _out_of_fold_logistic(
    columns: Float[np.ndarray, "n p"],
    hit: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    start: Float[np.ndarray, " p"] | None,
) -> tuple[Float[np.ndarray, " p"], float, Float[np.ndarray, " n"]]:
    """Fit weights and bias on all rows. Also returns each row's probability by a fit without its fold."""
    probability = np.zeros(len(columns))
    for k in range(FOLDS):
        weight, bias = logistic(columns[fold != k], hit[fold != k], HIT_PENALTY, start)
        probability[fold == k] = expit(columns[fold == k] @ weight + bias)
    return *logistic(columns, hit, HIT_PENALTY, start), probability


def synthetic_vectors(x: Float32[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "m d"]:
    """Make vectors that the source model gives for no text: random ones, and permuted or rotated embeddings.

    A rotation simulates another model of the same width: its vectors have the same angles in another basis.
    """
    rng = np.random.default_rng(seed)
    rows, d = x[rng.permutation(len(x))[:SYNTHETIC]], x.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    random = rng.standard_normal((SYNTHETIC, d)).astype(np.float32)
    return np.concatenate([unit_rows(random), rows[:, rng.permutation(d)], rng.permuted(rows, axis=1), rows @ rotation])


def fit_foreign(
    scale: Params,
    statistics: Params,
    z: Float[np.ndarray, "n f"],
    x: Float32[np.ndarray, "n d_in"],
    prior: Params | None,
    seed: int,
) -> Params:
    """Fit the logistic regression of synthetic vectors against the pairs, on the features that need no adapter."""
    synthetic = synthetic_vectors(x, seed)
    raw = np.ones((len(synthetic), 1), np.float32)  # its feature is not used
    values = stack_features(*measure_distances(statistics, synthetic), synthetic, statistics["mean"], raw)
    columns = np.concatenate([z, np.asarray(standardize(scale, values))])[:, :SOURCE_FEATURES]
    is_synthetic = np.arange(len(columns)) >= len(z)
    start = None if prior is None else np.asarray(prior["features"])
    weight, bias = logistic(columns, is_synthetic, FOREIGN_PENALTY, start)
    return _as_float32({"features": weight, "bias": bias})


def fit_junk(x: Float[np.ndarray, "n d"], foreign: Foreign | None) -> Params:
    """Fit the logistic regression of junk on the source embedding; without junk, its probability is 0."""
    if foreign is None:
        return _as_float32({"x": np.zeros(x.shape[1]), "bias": NEVER})
    rows = np.concatenate([x, unit_rows(foreign.ordinary[:ORDINARY]), unit_rows(foreign.junk)])
    is_junk = np.arange(len(rows)) >= len(rows) - len(foreign.junk)
    weight, bias = logistic(rows, is_junk, JUNK_PENALTY)
    return _as_float32({"x": weight, "bias": bias})


def _as_float32(regression: Params) -> Params:
    return {name: np.asarray(value, np.float32) for name, value in regression.items()}
