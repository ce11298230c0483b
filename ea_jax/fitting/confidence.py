"""The quality part: statistics of the pairs, and heads that forecast the adapter's error, fitted on unseen outputs."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import isotonic_regression
from scipy.special import expit

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.finish import Unseen
from ea_jax.fitting.splits import FOLDS
from ea_jax.fitting.statistics import SOURCE, TARGET, fit_statistics, held_out_distances, measured
from ea_jax.ops import distance_confidence, unit
from ea_jax.quality import bumps, features, squares, standardised
from ea_jax.quality_store import CHANCES, MARGINS, prepared
from ea_jax.solve import logistic

SQUARES, INPUT, RADIAL = 1e-3, 0.05, 0.1  # ridge penalties of standardised columns
STRONGER, WITHIN = (1.0, 10.0, 100.0, 1000.0), 1.02
HIT_PENALTY, JUNK_PENALTY = 1e-2, 1e-5
COVERAGE = 0.9
ORDINARY = 16384
PLENTY = 8192  # pairs, from which on a row hardly moves the references that it is near to
NEVER = -100.0  # logit


class Foreign(NamedTuple):
    """Source embeddings beside the pairs, for what a confidence should know of the rest of the world.

    Attributes:
        junk: Of texts that say nothing, as `junk_texts` makes them.
        ordinary: Of texts that are not junk and are not like the pairs; there may be none.
    """

    junk: Float[np.ndarray, "j d_in"]
    ordinary: Float[np.ndarray, "o d_in"]


def fit_quality(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    fold: Int[np.ndarray, " n"],
    unseen: Unseen,
    foreign: Foreign | None,
    *,
    seed: int = 0,
) -> Params:
    """What an entry stores of a quality part, but its map of similarities.

    Args:
        x: Source embeddings of the pairs.
        y: Target embeddings of the pairs.
        fold: Of each pair, of whole domains: percentiles are of domains held out.
        unseen: Outputs as if each row had not been fitted on.
        foreign: Embeddings beside the pairs; None where there are none.
        seed: Of all sampling.
    """
    detail = affordable(SOURCE, x.shape[1], y.shape[1]) if unseen.linear is None else SOURCE
    stored = fit_statistics(x, fold, detail, seed=seed)
    s, rows = prepared(stored), _unit(x[unseen.rows])
    far, near = _unseen_distances(x, s, unseen.rows, detail, seed)
    found = np.asarray(features(far, near, unseen.raw, unseen.linear))
    scale = _single({"mean": found.mean(axis=0), "deviation": found.std(axis=0) + 1e-6})
    z = np.asarray(standardised(scale, jnp.asarray(found)))
    truth = np.sum(_unit(unseen.raw) * np.asarray(y[unseen.rows], np.float32), axis=1)
    radial = np.asarray(bumps(jnp.asarray(rows), s["references"]))
    if len(x) < PLENTY:  # a row lies too near to the references that it made
        radial = np.zeros_like(radial)
    cosine, held_out = cosine_head(np.asarray(squares(jnp.asarray(z))), rows, radial, truth, fold[unseen.rows])
    asked = slice(0, len(unseen.found))
    hit, chance = hit_head(z[asked], held_out[asked], unseen.found)
    junk = junk_head(_unit(x[np.random.default_rng(seed).permutation(len(x))[:ORDINARY]]), foreign)
    is_junk = expit(rows[asked] @ junk["x"] + junk["bias"])
    novelty = is_junk if foreign else 1 - _seed_confidence(s, far[asked], near[asked])
    said = chance * (1 - is_junk)
    chances = chance_map(said, unseen.found)
    confidence = np.interp(said, chances["said"], chances["found"])
    scores = np.stack([far[asked], near[asked], novelty, held_out[asked], confidence], axis=1)
    return stored | {
        "target": fit_statistics(y, fold, TARGET, seed=seed),
        "features": scale,
        "cosine": cosine,
        "margin": margins(held_out, truth),
        "hit": hit,
        "chance": chances,
        "junk": junk,
        "calibration": {"scores": scores.astype(np.float32), "found": unseen.found.astype(np.int8)},
    }


def affordable(detail: tuple[int, int], d_in: int, d_out: int) -> tuple[int, int]:
    """Fewer references where both kinds together would be more columns than the adapter's, but half as many at least.

    Scores cost the adapter, whose output they read, and these products: so about twice a single matrix at the most.
    """
    references, directions = detail
    room = max(d_out - directions // d_in, d_out // 2)
    return min(references, room * d_in), directions


def cosine_head(
    powers: Float[np.ndarray, "n q"],
    x: Float[np.ndarray, "n d"],
    radial: Float[np.ndarray, "n m"],
    truth: Float[np.ndarray, " n"],
    fold: Int[np.ndarray, " n"],
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Ridge regression of the cosine, and what it says of each row when that is left out.

    Columns are standardised, and each kind has a penalty of its own. Of the factors by which all of them may be raised,
    those count whose leave-one-out error is within two parts in a hundred of the least; of these, the one with the
    least error on whole folds left out is taken: it costs next to nothing in domain, and is the safest out of it.

    Source: Allen 1974 (PRESS).
    """
    kinds = powers, x, radial
    z = np.concatenate(kinds, axis=1).astype(np.float64)
    mean, deviation = z.mean(axis=0), z.std(axis=0) + 1e-9
    z = (z - mean) / deviation
    penalty = np.repeat((SQUARES, INPUT, RADIAL), [kind.shape[1] for kind in kinds])
    gram, cross = z.T @ z / len(z), z.T @ (truth - truth.mean()) / len(z)
    tried, apart = [], _apart(z, truth, [stronger * penalty for stronger in STRONGER], fold)
    for stronger, said_apart in zip(STRONGER, apart, strict=True):
        low = cholesky(gram + stronger * np.diag(penalty), lower=True)
        weight = cho_solve((low, True), cross)
        said = truth.mean() + z @ weight
        leverage = (1 + np.sum(np.square(solve_triangular(low, z.T, lower=True)), axis=0)) / len(z)
        held_out = truth - (truth - said) / np.maximum(1 - leverage, 1e-3)
        tried.append((_error(held_out, truth), _error(said_apart, truth), weight, held_out))
    least = WITHIN * min(one[0] for one in tried)
    _, _, weight, held_out = min((one for one in tried if one[0] <= least), key=lambda one: one[1])
    weight = weight / deviation
    parts = np.split(weight, np.cumsum([kind.shape[1] for kind in kinds])[:-1])
    least, most = np.quantile(truth, (0.001, 0.999))
    head = dict(zip(("quadratic", "x", "radial"), parts, strict=True))
    head |= {"bias": truth.mean() - mean @ weight, "least": least, "most": most}
    return _single(head), np.clip(held_out, least, most)


def _apart(
    z: Float[np.ndarray, "n p"],
    truth: Float[np.ndarray, " n"],
    penalties: Sequence[Float[np.ndarray, " p"]],
    fold: Int[np.ndarray, " n"],
) -> list[Float[np.ndarray, " n"]]:
    """For each penalty, what a ridge regression on the other folds says of each row; of one fold, the mean of all."""
    said, folds = [np.full(len(z), truth.mean()) for _ in penalties], np.unique(fold)
    for k in folds if len(folds) > 1 else ():
        inside = fold == k
        part, mean = z[~inside], truth[~inside].mean()
        gram, cross = part.T @ part / len(part), part.T @ (truth[~inside] - mean)
        for one, penalty in zip(said, penalties, strict=True):
            one[inside] = mean + z[inside] @ np.linalg.solve(gram + np.diag(penalty), cross) / len(part)
    return said


def _error(said: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> float:
    return float(np.sqrt(np.mean(np.square(said - truth))))


def margins(said: Float[np.ndarray, " n"], truth: Float[np.ndarray, " n"]) -> Params:
    """How far below what was said nine truths in ten stay, by what was said.

    Rows are cut into bins of like forecasts, each with the quantile of its own errors that holds for one row more.

    Source: Vovk et al. 2003 (Mondrian); Lei et al. 2018, arXiv:1604.04173 (split conformal).
    """
    bins = np.array_split(np.argsort(said, kind="stable"), MARGINS)
    at = np.array([said[rows].mean() for rows in bins])
    level = [min(1.0, np.ceil((len(rows) + 1) * COVERAGE) / max(len(rows), 1)) for rows in bins]
    width = [np.quantile(said[rows] - truth[rows], q, method="higher") for rows, q in zip(bins, level, strict=True)]
    return _single({"at": at, "width": np.array(width)})


def hit_head(
    features_: Float[np.ndarray, "n f"], forecast: Float[np.ndarray, " n"], found: Bool[np.ndarray, " n"]
) -> tuple[Params, Float[np.ndarray, " n"]]:
    """Logistic regression of finding the native top hit, and what it says of each row when its fold is left out."""
    z = np.concatenate([features_, forecast[:, None]], axis=1)
    fold = np.arange(len(z)) % FOLDS
    chance = np.zeros(len(z))
    for k in range(FOLDS):
        weight, bias = logistic(z[fold != k], found[fold != k], HIT_PENALTY)
        chance[fold == k] = expit(z[fold == k] @ weight + bias)
    weight, bias = logistic(z, found, HIT_PENALTY)
    return _single({"features": weight[:-1], "cosine": weight[-1], "bias": bias}), chance


def chance_map(said: Float[np.ndarray, " n"], found: Bool[np.ndarray, " n"]) -> Params:
    """Knots of the increasing map from what was said of hits to how often they came, in bins of equally many rows.

    What the junk head takes from ordinary rows is so given back, and no order changes; 0 stays 0, and 1 stays 1.

    Source: Zadrozny and Elkan 2002 (isotonic calibration).
    """
    bins = np.array_split(np.argsort(said, kind="stable"), min(CHANCES, len(said)))
    at = np.maximum.accumulate([said[rows].mean() for rows in bins])
    came = isotonic_regression([found[rows].mean() for rows in bins], weights=[len(rows) for rows in bins]).x
    ones = np.ones(CHANCES + 1 - len(bins))
    return _single({"said": np.r_[0, at, ones], "found": np.r_[0, came, ones]})


def junk_head(x: Float[np.ndarray, "n d"], foreign: Foreign | None) -> Params:
    """Logistic regression of being junk on the source embedding; where none was given, nothing is."""
    if foreign is None:
        return _single({"x": np.zeros(x.shape[1]), "bias": NEVER, "known": 0})
    rows = np.concatenate([x, _unit(foreign.ordinary), _unit(foreign.junk)])
    weight, bias = logistic(rows, np.arange(len(rows)) >= len(rows) - len(foreign.junk), JUNK_PENALTY)
    return _single({"x": weight, "bias": bias, "known": 1})


def _unseen_distances(
    x: ArrayIn, s: Params, rows: Int[np.ndarray, " n"], detail: tuple[int, int], seed: int
) -> tuple[Float32[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """Both distances of rows of the pairs; where there are few, by statistics that have not seen them."""
    if len(x) >= PLENTY:
        return measured(s, _unit(x[rows]))
    far, near = held_out_distances(_unit(x), np.arange(len(x)) % FOLDS, detail, seed)
    return far[rows], near[rows]


def _seed_confidence(s: Params, far: np.ndarray, near: np.ndarray) -> np.ndarray:
    conf_maha = distance_confidence(jnp.asarray(far), s["maha_p95"], s["maha_p99"])
    conf_knn = distance_confidence(jnp.asarray(near), s["knn_p95"], s["knn_p99"])
    return np.minimum(conf_maha, conf_knn)


def _unit(rows: ArrayIn) -> Float32[np.ndarray, "n d"]:
    return np.asarray(unit(np.asarray(rows, np.float32)))


def _single(head: Params) -> Params:
    return {name: np.asarray(value, np.float32) for name, value in head.items()}
