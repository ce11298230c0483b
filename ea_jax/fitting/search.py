"""Held-out scores of the ways to fit: which affine map, and which shape of query vectors."""

from collections.abc import Iterator, Sequence
from functools import cache, reduce
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.arrays import ArrayIn
from ea_jax.fitting.heads import EXPONENTS, LENGTHS, Judge, Shape, shaped, whitenings
from ea_jax.fitting.splits import LEAST_CHOSEN, Held
from ea_jax.solve import (
    Affine,
    Covariance,
    Moments,
    Spectrum,
    covariance,
    procrustes,
    reduced_rank,
    ridge,
    target_spectrum,
)

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
RANK = 64


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
ROUND_PENALTY, SAFE_SHAPE = 0.1, Shape(0.5, 4.0)
SAFEST = 1000  # pairs, up to which the penalty of a safe map is one
LEAST_BENT = 2200  # pairs, from which the affine part of a kernel machine is the round map


def safe(pairs: int) -> Kind:
    """The affine map for queries that few pairs allow: the more there are, the less it has to be held back."""
    return Kind("ridge", min(1.0, SAFEST / pairs))


class Choice(NamedTuple):
    """What won, and by which held-out scores.

    Attributes:
        store: The way to faithful vectors.
        cosine: Its mean cosine.
        query: The way to query vectors.
        shape: How they are shaped.
        rank: Their mean reciprocal rank.
        tried: How many ways were tried.
        share: The linear share of query vectors that queries of domains held out call for.
    """

    store: Any
    cosine: float
    query: Any
    shape: Shape
    rank: float
    tried: int
    share: float = 0.0


Found = dict[int, np.ndarray]  # outputs for the queries of each fold


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
        return Kind("ridge", ROUND_PENALTY) if len(self.x) >= LEAST_BENT else safe(len(self.x))

    @property
    def round(self) -> Kind:
        """The affine map that a linear query layer is trained from: held back where pairs are few for their width."""
        pairs, width = self.x.shape
        return Kind("ridge", min(1.0, max(ROUND_PENALTY, width / pairs)))

    def without(self, k: int) -> Covariance:
        """Covariance of all folds but one."""
        return covariance(total([m for i, m in enumerate(self.moments) if i != k]))

    def cosine(self, found: Found) -> float:
        """Mean cosine of what was found for the queries of each fold."""
        return float(np.mean([judge.cosine(found[k]) for k, judge in self.judges.items()]))

    def shaped(self, outputs: Float[np.ndarray, "q d_out"], shape: Shape) -> Float32[np.ndarray, "q d_out"]:
        """Faithful outputs as query vectors of a shape."""
        return shaped(outputs, self.covariance, self.flat[shape.exponent], shape.length)

    def ranks(self, found: Found) -> Float[np.ndarray, " q"]:
        """Reciprocal ranks of the native top hits of all queries, by query vectors of each fold."""
        return np.concatenate([judge.ranks(found[k]) for k, judge in self.judges.items()])

    def shaped_ranks(self, found: Found, shape: Shape) -> Float[np.ndarray, " q"]:
        """The same by faithful outputs, which are shaped first."""
        return self.ranks({k: self.shaped(found[k], shape) for k in self.judges})

    def in_shapes(self, found: Found) -> Iterator[tuple[Shape, Found]]:
        """Faithful outputs as query vectors of every shape, whitened once for all lengths."""
        mean = self.covariance.y_mean[None].astype(np.float32)
        for exponent in EXPONENTS:
            white = {k: self.shaped(found[k], Shape(exponent, 1.0)) - mean for k in self.judges}
            for length in LENGTHS:
                yield Shape(exponent, length), {k: mean + length * own for k, own in white.items()}


def total(parts: Sequence[Any]) -> Any:
    """Sums of all parts together."""
    return reduce(lambda a, b: a.plus(b), parts)


def shape_of(found: Found, folds: Folds) -> tuple[Shape, float]:
    """The shape in which held-out outputs, by fold, rank best, or the safe one; and their mean reciprocal rank."""
    if len(folds.x) < LEAST_CHOSEN:
        return SAFE_SHAPE, float(folds.shaped_ranks(found, SAFE_SHAPE).mean())
    score = {shape: float(folds.ranks(own).mean()) for shape, own in folds.in_shapes(found)}
    best = max(score, key=score.__getitem__)
    return best, score[best]


def choose_linear(folds: Folds) -> Choice:
    """The best affine map for each purpose."""
    maps = {k: folds.without(k) for k in folds.judges}

    @cache
    def outputs(kind: Kind) -> Found:
        return {k: kind.solve(c).apply(folds.judges[k].held.x) for k, c in maps.items()}

    cosine = {kind: folds.cosine(outputs(kind)) for kind in STORE_KINDS}
    kinds = QUERY_KINDS if len(folds.x) >= LEAST_CHOSEN else [safe(len(folds.x))]
    shape = {kind: shape_of(outputs(kind), folds) for kind in kinds}
    store = max(cosine, key=cosine.__getitem__)
    query = max(shape, key=lambda kind: shape[kind][1])
    return Choice(store, cosine[store], query, *shape[query], len(cosine) + len(shape))


def folds_of(
    x: ArrayIn, y: ArrayIn, fold: Int[np.ndarray, " n"], parts: list[Moments], judged: dict[int, Held]
) -> Folds:
    """Folds with their judges, and the covariance and spectrum of all pairs."""
    c = covariance(total(parts))
    spectrum = target_spectrum(c)
    judges = {k: Judge(held) for k, held in judged.items()}
    return Folds(x, y, fold, parts, judges, c, spectrum, whitenings(spectrum))
