"""The last layers of a chosen body: a linear one trained by contrast, and the body's own drawn towards it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.bodies import Body
from ea_jax.fitting.heads import Shape, polished, query_layer, similarity_map
from ea_jax.fitting.search import Choice, Folds, Kind
from ea_jax.metrics import rank_of, top_hit
from ea_jax.ops import unit
from ea_jax.packing import packed, rounded
from ea_jax.solve import Affine, Covariance, ridge_leverage
from ea_jax.train import Held, Training

LEAST_TRAINED = 1000
QUERIES, CORPUS, SCORED = 2000, 16384, 4096
ROUND, FLAT = Kind("ridge", 0.1), Shape(0.7, 4.0)  # where training a single matrix ends best, wherever it starts best
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)


class Bench(NamedTuple):
    """Rows that the last layers are trained on, and others that judge them; features begin with the inputs."""

    own: Float32[np.ndarray, "n k"]
    y: Float32[np.ndarray, "n d_out"]
    asked: Float32[np.ndarray, "q k"]
    native: Float32[np.ndarray, "q d_out"]
    corpus: Float32[np.ndarray, "c d_out"]


class Layers(NamedTuple):
    """Last layers by purpose, the map of query scores to native similarities, and what was done."""

    out: dict[str, Affine]
    similarity: Params
    facts: dict[str, Any]


def bench(body: Body, folds: Folds, sample: Int[np.ndarray, " n"], judging: int, grouped: bool, seed: int) -> Bench:
    """Of the sampled rows, at most 2,000 and a quarter ask, if grouped all of one fold; others are trained on."""
    order = np.random.default_rng([seed, judging]).permutation(len(sample))
    inside = folds.fold[sample[order]] == judging if grouped else np.arange(len(order)) < len(order) // 2
    asks, others = np.split(order[inside], [min(QUERIES, inside.sum() // 2)])
    own = order[~inside] if grouped else np.setdiff1d(order, asks)
    found = np.union1d(others, own)
    parts = own, asks, found[:: max(1, len(found) // CORPUS)]
    y, native, corpus = (np.asarray(folds.y[sample[rows]], np.float32) for rows in parts)
    return Bench(body.rows[own], y, body.rows[asks], native, corpus)


def finished(
    body: Body,
    choice: Choice,
    linear: Choice,
    folds: Folds,
    on: Bench,
    training: Training | None,
    *,
    seed: int,
    show_progress: bool,
) -> Layers:
    """Both last layers of a body. A layer that is not linear is drawn towards the best linear one."""
    c = folds.covariance
    plain = {"store": linear.store.solve(c)}
    both = isinstance(choice.query, Kind)
    plain["query"], facts = _trained_linear(linear, folds, on, training, both, seed, show_progress)
    out, shares = {}, {}
    scores = {"store": lambda rows: _cosines(rows, on), "query": _reciprocal(on)}
    for purpose, kind in {"store": choice.store, "query": choice.query}.items():
        if isinstance(kind, Kind):
            out[purpose] = widened(plain[purpose], len(body.covariance.xx))
            continue
        assert body.store is not None
        shape = choice.shape
        own = body.store if purpose == "store" else query_layer(body.store, body.covariance, folds.spectrum, shape)
        unseen = plain[purpose].apply(on.asked[:, : folds.x.shape[1]]) + _shift(purpose, linear, folds, on)
        out[purpose], shares[purpose] = drawn(own, plain[purpose], own.apply(on.asked), unseen, scores[purpose])
    similarity = similarity_map(out["query"].apply(on.asked), on.native, on.corpus[:SCORED])
    return Layers(out, similarity, facts | ({"linear_share": shares} if shares else {}))


def drawn(
    layer: Affine,
    linear: Affine,
    a: Float[np.ndarray, "q d_out"],
    b: Float[np.ndarray, "q d_out"],
    score: Callable[[np.ndarray], Float[np.ndarray, " q"]],
) -> tuple[Affine, float]:
    """A layer averaged with a linear one, by the largest share whose cost held out is within its standard error.

    Far from what was fitted on, where held-out rows cannot judge, the linear map is the safer one.

    Args:
        layer: Affine map of the features.
        linear: Affine map of the inputs, which are the first features.
        a: The layer's outputs for held-out rows.
        b: The linear one's.
        score: One number a row of outputs; larger is better.

    Returns:
        The average, and the share of the linear layer, whose outputs are first scaled to the other's length.

    Source: Breiman et al. 1984, section 3.4.3 (the one-standard-error rule), of paired differences.
    """
    factor = float(np.sqrt(np.mean(np.square(a)) / np.mean(np.square(b))))
    found = {share: score((1 - share) * a + share * factor * b) for share in SHARES}
    best = max(found.values(), key=np.mean)
    share = max(share for share, one in found.items() if _within_error(best - one))
    wide = widened(linear, len(layer.kernel))
    average = [(1 - share) * p + share * factor * q for p, q in zip(layer, wide, strict=True)]
    return Affine(*average), share


def _shift(purpose: str, linear: Choice, folds: Folds, on: Bench) -> Float[np.ndarray, "q d_out"]:
    """What leaving each asked row out of the linear fit changes in its output, as `kernel.left_out` says it."""
    c, n = folds.covariance, len(folds.x)
    kind, x = linear.store if purpose == "store" else ROUND, on.asked[:, : folds.x.shape[1]]
    if isinstance(kind.setting, str):  # a rotation has nothing to fit a single row with
        return np.zeros_like(on.native)
    leverage = ridge_leverage(c, kind.setting, n, x)[:, None]
    moved = leverage / (1 - leverage) * (kind.solve(c).apply(x) - on.native)
    if purpose == "store":
        return moved
    flat = query_layer(Affine(np.eye(len(c.yy)), np.zeros(len(c.yy))), _of_outputs(kind, c), folds.spectrum, FLAT)
    return moved @ flat.kernel


def _of_outputs(kind: Kind, c: Covariance) -> Covariance:
    """Covariance of a linear fit's own outputs, in the place of its inputs, with the targets."""
    kernel = kind.solve(c).kernel
    return c._replace(x_mean=c.y_mean, xx=kernel.T @ c.xx @ kernel, xy=kernel.T @ c.xy)


def _within_error(cost: Float[np.ndarray, " q"]) -> bool:
    return bool(cost.mean() <= cost.std() / np.sqrt(len(cost)))


def widened(linear: Affine, features: int) -> Affine:
    """An affine map of the inputs as one of features that begin with them."""
    unread = np.zeros((features - len(linear.kernel), linear.kernel.shape[1]))
    return Affine(np.concatenate([linear.kernel, unread]), linear.bias)


def stored(layer: Affine, body: Body, bits: int) -> Params:
    """A last layer as it is stored: its kernel rounded for the features that it will read."""
    c = body.covariance
    grid = rounded(layer.kernel, c.xx + np.outer(c.x_mean, c.x_mean), bits)
    return {"kernel": packed(grid), "bias": layer.bias.astype(np.float32)}


def _trained_linear(
    linear: Choice, folds: Folds, on: Bench, training: Training | None, both: bool, seed: int, show_progress: bool
) -> tuple[Affine, dict[str, Any]]:
    """The best single matrix for queries: from the chosen start or the flat one, trained where that helps."""
    c, d = folds.covariance, folds.x.shape[1]
    chosen = query_layer(linear.query.solve(c), c, folds.spectrum, linear.shape)
    if training is None or len(folds.x) < LEAST_TRAINED:
        return chosen, {}
    flat = query_layer(ROUND.solve(c), c, folds.spectrum, FLAT)
    starts: Sequence[Affine] = (chosen, flat) if both else (flat,)
    training = replace(training, batch=min(training.batch, max(256, len(on.own) // 4)))
    own, held = np.ascontiguousarray(on.own[:, :d]), Held(on.asked[:, :d], on.native, on.corpus)
    found = [polished(start, own, on.y, held, training, seed=seed, show_progress=show_progress) for start in starts]
    layer, trained = max(found, key=lambda one: max(score for _, score in one[1].judged))
    return layer, {"polish": {"steps": trained.best, "reciprocal_rank": [round(s, 4) for _, s in trained.judged]}}


def _cosines(outputs: Float[np.ndarray, "q d_out"], on: Bench) -> Float[np.ndarray, " q"]:
    return np.sum(np.asarray(unit(outputs.astype(np.float32))) * on.native, axis=1)


def _reciprocal(on: Bench) -> Callable[[ArrayIn], Float[np.ndarray, " q"]]:
    hit = top_hit(on.native, on.corpus)
    return lambda outputs: 1 / np.asarray(rank_of(np.asarray(outputs, np.float32), on.corpus, hit))
