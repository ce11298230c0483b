"""Which kernel machine? Held-out scores of bandwidths and penalties, and of the form of query vectors."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.arrays import ArrayIn
from ea_jax.fitting.drawing import SHARES, averaged, within_error
from ea_jax.fitting.heads import FLAT, PLAIN, Shape
from ea_jax.fitting.search import Choice, Folds, Found, shape_of, total
from ea_jax.fitting.splits import FOLDS, Held
from ea_jax.kernel import Radial, Sums, corrections, sums
from ea_jax.solve import cluster_centres, covariance

GAMMAS = (0.3, 0.7, 1.5)
KERNEL_PENALTIES = (0.03, 0.1, 0.3)
LANDMARKS, FEWER, LARGE = 4096, 2048, 8192  # of the search; of more pairs than that, the fewer at the least,
QUARTER = 4  # and this part of those that the fit will have
GIVEN = 0.02  # of the rank, which differs by half of that with the draw of the landmarks where they are the fewer
FORM_SHARES = SHARES[::2]  # of the linear layer; no more, since the machine that is fitted will be larger
MANY, JUDGED = 2000, 3  # pairs from which three folds judge kernel machines


class Machine(NamedTuple):
    """A kernel machine: bandwidth, and the penalty of its weights; `Folds.base` is its affine part."""

    gamma: float
    penalty: float

    def facts(self) -> dict[str, Any]:
        """What a report says of it."""
        return {"kind": "kernel", "gamma": self.gamma, "penalty": self.penalty}


MACHINES = [Machine(gamma, penalty) for gamma in GAMMAS for penalty in KERNEL_PENALTIES]


def choose_kernel(
    folds: Folds, domains: Folds | None, linear: Choice, landmarks: int, seed: int
) -> tuple[Choice, dict[float, float]]:
    """The best kernel machine for both purposes, and its rank by the share of the pairs.

    Folds of whole domains, if there are any, choose the form of its query vectors as much as the others do.

    Machines are tried with 4,096 landmarks, of many pairs with a quarter of those that the fit will have. The best is
    as faithful as its best average with the best affine map, which is what it is finished as.
    """
    if len(folds.x) >= MANY:
        folds, domains = _of_fewer(folds), domains and _of_fewer(domains)
    large = len(folds.x) > LARGE
    most = max(FEWER, landmarks // QUARTER) if large else LANDMARKS
    judges = [judge for side in (folds, domains) if side for judge in side.judges.values()]
    asked = np.concatenate([judge.held.rows[: len(judge.held.x)] for judge in judges])
    centres = landmarks_apart(folds.x, min(most, len(folds.x)), asked, seed)
    outputs = _apart(folds, centres, MACHINES)
    machine = most_faithful(outputs, folds, GIVEN if large else 0.0)
    if domains:
        far = _apart(domains, centres, [machine])
        shape, share, rank = shape_and_share((folds, outputs[machine]), (domains, far[machine]))
    else:
        (shape, rank), share = shape_of(outputs[machine], folds), 0.0
    plain = {k: linear.store.solve(folds.without(k)).apply(judge.held.x) for k, judge in folds.judges.items()}
    cosine = max(
        folds.cosine({k: averaged(out, plain[k], share)[0] for k, out in outputs[machine].items()}) for share in SHARES
    )
    choice = Choice(machine, cosine, machine, shape, rank, len(outputs), share)
    return choice, _learning_curve(folds, centres, choice)


def _of_fewer(folds: Folds) -> Folds:
    return folds._replace(judges=dict(list(folds.judges.items())[:JUDGED]))


def _learning_curve(folds: Folds, centres: Float[ArrayIn, "m d_in"], choice: Choice) -> dict[float, float]:
    """Rank of the chosen machine on one fold, by the share of the pairs that it is fitted on."""
    k = next(iter(folds.judges))
    radial = Radial.around(centres, choice.query.gamma, folds.x)
    parts, curve = _sums_of(folds, radial), {}
    for used in (1, 2, FOLDS - 1):
        (out,) = _outputs(folds, radial, parts, _but(k)[:used], k, (choice.query.penalty,))
        curve[used / FOLDS] = float(folds.judges[k].ranks(folds.shaped(out, choice.shape)).mean())
    return curve


def shape_and_share(rows: tuple[Folds, Found], domains: tuple[Folds, Found]) -> tuple[Shape, float, float]:
    """The shape of outputs and the linear share in them that rank best, and their rank by the rows held out alone.

    A query of a domain that was held out counts as much as one whose domain was not.
    """
    score: dict[tuple[Shape, float], list[float]] = {}
    for folds, found in (rows, domains):
        linear = {k: _flat(folds, k) for k in folds.judges}
        for shape, own in folds.in_shapes(found):
            for share in FORM_SHARES:
                ranks = folds.ranks({k: averaged(own[k], linear[k], share)[0] for k in folds.judges})
                score.setdefault((shape, share), []).append(float(ranks.mean()))
    best = max(score, key=lambda form: sum(score[form]))
    return *best, score[best][0]


def _flat(folds: Folds, k: int) -> Float32[np.ndarray, "q d_out"]:
    """What the linear query layer makes of the queries of fold k before any training."""
    return folds.shaped(folds.round.solve(folds.without(k)).apply(folds.judges[k].held.x), FLAT)


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


def most_faithful(outputs: dict[Machine, Found], folds: Folds, given: float = 0.0) -> Machine:
    """The machine with the largest mean cosine, of those that rank well enough.

    These are within one standard error of the best, or within the share of it that is given.
    """
    ranks = {way: folds.shaped_ranks(found, PLAIN) for way, found in outputs.items()}
    best = max(ranks.values(), key=np.mean)
    least = (1 - given) * best.mean()
    well = [way for way in outputs if within_error(best, ranks[way]) or ranks[way].mean() >= least]
    return max(well, key=lambda way: folds.cosine(outputs[way]))


def _but(k: int) -> list[int]:
    return [i for i in range(FOLDS) if i != k]


def _sums_of(folds: Folds, radial: Radial) -> list[Sums]:
    return [sums(radial, folds.x, folds.y, np.flatnonzero(folds.fold == k)) for k in range(FOLDS)]


def _apart(folds: Folds, centres: Float[ArrayIn, "m d_in"], ways: Sequence[Machine]) -> dict[Machine, Found]:
    """What machines around some centres make of the queries of each fold, fitted on the others."""
    found: dict[Machine, Found] = {way: {} for way in ways}
    for gamma in dict.fromkeys(way.gamma for way in ways):
        radial = Radial.around(centres, gamma, folds.x)
        parts, some = _sums_of(folds, radial), [way for way in ways if way.gamma == gamma]
        for k in folds.judges:
            made = _outputs(folds, radial, parts, _but(k), k, [way.penalty for way in some])
            for way, out in zip(some, made, strict=True):
                found[way][k] = out
    return found


def _outputs(
    folds: Folds, radial: Radial, parts: list[Sums], used: list[int], k: int, penalties: Sequence[float]
) -> list[Float[np.ndarray, "q d_out"]]:
    """For each penalty, what a machine that is fitted on some folds makes of the queries of fold k."""
    held: Held = folds.judges[k].held
    affine = folds.base.solve(covariance(total([folds.moments[i] for i in used])))
    phi, plain = radial(held.x), affine.apply(held.x)
    s = total([parts[i] for i in used])
    return [plain + more.astype(np.float32) for more in corrections(s, radial.among, affine, penalties, phi)]
