"""Fit the quality part: heads that forecast the adapter's error, from out-of-fold outputs.

Each head stays near to the prior's, if there is one: few pairs recalibrate it, many replace it.
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
    measured,
)
from ea_jax.fitting.regression.logistic import logistic
from ea_jax.fitting.regression.moments import moments
from ea_jax.fitting.regression.ridge import fit_ridge
from ea_jax.quality.schema import MARGINS, prepare_quality
from ea_jax.quality.scores import SOURCE_FEATURES, quadratic_features, search_features, stack_features, standardize
from ea_jax.retrieval.neighbors import unit_rows
from ea_jax.typing import ArrayIn, Params

INPUT_SCALE = 10.0  # of the input beside the features in the ridge of the cosine: AUROC .940 without, .949 for 3 to 10
HIT_PENALTY, FOREIGN_PENALTY, JUNK_PENALTY = 10.0, 1.0, 0.1  # of a squared standardized weight, in log loss of one row
COVERAGE = 0.9
SYNTHETIC = 1000  # vectors of each kind that are no text's
ORDINARY = 4096  # rows beside the junk
NEVER = -100.0  # logit


class Foreign(NamedTuple):
    """Source embeddings other than the pairs', on which the confidence is trained too.

    Attributes:
        junk: Of junk texts, as `junk_texts` makes them.
        ordinary: Of texts that are neither junk nor like the pairs; there may be none.
    """

    junk: Float[np.ndarray, "j d_in"]
    ordinary: Float[np.ndarray, "o d_in"]


class OutOfFold(NamedTuple):
    """Outputs for some pairs, each by a fit without the pair's fold.

    Attributes:
        rows: Row numbers of the pairs.
        raw: `store` outputs before they get unit length.
        hit: Whether the `query` output of each of the first rows has its true neighbor among its first ten.
        top: The ten largest scores of these outputs in the corpus, descending.
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
    """Fit what an entry stores of a quality part, except its map of similarities.

    Args:
        x: Source embeddings of the pairs.
        y: Target embeddings of the pairs.
        fold: Of each pair.
        out: Outputs that the heads learn from; its rows are those of the statistics' sample.
        prior: Parameters of a prior's quality part, prepared.
        foreign: Embeddings beside the pairs; None where there are none.
        seed: Of all sampling.
    """
    stored, sampled, held_out = fit_statistics(x, fold, REFERENCES, DIRECTIONS, prior, seed=seed)
    target, *_ = fit_statistics(y, fold, TARGET_REFERENCES, TARGET_DIRECTIONS, prior and prior["target"], seed=seed)
    s = prepare_quality(stored)
    far, near = held_out[:, np.searchsorted(sampled, out.rows)]
    rows = unit_rows(x[out.rows])
    values = np.asarray(stack_features(far, near, rows, s["mean"], out.raw))
    scale = prior["features"] if prior else _single({"mean": values.mean(0), "deviation": values.std(0) + 1e-6})
    z = np.asarray(standardize(scale, jnp.asarray(values)))
    truth = np.sum(unit_rows(out.raw) * unit_rows(y[out.rows]), axis=1)
    cosine, forecast = cosine_head(z, rows, truth, prior and prior["cosine"])
    asked = slice(0, len(out.hit))
    hit, chance = hit_head(z[asked], forecast[asked], out.hit, fold[out.rows][asked], prior and prior["hit"])
    not_source = foreign_head(scale, s, z, rows, prior and prior["foreign"], seed)
    junk = prior["junk"] if prior and foreign is None else junk_head(rows[:ORDINARY], foreign)
    is_foreign = expit(z[asked][:, :SOURCE_FEATURES] @ not_source["features"] + not_source["bias"])
    new = np.maximum(is_foreign, expit(rows[asked] @ np.asarray(junk["x"]) + junk["bias"]))
    confidence = chance * (1 - new)
    search, after = search_head(confidence, out.top, out.hit, fold[out.rows][asked], prior and prior["search"])
    scores = np.stack([far[asked], near[asked], new, forecast[asked], confidence, after], axis=1)
    return stored | {
        "target": target,
        "features": scale,
        "cosine": cosine,
        "margin": margins(forecast, truth),
        "hit": hit,
        "search": search,
        "foreign": not_source,
        "junk": _single(junk),
        "calibration": {"scores": scores.astype(np.float32), "found": out.hit.astype(np.int8)},
    }


def cosine_head(
    z: Float[np.ndarray, "n f"], x: Float[np.ndarray, "n d"], truth: Float[np.ndarray, " n"], prior: Params | None
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Ridge regression of the cosine, towards the prior's, and its leave-one-out forecasts."""
    powers = np.asarray(quadratic_features(jnp.asarray(z)))
    design = np.concatenate([powers, INPUT_SCALE * x], axis=1).astype(np.float32)
    start = None
    if prior is not None:
        start = np.concatenate([prior["quadratic"], np.asarray(prior["x"]) / INPUT_SCALE]).astype(np.float64)[:, None]
    column = truth[:, None].astype(np.float32)
    ridge = fit_ridge(design, column, moments(design, column), start)
    quadratic, linear = np.split(ridge.layer.kernel[:, 0], [powers.shape[1]])
    least, most = np.quantile(truth, (0.001, 0.999))
    head = {"quadratic": quadratic, "x": INPUT_SCALE * linear, "bias": ridge.layer.bias[0]}
    forecast = ridge.leave_one_out(design, column)[:, 0]
    return _single(head | {"least": least, "most": most}), np.clip(forecast, least, most)


def margins(forecast: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> Params:
    """Margin below a forecast that nine in ten true cosines exceed, as a function of the forecast.

    Rows are cut into bins of like forecasts, each with the quantile of its own errors that holds for one row more.

    Source: Vovk et al. 2003 (Mondrian); Lei et al. 2018, arXiv:1604.04173 (split conformal).
    """
    bins = np.array_split(np.argsort(forecast, kind="stable"), MARGINS)
    at = np.array([forecast[rows].mean() for rows in bins])
    level = [min(1.0, np.ceil((len(rows) + 1) * COVERAGE) / max(len(rows), 1)) for rows in bins]
    width = [np.quantile(forecast[rows] - truth[rows], q, method="higher") for rows, q in zip(bins, level, strict=True)]
    return _single({"at": at, "width": np.array(width)})


def hit_head(
    z: Float[np.ndarray, "n f"],
    forecast: Float[np.ndarray, " n"],
    hit: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    prior: Params | None,
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Logistic regression of finding the true neighbor, towards the prior's, and out-of-fold probabilities."""
    columns = np.concatenate([z, forecast[:, None]], axis=1)
    start = None if prior is None else np.append(np.asarray(prior["features"]), prior["cosine"])
    weight, bias, chance = _held_out_logistic(columns, hit, fold, start)
    return _single({"features": weight[:-1], "cosine": weight[-1], "bias": bias}), chance


def search_head(
    confidence: Float[np.ndarray, " n"],
    top: Float32[np.ndarray, "n k"],
    hit: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    prior: Params | None,
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """The same from the confidence before the search and the scores that the search found."""
    columns = np.asarray(search_features(jnp.asarray(confidence), jnp.asarray(top)))
    start = None if prior is None else np.asarray(prior["features"])
    weight, bias, chance = _held_out_logistic(columns, hit, fold, start)
    return _single({"features": weight, "bias": bias}), chance


def _held_out_logistic(
    columns: Float[np.ndarray, "n p"],
    hit: Bool[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
    start: Float[np.ndarray, " p"] | None,
) -> tuple[Float[np.ndarray, " p"], float, Float[np.ndarray, " n"]]:
    """Weights and bias on all rows, and for each row the probability by the other folds."""
    chance = np.zeros(len(columns))
    for k in range(FOLDS):
        weight, bias = logistic(columns[fold != k], hit[fold != k], HIT_PENALTY, start)
        chance[fold == k] = expit(columns[fold == k] @ weight + bias)
    return *logistic(columns, hit, HIT_PENALTY, start), chance


def synthetic_vectors(x: Float32[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "m d"]:
    """Vectors that the source model makes of no text: random ones, and real ones with numbers permuted or rotated.

    A rotation stands for another model of the same width: its vectors have the same angles in another basis.
    """
    rng = np.random.default_rng(seed)
    rows, d = x[rng.permutation(len(x))[:SYNTHETIC]], x.shape[1]
    rotation = np.linalg.qr(rng.standard_normal((d, d)))[0].astype(np.float32)
    random = rng.standard_normal((SYNTHETIC, d)).astype(np.float32)
    return np.concatenate([unit_rows(random), rows[:, rng.permutation(d)], rng.permuted(rows, axis=1), rows @ rotation])


def foreign_head(
    scale: Params,
    statistics: Params,
    z: Float[np.ndarray, "n f"],
    x: Float32[np.ndarray, "n d_in"],
    prior: Params | None,
    seed: int,
) -> Params:
    """Logistic regression of not being a vector of the source model, on the features that need no adapter."""
    made = synthetic_vectors(x, seed)
    far, near = measured(statistics, made)
    values = stack_features(far, near, made, statistics["mean"], np.ones((len(made), 1), np.float32))
    theirs = np.asarray(standardize(scale, values))
    columns = np.concatenate([z, theirs])[:, :SOURCE_FEATURES]
    label = np.arange(len(columns)) >= len(z)
    start = None if prior is None else np.asarray(prior["features"])
    weight, bias = logistic(columns, label, FOREIGN_PENALTY, start)
    return _single({"features": weight, "bias": bias})


def junk_head(x: Float[np.ndarray, "n d"], foreign: Foreign | None) -> Params:
    """Logistic regression of being junk on the source embedding; without junk, a constant 0."""
    if foreign is None:
        return _single({"x": np.zeros(x.shape[1]), "bias": NEVER})
    rows = np.concatenate([x, unit_rows(foreign.ordinary[:ORDINARY]), unit_rows(foreign.junk)])
    weight, bias = logistic(rows, np.arange(len(rows)) >= len(rows) - len(foreign.junk), JUNK_PENALTY)
    return _single({"x": weight, "bias": bias})


def _single(head: Params) -> Params:
    return {name: np.asarray(value, np.float32) for name, value in head.items()}
