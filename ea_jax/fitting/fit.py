"""Fit an adapter and its quality part from pairs; every choice is made on groups held out of training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int

from ea_jax.adapter import forward
from ea_jax.arrays import ArrayIn, Params, leaf_paths
from ea_jax.errors import BadInput
from ea_jax.fitting.bodies import kernel_body, linear_body, mlp_body
from ea_jax.fitting.confidence import Foreign, fit_quality
from ea_jax.fitting.drawing import CORPUS_SIZE
from ea_jax.fitting.finish import bench, finished, stored
from ea_jax.fitting.heads import POLISH
from ea_jax.fitting.machines import Machine, choose_kernel
from ea_jax.fitting.search import Choice, Folds, Kind, choose_linear, folds_of
from ea_jax.fitting.splits import FOLDS, LEAST_CHOSEN, group_folds, held_out
from ea_jax.models import build
from ea_jax.packing import unpacked
from ea_jax.quality import Quality
from ea_jax.quality_store import prepared
from ea_jax.solve import mean_only, moments
from ea_jax.spec import Purpose, Spec
from ea_jax.train import Training

Family = Literal["auto", "linear", "kernel", "mlp"]
FAMILIES = ("auto", "linear", "kernel", "mlp")
LEAST_PAIRS = 50
FEW = 1000
SAMPLE = 32768
ROWS = 4096
STEEP = 0.02


@dataclass(frozen=True)
class Budget:
    """How large an adapter may be, and how long its query layer is trained.

    Attributes:
        landmarks: Radial functions of the kernel family, at the most.
        rank: Features that they are mixed down to, at the most.
        bits: Of a stored weight, about; at most 8.
        polish: Training of the query layer, of a batch, mixing and temperature that suit the pairs; None for the closed
            form.
    """

    landmarks: int = 8192
    rank: int = 512
    bits: int = 6
    polish: Training | None = POLISH


DEFAULT = Budget()


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns.

    Attributes:
        family: Which module computes it.
        sizes: The family's widths and counts.
        params: What a registry entry stores: a last layer `out` for each purpose, weights as whole numbers.
        quality: What a registry entry stores of the quality part.
        report: What was fitted on, tried and chosen, and what to do next.
    """

    family: str
    sizes: dict[str, int]
    params: Params
    quality: Params
    report: dict[str, Any]

    def apply(self, x: Float[ArrayIn, "n d_in"], purpose: Purpose = "store") -> Float32[np.ndarray, "n d_out"]:
        """Outputs of length one for source embeddings."""
        module, params = build(self._spec), self._unpacked(purpose)
        parts = [forward(module, params, np.asarray(x[i : i + ROWS], np.float32)) for i in range(0, len(x), ROWS)]
        return np.concatenate([np.asarray(part) for part in parts])

    @property
    def judge(self) -> Quality:
        """Its quality part: `fitted.judge(fitted.judge.params, x)`."""
        return Quality(self._spec, {**prepared(self.quality), "adapter": self._unpacked("store")})

    @property
    def _spec(self) -> Spec:
        d_in, d_out = len(self.quality["mean"]), len(self.params["out"]["store"]["bias"])
        return Spec(self.family, "", "", d_in, d_out, sizes=tuple(sorted(self.sizes.items())))

    def _unpacked(self, purpose: Purpose) -> Params:
        return unpacked(self.params | {"out": self.params["out"][purpose]})

    @property
    def parameters(self) -> int:
        """Numbers that a call for one purpose reads."""
        return sum(leaf.size for leaf in leaf_paths(self._unpacked("store")).values())


def fit(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    *,
    family: Family = "auto",
    budget: Budget = DEFAULT,
    groups: Sequence[str] | None = None,
    domains: Sequence[str] | None = None,
    foreign: Foreign | None = None,
    corpus_size: int = CORPUS_SIZE,
    seed: int = 0,
    show_progress: bool = False,
) -> Fitted:
    """The best adapter that the pairs allow, for both purposes, with its quality part and a report.

    What is faithful (`store`) is chosen by the mean cosine, what ranks (`query`) by the mean reciprocal rank of the
    native top hit, both on folds of whole groups that the candidate was not fitted on; of few pairs the query layer is
    a safe and mostly linear one instead, for small corpora show no hubs to choose it by. The winner is then fitted on
    all pairs. A linear query layer is trained to have the neighbours that native vectors have, for as many steps as
    held-out queries gained from, and any other one averaged with that. What knows its pairs by heart puts queries near
    to them, before the rest of a corpus: the less of that they are, the more they are mixed in training.

    Args:
        x: Source embeddings, at the scale at which they will come in. Memory maps larger than memory are streamed.
        y: Target embeddings of length one, row-aligned with x.
        family: `linear`, `kernel` or `mlp`; `auto` takes linear or kernel for each purpose, whichever wins.
        budget: How large the adapter may be.
        groups: What must not straddle a fold (document, repository, customer); rows are their own groups if None.
        domains: Where each pair came from (a repository, a collection), where most choices may share it and confidence
            may not: its percentiles are of domains held out. From 2,000 pairs they decide as much as the rows how a
            kernel machine's query vectors are shaped, and how linear they are. The groups if None.
        foreign: Source embeddings of junk, and of ordinary texts unlike the pairs: the confidence learns to tell them
            apart. Without them it knows junk by its distance alone.
        corpus_size: Rows of the native corpus that queries will search, the pairs among them.
        seed: Of all sampling; one seed gives one result.
        show_progress: Draw bars on stderr.

    Raises:
        BadInput: x and y have different lengths, there are too few pairs, a value is not finite, or another argument is
            not what it must be.
    """
    _check(x, y, (groups, domains), family, corpus_size)
    fold = group_folds(groups, len(x))
    domain_fold = group_folds(domains, len(x)) if domains is not None else fold
    folds = _cut(x, y, fold, seed)
    judging = _most_diverse(groups, fold)
    sample = np.sort(np.random.default_rng([seed, FOLDS]).permutation(len(x))[:SAMPLE])
    linear = choose_linear(folds)
    curve: dict[float, float] = {}
    network = family == "mlp"
    on = bench(
        folds,
        sample,
        judging,
        grouped=groups is not None or network,
        network=network,
        landmarks=budget.landmarks if family in ("auto", "kernel") else len(x),
        corpus_size=corpus_size,
        seed=seed,
    )
    if network:
        body, choice = mlp_body(folds, judging, sample, seed, show_progress)
    elif family == "linear":
        body, choice = linear_body(folds), linear
    else:
        far = _cut(x, y, domain_fold, seed) if domains is not None and len(x) >= LEAST_CHOSEN else None
        other, curve = choose_kernel(folds, far, linear, budget.landmarks, seed)
        choice = _better(linear, other) if family == "auto" else other
        machines = [kind for kind in (choice.store, choice.query) if isinstance(kind, Machine)]
        body = (
            kernel_body(folds, machines[0], on.unseen, budget.landmarks, budget.rank, budget.bits, seed)
            if machines
            else linear_body(folds)
        )
    layers = finished(body, choice, linear, folds, on, budget.polish, seed=seed, show_progress=show_progress)
    params = body.params | {"out": {name: stored(layer, body, budget.bits) for name, layer in layers.out.items()}}
    quality = fit_quality(x, y, domain_fold, layers.unseen, foreign, seed=seed) | {"similarity": layers.similarity}
    report = _report(folds, groups, linear, choice, curve) | layers.facts | {"corpus_size": corpus_size}
    return Fitted(body.family, body.sizes, params, quality, report | {"advice": advice(report)})


def advice(report: dict[str, Any]) -> list[str]:
    """What the held-out figures of a report say to do: collect more pairs, or do without an adapter."""
    told = []
    curve = list(report["learning_curve"].values())
    if report["pairs"] < FEW or (len(curve) > 1 and curve[-1] - curve[-2] > STEEP):
        told.append(f"{report['pairs']:,} pairs are few: twice as many raised the held-out rank, and more would again.")
    rank, cosine = report["query"]["reciprocal_rank"], report["store"]["cosine"]
    if report["keep_source"]["reciprocal_rank"] > rank:
        told.append("Keeping the source model on both sides ranks better, if the corpus can be embedded again with it.")
    if report["mean_vector"]["cosine"] >= cosine:
        told.append("The mean target vector is as close to the native ones as the adapter: do not use it.")
    return told


def _check(x: Any, y: Any, names: Sequence[Any], family: str, corpus_size: int) -> None:
    if len(x) != len(y) or any(len(some) != len(x) for some in names if some is not None):
        raise BadInput(f"x has {len(x)} rows and y {len(y)}; pairs (and their groups, domains) must be row-aligned.")
    if len(x) < LEAST_PAIRS:
        raise BadInput(f"There are {len(x)} pairs; a fit needs {LEAST_PAIRS} at the least, and thousands to be good.")
    if family not in FAMILIES:
        raise BadInput(f"family is {family!r}; it must be one of {', '.join(FAMILIES)}.")
    if corpus_size < 1:
        raise BadInput(f"corpus_size is {corpus_size}; it is the number of rows that queries will search.")


def _cut(x: ArrayIn, y: ArrayIn, fold: Int[np.ndarray, " n"], seed: int) -> Folds:
    parts = [moments(x, y, np.flatnonzero(fold == k)) for k in range(FOLDS)]
    if not all(np.isfinite(part.x).all() and np.isfinite(part.y).all() for part in parts):
        row = next(i for i, pair in enumerate(zip(x, y, strict=True)) if not all(np.isfinite(v).all() for v in pair))
        raise BadInput(f"Row {row} of x or y has a value that is not finite. Leave such pairs out.")
    return folds_of(x, y, fold, parts, {k: held_out(x, y, fold, k, seed) for k in range(FOLDS)})


def _most_diverse(groups: Sequence[str] | None, fold: Int[np.ndarray, " n"]) -> int:
    """The fold with the most groups: what is trained step by step is judged on it."""
    if groups is None:
        return 0
    return int(np.argmax([len(np.unique(np.asarray(groups)[fold == k])) for k in range(FOLDS)]))


def _better(linear: Choice, kernel: Choice) -> Choice:
    """For each purpose, the one with the better held-out score; beside a kernel machine there is none but its own.

    A machine's query layer is averaged with the linear one, by a share that may be all of it.
    """
    store = max(linear, kernel, key=lambda c: c.cosine)
    query = kernel if store is kernel else max(linear, kernel, key=lambda c: c.rank)
    tried = linear.tried + kernel.tried
    return Choice(store.store, store.cosine, query.query, query.shape, query.rank, tried, query.share)


def _report(
    folds: Folds, groups: Sequence[str] | None, linear: Choice, choice: Choice, curve: dict[float, float]
) -> dict[str, Any]:
    judges = list(folds.judges.values())
    mean = mean_only(folds.covariance)
    near = sum(judge.held.near for judge in judges)
    return {
        "pairs": len(folds.x),
        "groups": len(set(groups)) if groups is not None else len(folds.x),
        "tried": choice.tried,
        "near_duplicates_across_folds": near,
        "store": {**_facts(choice.store), "cosine": round(choice.cosine, 4)},
        "query": {**_facts(choice.query), **choice.shape._asdict(), "reciprocal_rank": round(choice.rank, 4)},
        "linear": {"cosine": round(linear.cosine, 4), "reciprocal_rank": round(linear.rank, 4)},
        "keep_source": {"reciprocal_rank": round(float(np.mean([judge.keep_source() for judge in judges])), 4)},
        "mean_vector": {"cosine": round(float(np.mean([j.cosine(mean.apply(j.held.x)) for j in judges])), 4)},
        "learning_curve": {f"{round(share * len(folds.x))}": round(rank, 4) for share, rank in curve.items()},
    }


def _facts(kind: Any) -> dict[str, Any]:
    return kind.facts() if isinstance(kind, Kind | Machine) else {"kind": str(kind)}
