"""The last layers of a chosen body: a linear one trained by contrast, and the body's own drawn towards it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.bodies import Body
from ea_jax.fitting.heads import Shape, polished, query_layer, similarity_map
from ea_jax.fitting.search import ROUND, Choice, Folds, Kind
from ea_jax.metrics import rank_of, top_hit
from ea_jax.ops import unit
from ea_jax.packing import packed, rounded
from ea_jax.solve import Affine, Covariance, ridge_leverage
from ea_jax.train import Held, Training

LEAST_TRAINED = 2000
QUERIES, CORPUS, SCORED = 2000, 16384, 4096
RESIDUALS, FOUND = 8192, 10
FLAT = Shape(0.7, 4.0)  # of the round map: where training a single matrix ends best, wherever it starts best
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)


class Start(NamedTuple):
    """How a linear layer was solved for, before any training: the kind of fit, and the shape of its outputs if any."""

    kind: Kind
    shape: Shape | None


class Bench(NamedTuple):
    """Rows that the last layers are trained on, and others that judge them; features begin with the inputs.

    Attributes:
        own: Features of the rows that are trained on.
        y: Their native vectors.
        asked: Features of the rows that judge.
        native: Their native vectors.
        corpus: Native vectors that they rank.
        unseen: Places in the sample of rows whose features are as if they had not been seen; those that judge first.
    """

    own: Float32[np.ndarray, "n k"]
    y: Float32[np.ndarray, "n d_out"]
    asked: Float32[np.ndarray, "q k"]
    native: Float32[np.ndarray, "q d_out"]
    corpus: Float32[np.ndarray, "c d_out"]
    unseen: Int[np.ndarray, " r"]


class Unseen(NamedTuple):
    """What the `store` layer makes of some pairs as if it had not seen them, for the quality part.

    Attributes:
        rows: Row numbers of the pairs; those that asked for the native top hit with `query` outputs come first.
        raw: Outputs, not scaled to length one.
        linear: What its affine part alone puts out; None where there is nothing else.
        found: Whether the native top hit of those that asked was among the first ten.
    """

    rows: Int[np.ndarray, " n"]
    raw: Float32[np.ndarray, "n d_out"]
    linear: Float32[np.ndarray, "n d_out"] | None
    found: Bool[np.ndarray, " q"]


class Layers(NamedTuple):
    """Last layers by purpose, the map of query scores to native similarities, what was done, and outputs unseen."""

    out: dict[str, Affine]
    similarity: Params
    facts: dict[str, Any]
    unseen: Unseen


def bench(body: Body, folds: Folds, sample: Int[np.ndarray, " n"], judging: int, grouped: bool, seed: int) -> Bench:
    """Of the sampled rows, at most 2,000 and a quarter ask, if grouped all of one fold; others are trained on."""
    order = np.random.default_rng([seed, judging]).permutation(len(sample))
    inside = folds.fold[sample[order]] == judging if grouped else np.arange(len(order)) < len(order) // 2
    asks, others = np.split(order[inside], [min(QUERIES, inside.sum() // 2)])
    own = order[~inside] if grouped else np.setdiff1d(order, asks)
    found = np.union1d(others, own)
    parts = own, asks, found[:: max(1, len(found) // CORPUS)]
    y, native, corpus = (np.asarray(folds.y[sample[rows]], np.float32) for rows in parts)
    rest = others if body.family == "mlp" else np.concatenate([others, own])  # the network has seen all folds but one
    unseen = np.concatenate([asks, rest])[:RESIDUALS]
    return Bench(body.rows[own], y, body.rows[asks], native, corpus, unseen)


def finished(
    body: Body,
    choice: Choice,
    linear: Choice,
    folds: Folds,
    sample: Int[np.ndarray, " n"],
    on: Bench,
    training: Training | None,
    *,
    seed: int,
    show_progress: bool,
) -> Layers:
    """Both last layers of a body. A layer that is not linear is drawn towards the best linear one."""
    c, d = folds.covariance, folds.x.shape[1]
    plain = {"store": linear.store.solve(c)}
    both = isinstance(choice.query, Kind)
    plain["query"], start, facts = _trained_linear(linear, folds, on, training, both, seed, show_progress)
    starts = {"store": Start(linear.store, None), "query": start}
    out, shares, outputs = {}, {}, {}
    scores = {"store": lambda rows: _cosines(rows, on), "query": _reciprocal(on)}
    for purpose, kind in {"store": choice.store, "query": choice.query}.items():
        x = on.asked[:, :d]
        unseen = plain[purpose].apply(x) + _shift(starts[purpose], folds, x, on.native)
        if isinstance(kind, Kind):
            out[purpose], outputs[purpose] = widened(plain[purpose], len(body.covariance.xx)), unseen.astype(np.float32)
            continue
        assert body.store is not None
        shape = choice.shape
        own = body.store if purpose == "store" else query_layer(body.store, body.covariance, folds.spectrum, shape)
        out[purpose], shares[purpose], outputs[purpose] = drawn(
            own, plain[purpose], own.apply(on.asked), unseen, scores[purpose]
        )
    similarity = similarity_map(outputs["query"], on.native, on.corpus[:SCORED])
    found = 1 / scores["query"](outputs["query"]) <= FOUND
    unseen = _unseen(body, out["store"], starts["store"], folds, sample, on, shares.get("store", 1.0), found)
    return Layers(out, similarity, facts | ({"linear_share": shares} if shares else {}), unseen)


def _unseen(
    body: Body,
    layer: Affine,
    start: Start,
    folds: Folds,
    sample: Int[np.ndarray, " n"],
    on: Bench,
    share: float,
    found: Bool[np.ndarray, " q"],
) -> Unseen:
    """Pairs through the faithful layer, what its affine part saw of them taken out again."""
    read, rows, d = body.rows[on.unseen], sample[on.unseen], folds.x.shape[1]
    x, native = read[:, :d], np.asarray(folds.y[rows], np.float32)
    raw = layer.apply(read) + share * _shift(start, folds, x, native)
    if body.family == "linear":
        return Unseen(rows, raw.astype(np.float32), None, found)
    part = x @ layer.kernel[:d] + layer.bias + _shift(Start(folds.base, None), folds, x, native)
    return Unseen(rows, raw.astype(np.float32), part.astype(np.float32), found)


def drawn(
    layer: Affine,
    linear: Affine,
    a: Float[np.ndarray, "q d_out"],
    b: Float[np.ndarray, "q d_out"],
    score: Callable[[np.ndarray], Float[np.ndarray, " q"]],
) -> tuple[Affine, float, Float[np.ndarray, "q d_out"]]:
    """A layer averaged with a linear one, by the largest share whose cost held out is within its standard error.

    Far from what was fitted on, where held-out rows cannot judge, the linear map is the safer one.

    Args:
        layer: Affine map of the features.
        linear: Affine map of the inputs, which are the first features.
        a: The layer's outputs for held-out rows.
        b: The linear one's.
        score: One number a row of outputs; larger is better.

    Returns:
        The average, the share of the linear layer, whose outputs are first scaled to the other's length, and the
        average of the outputs.

    Source: Breiman et al. 1984, section 3.4.3 (the one-standard-error rule), of paired differences.
    """
    factor = float(np.sqrt(np.mean(np.square(a)) / np.mean(np.square(b))))
    found = {share: score((1 - share) * a + share * factor * b) for share in SHARES}
    best = max(found.values(), key=np.mean)
    share = max(share for share, one in found.items() if _within_error(best - one))
    wide = widened(linear, len(layer.kernel))
    average = [(1 - share) * p + share * factor * q for p, q in zip(layer, wide, strict=True)]
    return Affine(*average), share, ((1 - share) * a + share * factor * b).astype(np.float32)


def _shift(
    start: Start, folds: Folds, x: Float[np.ndarray, "q d_in"], native: Float[np.ndarray, "q d_out"]
) -> Float[np.ndarray, "q d_out"]:
    """What leaving each row out of a linear fit changes in its output, as `kernel.left_out` says it."""
    (kind, shape), c = start, folds.covariance
    if isinstance(kind.setting, str):  # a rotation has nothing to fit a single row with
        return np.zeros_like(native)
    leverage = ridge_leverage(c, kind.setting, len(folds.x), x)[:, None]
    moved = leverage / (1 - leverage) * (kind.solve(c).apply(x) - native)
    if shape is None:
        return moved
    same = Affine(np.eye(len(c.yy)), np.zeros(len(c.yy)))
    return moved @ query_layer(same, _of_outputs(kind, c), folds.spectrum, shape).kernel


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
) -> tuple[Affine, Start, dict[str, Any]]:
    """The best single matrix for queries, where it began and what was done."""
    c, d = folds.covariance, folds.x.shape[1]
    chosen, flat = Start(linear.query, linear.shape), Start(ROUND, FLAT)

    def solved(start: Start) -> Affine:
        assert start.shape is not None
        return query_layer(start.kind.solve(c), c, folds.spectrum, start.shape)

    if training is None or len(folds.x) < LEAST_TRAINED:
        return solved(chosen), chosen, {}
    training = replace(training, batch=min(training.batch, max(256, len(on.own) // 4)))
    own, held = np.ascontiguousarray(on.own[:, :d]), Held(on.asked[:, :d], on.native, on.corpus)
    tried = [
        (start, *polished(solved(start), own, on.y, held, training, seed=seed, show_progress=show_progress))
        for start in ((chosen, flat) if both else (flat,))
    ]
    start, layer, trained = max(tried, key=lambda one: max(score for _, score in one[2].judged))
    told = {"steps": trained.best, "reciprocal_rank": [round(s, 4) for _, s in trained.judged]}
    return layer, start, {"polish": told}


def _cosines(outputs: Float[np.ndarray, "q d_out"], on: Bench) -> Float[np.ndarray, " q"]:
    return np.sum(np.asarray(unit(outputs.astype(np.float32))) * on.native, axis=1)


def _reciprocal(on: Bench) -> Callable[[ArrayIn], Float[np.ndarray, " q"]]:
    hit = top_hit(on.native, on.corpus)
    return lambda outputs: 1 / np.asarray(rank_of(np.asarray(outputs, np.float32), on.corpus, hit))
