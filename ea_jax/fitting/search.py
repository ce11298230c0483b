"""Held-out scores of the ways to fit: which affine map, which kernel machine, which shape of query vectors."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.arrays import ArrayIn
from ea_jax.fitting.drawing import SHARES, averaged, within_error
from ea_jax.fitting.heads import PLAIN, SHAPES, Judge, Shape, shaped, whitenings
from ea_jax.fitting.splits import FOLDS, LEAST_CHOSEN, Held
from ea_jax.kernel import Radial, Sums, sums, weights
from ea_jax.solve import (
    Affine,
    Covariance,
    Moments,
    Spectrum,
    cluster_centres,
    covariance,
    procrustes,
    reduced_rank,
    ridge,
    target_spectrum,
)

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
RANK = 64
GAMMAS = (0.3, 0.7, 1.5)
KERNEL_PENALTIES = (0.03, 0.1, 0.3)
LANDMARKS, FEWER, LARGE = 4096, 2048, 8192  # of the search; of more pairs than that, the fewer at the least,
QUARTER = 4  # and this part of those that the fit will have
MANY, JUDGED = 2000, 3  # pairs from which three folds judge kernel machines


class Kind(NamedTuple):
    """One way to fit the affine map: ridge or reduced rank with a penalty, or Procrustes with a scale."""

    name: str
    setting: float | str

    def solve(self, c: Covariance) -> Affine:
        """The map that this kind fits."""
        if isinstance(self.setting, str):
            return procrustes(c, self.setting)
        return ridge(c, self.setting) if self.name == "ridge" else reduced_rank(c, self.setting, RANK)

    def facts(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"kind": self.name, "scale" if isinstance(self.setting, str) else "penalty": self.setting}


ROTATION = Kind("procrustes", "target-length")  # of the other scale, a shape makes the same
STORE_KINDS = [*(Kind("ridge", p) for p in PENALTIES), Kind("procrustes", "least-squares"), Kind("reduced rank", 0.03)]
QUERY_KINDS = [*(Kind("ridge", p) for p in PENALTIES[2:5]), ROTATION]
ROUND, SAFE_SHAPE = Kind("ridge", 0.1), Shape(0.5, 4.0)
SAFEST = 1000  # pairs, up to which the penalty of a safe map is one
LEAST_BENT = 2200  # pairs, from which the affine part of a kernel machine is the round map


def safe(pairs: int) -> Kind:
    """The affine map for queries that few pairs allow: the more there are, the less it has to be held back."""
    return Kind("ridge", min(1.0, SAFEST / pairs))


class Machine(NamedTuple):
    """A kernel machine: bandwidth, and the penalty of its weights; `Folds.base` is its affine part."""

    gamma: float
    penalty: float

    def facts(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"kind": "kernel", "gamma": self.gamma, "penalty": self.penalty}


class Choice(NamedTuple):
    """What won, and by which held-out scores.

    Attributes:
        store: The way to faithful vectors.
        cosine: Its mean cosine.
        query: The way to query vectors.
        shape: How they are shaped.
        rank: Their mean reciprocal rank.
        tried: How many ways were tried.
    """

    store: Any
    cosine: float
    query: Any
    shape: Shape
    rank: float
    tried: int


class Folds(NamedTuple):
    """Pairs cut into folds, with the moments of each, and the judges of those that are judged."""

    x: ArrayIn
    y: ArrayIn
    fold: Int[np.ndarray, " n"]
    moments: list[Moments]
    judges: dict[int, Judge]
    covariance: Covariance
    spectrum: Spectrum
    flat: dict[float, Float32[np.ndarray, "d_out d_out"]]

    @property
    def base(self) -> Kind:
        """The affine map that a kernel machine bends."""
        return ROUND if len(self.x) >= LEAST_BENT else safe(len(self.x))

    def without(self, k: int) -> Covariance:
        """Covariance of all folds but one."""
        return covariance(total([m for i, m in enumerate(self.moments) if i != k]))


def total(parts: Sequence[Any]) -> Any:
    """Sums of all parts together."""
    return reduce(lambda a, b: a.plus(b), parts)


def _cosine(found: dict[int, np.ndarray], folds: Folds) -> float:
    return float(np.mean([judge.cosine(found[k]) for k, judge in folds.judges.items()]))


def _ranks(found: dict[int, np.ndarray], folds: Folds, shape: Shape) -> Float[np.ndarray, " q"]:
    """Reciprocal ranks of the held-out queries of all folds, by what was found for each fold."""

    def one(k: int, judge: Judge) -> Float[np.ndarray, " q"]:
        return judge.ranks(shaped(found[k], folds.covariance, folds.flat[shape.exponent], shape.length))

    return np.concatenate([one(k, judge) for k, judge in folds.judges.items()])


def _rank(found: dict[int, np.ndarray], folds: Folds, shape: Shape) -> float:
    return float(_ranks(found, folds, shape).mean())


def shape_of(found: dict[int, np.ndarray], folds: Folds) -> tuple[Shape, float]:
    """The shape in which held-out outputs, by fold, rank best, or the safe one; and their mean reciprocal rank."""
    shapes = SHAPES if len(folds.x) >= LEAST_CHOSEN else [SAFE_SHAPE]
    score = {shape: _rank(found, folds, shape) for shape in shapes}
    best = max(score, key=score.__getitem__)
    return best, score[best]


def choose_linear(folds: Folds) -> Choice:
    """The best affine map for each purpose."""
    maps = {k: folds.without(k) for k in folds.judges}

    def outputs(kind: Kind) -> dict[int, np.ndarray]:
        return {k: kind.solve(c).apply(folds.judges[k].held.x) for k, c in maps.items()}

    cosine = {kind: _cosine(outputs(kind), folds) for kind in STORE_KINDS}
    kinds = QUERY_KINDS if len(folds.x) >= LEAST_CHOSEN else [safe(len(folds.x))]
    shape = {kind: shape_of(outputs(kind), folds) for kind in kinds}
    store = max(cosine, key=cosine.__getitem__)
    query = max(shape, key=lambda kind: shape[kind][1])
    return Choice(store, cosine[store], query, *shape[query], len(cosine) + len(shape))


def choose_kernel(folds: Folds, linear: Choice, landmarks: int, seed: int) -> tuple[Choice, dict[float, float]]:
    """The best kernel machine for both purposes, and its rank by the share of the pairs.

    It is looked for with 4,096 landmarks, of many pairs with a quarter of the `landmarks` that the fit will have.
    It is as faithful as its best average with the best affine map, which is what it is finished as.
    """
    if len(folds.x) >= MANY:
        folds = folds._replace(judges=dict(list(folds.judges.items())[:JUDGED]))
    most = LANDMARKS if len(folds.x) <= LARGE else max(FEWER, landmarks // QUARTER)
    asked = np.concatenate([judge.held.rows[: len(judge.held.x)] for judge in folds.judges.values()])
    centres = landmarks_apart(folds.x, min(most, len(folds.x)), asked, seed)
    outputs: dict[Machine, dict[int, np.ndarray]] = {}
    parts: dict[float, tuple[Radial, list[Sums]]] = {}
    for gamma in GAMMAS:
        radial = Radial.around(centres, gamma, folds.x)
        parts[gamma] = radial, [sums(radial, folds.x, folds.y, np.flatnonzero(folds.fold == k)) for k in range(FOLDS)]
        for k in folds.judges:
            others = [i for i in range(FOLDS) if i != k]
            for penalty, found in zip(KERNEL_PENALTIES, _outputs(folds, *parts[gamma], others, k), strict=True):
                outputs.setdefault(Machine(gamma, penalty), {})[k] = found
    machine = most_faithful(outputs, folds)
    shape = shape_of(outputs[machine], folds)
    plain = {k: linear.store.solve(folds.without(k)).apply(judge.held.x) for k, judge in folds.judges.items()}
    cosine = max(
        _cosine({k: averaged(out, plain[k], share)[0] for k, out in outputs[machine].items()}, folds)
        for share in SHARES
    )
    choice = Choice(machine, cosine, machine, *shape, len(outputs))
    k = next(iter(folds.judges))
    curve = {}
    for used in (1, 2, FOLDS - 1):
        some = [i for i in range(FOLDS) if i != k][:used]
        (out,) = _outputs(folds, *parts[machine.gamma], some, k, (machine.penalty,))
        curve[used / FOLDS] = _rank({k: out}, folds._replace(judges={k: folds.judges[k]}), choice.shape)
    return choice, curve


def are_few(landmarks: int, pairs: int) -> bool:
    """Whether landmarks lie so far apart that it shows in a row's output whether one of them was made of it."""
    return 2 * landmarks <= pairs


def landmarks_apart(
    x: Float[ArrayIn, "n d_in"], landmarks: int, judging: Int[np.ndarray, " k"], seed: int
) -> Float[ArrayIn, "m d_in"]:
    """Cluster centres of the rows; where they are few, of those that do not judge, if these are enough.

    Rows to come have no landmark of their own. One that had looks better fitted than they will be, left out or not.
    """
    rest = np.setdiff1d(np.arange(len(x)), judging)
    apart = are_few(landmarks, len(x)) and len(rest) >= landmarks
    return cluster_centres(x[rest] if apart else x, landmarks, seed=seed)


def most_faithful(outputs: dict[Machine, dict[int, np.ndarray]], folds: Folds) -> Machine:
    """Of the machines that rank within one standard error of the best, the one with the largest mean cosine."""
    ranks = {way: _ranks(found, folds, PLAIN) for way, found in outputs.items()}
    best = max(ranks.values(), key=np.mean)
    return max((way for way in outputs if within_error(best, ranks[way])), key=lambda way: _cosine(outputs[way], folds))


def _outputs(
    folds: Folds, radial: Radial, parts: list[Sums], used: list[int], k: int, penalties: Sequence[float] = ()
) -> list[Float[np.ndarray, "q d_out"]]:
    """For each penalty, what a machine that is fitted on some folds makes of the queries of fold k."""
    held: Held = folds.judges[k].held
    affine = folds.base.solve(covariance(total([folds.moments[i] for i in used])))
    phi, plain = radial(held.x), affine.apply(held.x)
    s = total([parts[i] for i in used])
    return [plain + phi @ w.astype(np.float32) for w in weights(s, radial.among, affine, penalties or KERNEL_PENALTIES)]


def folds_of(
    x: ArrayIn, y: ArrayIn, fold: Int[np.ndarray, " n"], parts: list[Moments], judged: dict[int, Held]
) -> Folds:
    """Folds with their judges, and the covariance and spectrum of all pairs."""
    c = covariance(total(parts))
    spectrum = target_spectrum(c)
    judges = {k: Judge(held) for k, held in judged.items()}
    return Folds(x, y, fold, parts, judges, c, spectrum, whitenings(spectrum))
