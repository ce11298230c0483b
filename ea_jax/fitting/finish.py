"""The last layers of a chosen body: a linear one trained on neighbours, and the body's own drawn towards it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.bodies import Body, linear_moved
from ea_jax.fitting.drawing import FAITHFUL, Mix, drawing_of, drawn, raised, share_of, unfitted, widened
from ea_jax.fitting.heads import FLAT, Shape, polished, query_layer, similarity_map, suited
from ea_jax.fitting.machines import Machine, are_few
from ea_jax.fitting.search import Choice, Folds, Kind, total
from ea_jax.fitting.splits import LEAST_CHOSEN, Kin, kin_of
from ea_jax.metrics import rank_of, top_hit
from ea_jax.ops import unit
from ea_jax.packing import packed, rounded
from ea_jax.solve import Affine, Covariance, covariance, moments
from ea_jax.train import Held, Training

MOST_KNOWN = 0.5
QUERIES, CORPUS, SCORED = 2000, 16384, 4096
RESIDUALS, FOUND = 8192, 10


class Bench(NamedTuple):
    """Rows that the last layers are trained on, and others that judge them.

    Attributes:
        sample: Row numbers of all of them.
        own: Inputs of the rows that are trained on while others judge.
        y: Their native vectors.
        asked: Inputs of the rows that judge.
        native: Their native vectors.
        corpus: Native vectors that they rank.
        unseen: Pairs whose outputs are wanted as if neither they nor their near-duplicates had been fitted on; those
            that judge first.
        barred: Row numbers of those that judge, and of their near-duplicates unless these are most of the pairs: what
            training may not see while they judge.
        found: Row numbers of the corpus.
        hit: Where in the corpus the native top hit of each that judges is.
        unfitted: Share of the corpus that queries will search that is not fitted on.
    """

    sample: Int[np.ndarray, " s"]
    own: Float32[np.ndarray, "n d_in"]
    y: Float32[np.ndarray, "n d_out"]
    asked: Float32[np.ndarray, "q d_in"]
    native: Float32[np.ndarray, "q d_out"]
    corpus: Float32[np.ndarray, "c d_out"]
    unseen: Kin
    barred: Int[np.ndarray, " b"]
    found: Int[np.ndarray, " c"]
    hit: Int[np.ndarray, " q"]
    unfitted: float


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


def bench(
    folds: Folds,
    sample: Int[np.ndarray, " n"],
    judging: int,
    *,
    grouped: bool,
    network: bool,
    landmarks: int,
    corpus_size: int,
    seed: int,
) -> Bench:
    """Of the sampled rows, at most 2,000 and a quarter ask, if grouped all of one fold; others are trained on.

    A network has seen all folds but the judging one, so that only of its rows there are outputs unseen. Of few
    landmarks none may be made of what is to be unseen, which is then at most half of the rows.
    """
    order = np.random.default_rng([seed, judging]).permutation(len(sample))
    inside = folds.fold[sample[order]] == judging if grouped else np.arange(len(order)) < len(order) // 2
    asks, others = np.split(order[inside], [min(QUERIES, inside.sum() // 2)])
    own = order[~inside] if grouped else np.setdiff1d(order, asks)
    found = np.union1d(others, own)
    rest = others if network else order[~np.isin(order, asks)]
    most = min(RESIDUALS, len(order) // 2) if are_few(landmarks, len(folds.x)) else RESIDUALS
    unseen = np.concatenate([asks, rest])[:most]
    kin = kin_of(folds.x, folds.y, sample[unseen])
    barred = np.unique(kin.first(len(asks)).rows)
    known = np.isin(sample[own], barred)
    if known.mean() > MOST_KNOWN:
        barred = sample[asks]
    else:
        own = own[~known]
    found = found[:: max(1, len(found) // CORPUS)]
    y, native, corpus = (np.asarray(folds.y[sample[rows]], np.float32) for rows in (own, asks, found))
    x, asked = (np.asarray(folds.x[sample[rows]], np.float32) for rows in (own, asks))
    hit = np.asarray(top_hit(native, corpus))
    share = unfitted(len(folds.x), corpus_size)
    return Bench(sample, x, y, asked, native, corpus, kin, barred, sample[found], hit, share)


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
    asks, plain, outputs = len(on.asked), {}, {}
    plain["store"] = linear.store.solve(folds.covariance)
    moved = linear_moved(linear.store, folds, on.unseen)
    outputs["store"] = (_apply(plain["store"], folds, on.unseen) + moved).astype(np.float32)
    plain["query"], outputs["query"], facts = linear_query(linear, folds, on, training, seed, show_progress)
    out, mixes = {}, {"store": Mix(0.0, 1.0)}
    left = body.without(on.unseen) if body.without else None
    for purpose, kind in {"store": choice.store, "query": choice.query}.items():
        if isinstance(kind, Kind):
            out[purpose] = widened(plain[purpose], len(body.covariance.xx))
            continue
        assert body.store is not None
        assert left is not None
        own, bent = body.store, left.outputs
        if purpose == "store":
            share = share_of(bent, outputs[purpose], lambda rows: _cosines(rows[:asks], on), FAITHFUL)
        else:
            reshaped = _reshaping(own, body.covariance, folds, choice.shape)
            bent, own = reshaped.apply(bent[:asks]), query_layer(own, body.covariance, folds.spectrum, choice.shape)
            alone = reshaped.apply(_alone(body, on)) if isinstance(kind, Machine) and on.unfitted else None
            share = _query_share(bent, alone, outputs[purpose], choice.share, on, len(folds.x))
        out[purpose], mixes[purpose], outputs[purpose] = drawn(own, plain[purpose], bent, outputs[purpose], share)
        facts.setdefault("linear_share", {})[purpose] = round(1 - mixes[purpose].own, 2)
    similarity = similarity_map(outputs["query"], on.native, on.corpus[:SCORED])
    found = 1 / _reciprocal(on)(outputs["query"]) <= FOUND
    bends = mixes["store"].own * left.moved + mixes["store"].linear * moved if left else None
    unseen = _unseen(out["store"], bends, folds, on, outputs["store"], found)
    return Layers(out, similarity, facts, unseen)


def _query_share(
    bent: Float[np.ndarray, "q d_out"],
    alone: Float[np.ndarray, "q d_out"] | None,
    linear: Float[np.ndarray, "q d_out"],
    least: float,
    on: Bench,
    pairs: int,
) -> float:
    """The linear share of a query layer, at least what domains held out call for.

    It is raised for top hits that were not fitted on, if there is what tells of them.
    """
    share = max(least, share_of(bent, linear, _reciprocal(on), drawing_of(pairs)))
    if alone is None:
        return share
    return raised(share, np.stack([bent, alone]), linear, _reciprocal(on), on.unfitted, pairs)


def _alone(body: Body, on: Bench) -> Float32[np.ndarray, "q d_out"]:
    """What a kernel machine makes of those that ask if it has not seen their native top hits either.

    It puts a query near to the rows that it was fitted on. Where these are a part of the corpus that will be searched,
    they come before the others, which does not show while the top hit is one of them.
    """
    assert body.without is not None
    return body.without(on.unseen.first(len(on.hit)).beside(on.found[on.hit])).outputs


def _unseen(
    layer: Affine,
    moved: Float[np.ndarray, "n d_out"] | None,
    folds: Folds,
    on: Bench,
    outputs: Float32[np.ndarray, "n d_out"],
    found: Bool[np.ndarray, " q"],
) -> Unseen:
    """Outputs of the faithful layer, and what its affine part alone says; `moved` is what leaving out changes in it."""
    rows = on.unseen.firsts
    if moved is None:
        return Unseen(rows, outputs, None, found)
    affine = Affine(layer.kernel[: folds.x.shape[1]], layer.bias)
    linear = affine.apply(np.asarray(folds.x[rows], np.float32)) + moved
    return Unseen(rows, outputs, linear.astype(np.float32), found)


def _apply(layer: Affine, folds: Folds, kin: Kin) -> Float32[np.ndarray, "b d_out"]:
    """What an affine map makes of the first row of each block."""
    return layer.apply(np.asarray(folds.x[kin.firsts], np.float32)).astype(np.float32)


def _reshaping(layer: Affine, c: Covariance, folds: Folds, shape: Shape) -> Affine:
    """What makes the outputs of a layer's query form out of the layer's own."""
    own = c._replace(x_mean=c.y_mean, xx=layer.kernel.T @ c.xx @ layer.kernel, xy=layer.kernel.T @ c.xy)
    return query_layer(Affine(np.eye(len(c.yy)), np.zeros(len(c.yy))), own, folds.spectrum, shape)


def stored(layer: Affine, body: Body, bits: int) -> Params:
    """A last layer as it is stored: its kernel rounded for the features that it will read."""
    c = body.covariance
    assert np.isfinite(layer.kernel).all()
    assert np.isfinite(c.xx).all()
    grid = rounded(layer.kernel, c.xx + np.outer(c.x_mean, c.x_mean), bits)
    return {"kernel": packed(grid), "bias": layer.bias.astype(np.float32)}


def linear_query(
    linear: Choice, folds: Folds, on: Bench, training: Training | None, seed: int, show_progress: bool
) -> tuple[Affine, Float32[np.ndarray, "q d_out"], dict[str, Any]]:
    """The best single matrix for queries, what it makes of those that ask as if it had not seen them, what was done.

    It is trained without them to find out how long and how well it ranks, then on all rows for as many steps.
    """
    c = folds.covariance
    if training is None or len(folds.x) < LEAST_CHOSEN:
        kind, shape, kin = linear.query, linear.shape, on.unseen.first(len(on.asked))
        layer = query_layer(kind.solve(c), c, folds.spectrum, shape)
        moved = linear_moved(kind, folds, kin) @ _reshaping(kind.solve(c), c, folds, shape).kernel
        return layer, (_apply(layer, folds, kin) + moved).astype(np.float32), {}
    apart = covariance(total(folds.moments).minus(moments(folds.x, folds.y, on.barred)))
    start, whole = (query_layer(folds.round.solve(part), part, folds.spectrum, FLAT) for part in (apart, c))
    polish = partial(polished, judged=Held(on.asked, on.native, on.corpus), seed=seed, show_progress=show_progress)
    training = suited(training, len(folds.x), on.unfitted)
    layer, trained = polish(start, on.own, on.y, training=training)
    if trained.best:
        x, y = (np.asarray(side[on.sample], np.float32) for side in (folds.x, folds.y))
        whole, _ = polish(whole, x, y, training=replace(training, steps=trained.best, every=trained.best))
    told = {"steps": trained.best, "reciprocal_rank": [round(score, 4) for _, score in trained.judged]}
    return whole, layer.apply(on.asked).astype(np.float32), {"polish": told}


def _cosines(outputs: Float[np.ndarray, "q d_out"], on: Bench) -> Float[np.ndarray, " q"]:
    return np.sum(np.asarray(unit(outputs.astype(np.float32))) * on.native, axis=1)


def _reciprocal(on: Bench) -> Callable[[ArrayIn], Float[np.ndarray, " q"]]:
    """A score for each row of outputs of those that ask, once or one time after the other."""
    return lambda rows: 1 / np.asarray(rank_of(np.asarray(rows, np.float32), on.corpus, np.resize(on.hit, len(rows))))
