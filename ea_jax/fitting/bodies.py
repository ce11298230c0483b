"""What comes before an adapter's last layer, by family: its stored parameters, and the features it makes of inputs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.fitting.machines import Machine, landmarks_apart
from ea_jax.fitting.search import Choice, Folds, Kind, shape_of, total
from ea_jax.fitting.splits import Kin
from ea_jax.kernel import Radial, hat_of, mixed, mixed_down, sums, weights
from ea_jax.mlp import mlp_start
from ea_jax.models import MLP
from ea_jax.solve import Affine, Covariance, Hat, covariance, left_out, moments, ridge_hat, whitening
from ea_jax.train import MLP_TRAINING, Held, train

METRIC = 0.3
MLP_WIDTH, MLP_DEPTH, EPOCHS = 512, 2, 20


class Without(NamedTuple):
    """What a body's faithful layer makes of rows that were left out with their blocks.

    Attributes:
        outputs: Not scaled to length one.
        moved: What leaving them out changes in its affine part alone.
    """

    outputs: Float32[np.ndarray, "b d_out"]
    moved: Float[np.ndarray, "b d_out"]


class Body(NamedTuple):
    """All of a family's adapter but its last layer.

    Attributes:
        family: Which module computes it.
        sizes: The module's widths and counts.
        params: As they are stored.
        covariance: Of its features and the targets.
        store: The faithful layer on its features; None where any affine map of the inputs will do.
        without: What that layer makes of the first row of each block, as if the block had not been fitted on.
    """

    family: str
    sizes: dict[str, int]
    params: Params
    covariance: Covariance
    store: Affine | None
    without: Callable[[Kin], Without] | None


def linear_body(folds: Folds) -> Body:
    """The features are the inputs."""
    return Body("linear", {}, {}, folds.covariance, None, None)


def kernel_body(folds: Folds, machine: Machine, unseen: Kin, landmarks: int, rank: int, bits: int, seed: int) -> Body:
    """The inputs, and radial functions around cluster centres mixed down to a rank; fitted on all pairs.

    Few centres are made of none of the `unseen` rows, whose outputs are wanted as if they had not been fitted on.
    """
    x, y, m = folds.x, folds.y, total(folds.moments)
    radial = Radial.around(landmarks_apart(x, min(landmarks, len(x)), unseen.rows, seed), machine.gamma, x)
    s = sums(radial, x, y)
    affine = folds.base.solve(covariance(m))
    w = weights(s, radial.among, affine, machine.penalty)
    metric, rank = whitening(folds.spectrum, METRIC), min(rank, len(w), y.shape[1])
    features, expand = mixed(radial, w, s, metric, rank, bits)
    c = features.covariance(s, m)
    store = Affine(np.concatenate([affine.kernel, expand]), affine.bias)
    assert isinstance(folds.base.setting, float)
    hat, w = hat_of(radial, s, m, folds.base.setting, machine.penalty), w.astype(np.float32)

    def without(kin: Kin) -> Without:
        both = _left_out(lambda rows: affine.apply(rows) + radial(rows) @ w, hat, folds, kin)
        moved = linear_moved(folds.base, folds, kin)
        plain = affine.apply(np.asarray(x[kin.firsts], np.float32)) + moved
        return Without((plain + mixed_down(both - plain, metric, rank)).astype(np.float32), moved)

    return Body("kernel", features.sizes(), features.params(), c, store, without)


def linear_moved(kind: Kind, folds: Folds, kin: Kin) -> Float[np.ndarray, "b d_out"]:
    """What leaving each row and its near-duplicates out of a linear fit changes in its output."""
    c, penalty = folds.covariance, kind.setting
    if isinstance(penalty, str):  # a rotation has nothing to fit a single row with
        return np.zeros((len(kin.sizes), len(c.yy)))
    fitted = kind.solve(c)
    without = _left_out(fitted.apply, lambda x: ridge_hat(c, penalty, len(folds.x), x), folds, kin)
    return without - fitted.apply(np.asarray(folds.x[kin.firsts], np.float32))


def _left_out(
    apply: Callable[[np.ndarray], np.ndarray], hat: Callable[[np.ndarray], Hat], folds: Folds, kin: Kin
) -> Float[np.ndarray, "b d_out"]:
    """What a fit makes of rows if it has seen neither them nor their near-duplicates."""
    found = []
    for part in kin.parts():
        x, native = (np.asarray(side[part.rows], np.float32) for side in (folds.x, folds.y))
        found.append(left_out(apply(x), native, hat(x), part.sizes))
    return np.concatenate(found)


def mlp_body(
    folds: Folds, judging: int, sample: Int[np.ndarray, " n"], seed: int, show_progress: bool
) -> tuple[Body, Choice]:
    """The inputs, and the features of a network trained on all folds but the judging one, which chooses."""
    k, judge = judging, folds.judges[judging]
    rows = np.flatnonzero(folds.fold != k)
    x, y = np.asarray(folds.x[rows]), np.asarray(folds.y[rows])
    module, start = mlp_start(x, y, MLP_WIDTH, MLP_DEPTH, seed)
    held = Held(judge.held.x, judge.held.y, judge.held.corpus)
    training = replace(MLP_TRAINING, steps=max(MLP_TRAINING.steps, EPOCHS * len(x) // MLP_TRAINING.batch))
    params = train(module, start, x, y, held, training, seed=seed, show_progress=show_progress).params
    read = partial(_features, module, params)
    store = Affine(*(np.asarray(params["out"][name], np.float64) for name in ("kernel", "bias")))

    def features(at: Int[np.ndarray, " k"]) -> Float32[np.ndarray, "k width"]:
        return np.asarray(read(np.asarray(folds.x[at], np.float32)))

    def without(kin: Kin) -> Without:  # of rows of the judging fold, which the network has not seen
        return Without(store.apply(features(kin.firsts)), np.zeros((len(kin.sizes), y.shape[1])))

    c = covariance(moments(features(sample), np.asarray(folds.y[sample])))
    found = {k: store.apply(np.asarray(read(judge.held.x)))}
    rank = shape_of(found, folds._replace(judges={k: judge}))
    body = {name: jax.tree.map(np.asarray, value) for name, value in params.items() if name != "out"}
    sizes = {"width": MLP_WIDTH, "depth": MLP_DEPTH}
    return Body("mlp", sizes, body, c, store, without), Choice("mlp", judge.cosine(found[k]), "mlp", *rank, 1)


@partial(jax.jit, static_argnums=0)
def _features(module: MLP, params: Params, x: Float[ArrayIn, "n d_in"]) -> Float[Array, "n width"]:
    """What the last layer reads. Parameters come in: as constants, XLA's CPU compiler makes nan of them."""
    return cast(Array, module.apply({"params": params}, x, features=True))
