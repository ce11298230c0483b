"""Fit an adapter and its quality part from pairs; every choice is made on groups held out of training."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ea_jax.arrays import Params
from ea_jax.errors import BadInput
from ea_jax.metrics import mean_cosine, rank_of, reciprocal_rank, top_hit
from ea_jax.ops import mahalanobis, nearest_distance, unit
from ea_jax.solve import (
    Affine,
    Covariance,
    Moments,
    cluster_centres,
    covariance,
    inverse_root,
    moments,
    procrustes,
    ridge,
    stretched,
    target_spectrum,
    whitened,
)

FOLDS = 5
LEAST_PAIRS = 50
QUERIES = 1000
REFERENCES = 1024
QUALITY_SHRINKAGE = 1e-3
PENALTIES = (0.003, 0.01, 0.03, 0.1)
SCALES = ("least-squares", "target-length")
EXPONENTS = (0.0, 0.15, 0.3, 0.5, 0.7)
LENGTHS = (1.0, 2.0, 4.0)


class Kind(NamedTuple):
    """One way to fit the affine map: ridge with a penalty (a number), or Procrustes with a scale (a name)."""

    name: str
    setting: float | str

    def solve(self, c: Covariance) -> Affine:
        """The map that this kind fits."""
        return procrustes(c, self.setting) if isinstance(self.setting, str) else ridge(c, self.setting)

    def facts(self) -> dict[str, float | str]:
        """What a report says of it."""
        return {"kind": self.name, "scale" if isinstance(self.setting, str) else "penalty": self.setting}


class QueryKind(NamedTuple):
    """A kind, then a partial whitening of the target covariance, and a length of the centred part."""

    kind: Kind
    exponent: float
    length: float


class Fitted(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: What a registry entry stores: a last layer `out` for each purpose.
        quality: Parameters of the quality part.
        report: What was fitted on, tried and chosen.
    """

    params: Params
    quality: Params
    report: dict[str, Any]


KINDS = [*(Kind("ridge", p) for p in PENALTIES), *(Kind("procrustes", s) for s in SCALES)]


def fit(
    x: Float[np.ndarray, "n d_in"],
    y: Float[np.ndarray, "n d_out"],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> Fitted:
    """The best linear adapter that the pairs allow, for both purposes, with its quality part.

    Kind and penalty for `store` are chosen by the mean cosine, kind, exponent and length for `query` by the mean
    reciprocal rank of the native top hit, both over five folds of whole groups. The result is then fitted on all pairs.

    Args:
        x: Source embeddings, at the scale at which they will come in.
        y: Target embeddings of length one, row-aligned with x.
        groups: What must not straddle a fold (document, repository, customer); rows are their own groups if None.
        seed: Of the sampling of queries and of the cluster centres; one seed gives one result.

    Raises:
        BadInput: x and y have different lengths, or there are too few pairs.
    """
    if len(x) != len(y) or (groups is not None and len(groups) != len(x)):
        raise BadInput(f"x has {len(x)} rows and y {len(y)}; pairs (and their groups) must be row-aligned.")
    if len(x) < LEAST_PAIRS:
        raise BadInput(f"There are {len(x)} pairs; a fit needs {LEAST_PAIRS} at the least, and thousands to be good.")
    fold = group_folds(groups, len(x))
    parts = [moments(x[fold == k], y[fold == k]) for k in range(FOLDS)]
    tried = [
        _try_all(_total(parts[:k] + parts[k + 1 :]), x[fold == k], y[fold == k], np.random.default_rng([seed, k]))
        for k in range(FOLDS)
    ]
    cosine = {kind: float(np.mean([t[0][kind] for t in tried])) for kind in tried[0][0]}
    rank = {kind: float(np.mean([t[1][kind] for t in tried])) for kind in tried[0][1]}
    store, query = max(cosine, key=cosine.__getitem__), max(rank, key=rank.__getitem__)
    c = _total(parts)
    out = {"store": _layer(store.solve(c)), "query": _layer(_whiten(query, c))}
    report = {
        "pairs": len(x),
        "groups": len(set(groups)) if groups is not None else len(x),
        "store": {**store.facts(), "cosine": round(cosine[store], 4)},
        "query": {
            **query.kind.facts(),
            "exponent": query.exponent,
            "length": query.length,
            "reciprocal_rank": round(rank[query], 4),
        },
    }
    return Fitted({"out": out}, fit_quality(x, fold, seed=seed), report)


def group_folds(groups: Sequence[str] | None, n: int) -> Int[np.ndarray, " n"]:
    """Fold of each row: whole groups, the largest first, each into the fold with the fewest rows.

    Where there are fewer groups than folds, or none are given, rows go round the folds in order.
    """
    names, row_group, sizes = np.unique(np.asarray(groups or [], str), return_inverse=True, return_counts=True)
    if len(names) < FOLDS:
        return np.arange(n) % FOLDS
    rows_in, fold_of = np.zeros(FOLDS), np.zeros(len(names), int)
    for group in np.argsort(-sizes, kind="stable"):
        fold_of[group] = rows_in.argmin()
        rows_in[fold_of[group]] += sizes[group]
    return fold_of[row_group]


def near_duplicates(
    rows: Float[np.ndarray, "n d"], test: Float[np.ndarray, "m d"], threshold: float
) -> Bool[np.ndarray, " n"]:
    """Which unit rows have a cosine of at least `threshold` to some unit test row."""
    distance = [
        np.asarray(nearest_distance(jnp.asarray(rows[start : start + 4096]), jnp.asarray(test)))
        for start in range(0, len(rows), 4096)
    ]
    return 1 - np.square(np.concatenate(distance)) / 2 >= threshold


def fit_quality(x: Float[np.ndarray, "n d"], fold: Int[np.ndarray, " n"], *, seed: int = 0) -> Params:
    """Statistics of in-domain rows; the percentiles are of rows held out of the statistics, by fold."""
    x = np.asarray(unit(x))
    held_out = [
        _distances(_quality_statistics(x[fold != k], seed), x[fold == k]) for k in range(FOLDS) if np.any(fold == k)
    ]
    maha, knn = (np.concatenate(distances) for distances in zip(*held_out, strict=True))
    percentiles = {
        f"{name}_p{q}": np.float32(np.percentile(distances, q))
        for name, distances in {"maha": maha, "knn": knn}.items()
        for q in (95, 99)
    }
    return {**_quality_statistics(x, seed), **{name: np.asarray(p) for name, p in percentiles.items()}}


def _total(parts: list[Moments]) -> Covariance:
    return covariance(reduce(Moments.plus, parts))


def _whiten(query: QueryKind, c: Covariance) -> Affine:
    return stretched(whitened(query.kind.solve(c), c, target_spectrum(c), query.exponent), c, query.length)


def _try_all(c: Covariance, x: np.ndarray, y: np.ndarray, rng: np.random.Generator):
    """Mean cosine by kind, and mean reciprocal rank by query kind, on rows that c has not seen."""
    asks = np.zeros(len(x), bool)
    asks[rng.permutation(len(x))[: min(QUERIES, len(x) // 2)]] = True
    corpus, native = jnp.asarray(y[~asks]), y[asks]
    hit = top_hit(native, corpus)
    spectrum = target_spectrum(c)
    cosine, rank = {}, {}
    for kind in KINDS:
        affine = kind.solve(c)
        cosine[kind] = float(mean_cosine(unit(affine.apply(x)), y))
        for exponent in EXPONENTS:
            white = whitened(affine, c, spectrum, exponent)
            for length in LENGTHS:
                places = rank_of(stretched(white, c, length).apply(x[asks]), corpus, hit)
                rank[QueryKind(kind, exponent, length)] = float(reciprocal_rank(places))
    return cosine, rank


def _layer(a: Affine) -> Params:
    return {"kernel": a.kernel.astype(np.float32), "bias": a.bias.astype(np.float32)}


def _quality_statistics(x: np.ndarray, seed: int) -> Params:
    c = covariance(moments(x, x))
    return {
        "mean": c.x_mean.astype(np.float32),
        "whiten": inverse_root(c.xx, QUALITY_SHRINKAGE).astype(np.float32),
        "references": np.asarray(cluster_centres(x, REFERENCES, seed=seed)),
    }


def _distances(statistics: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    s = {name: jnp.asarray(value) for name, value in statistics.items()}
    rows = jnp.asarray(x)
    return np.asarray(mahalanobis(rows, s["mean"], s["whiten"])), np.asarray(nearest_distance(rows, s["references"]))
