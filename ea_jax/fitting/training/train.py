"""Train a module's parameters on pairs: Adam on batches drawn from a seed, scored on rows that are held out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ea_jax.errors import BadInput
from ea_jax.fitting.training.batches import batches
from ea_jax.fitting.training.losses import Terms
from ea_jax.progress import progress_bar
from ea_jax.retrieval.metrics import rank_of, reciprocal_rank, top_hit
from ea_jax.typing import ArrayIn, Params

BLOCK = 4096  # held-out rows that are put through the module together
ADVICE = "Try a smaller rate or a longer warmup, or look for values that are not finite in the pairs and the start."


def _require(fine: bool, message: str) -> None:
    if not fine:
        raise BadInput(message)


@dataclass(frozen=True)
class Training:
    """How to train.

    Attributes:
        steps: Updates at the most.
        batch: Pairs of a step; all of them where there are fewer.
        rate: Adam's highest learning rate.
        warmup: Share of the steps in which the rate rises from 0; it then falls to 0 as a cosine.
        terms: Weights of the losses.
        average: Decay a step of the exponential average of the weights, which is scored and returned.
        every: Steps between evaluations.
        patience: Evaluations without a better score after which it stops.

    Raises:
        BadInput: A number is out of its range.
    """

    steps: int = 60
    batch: int = 1024
    rate: float = 1e-3
    warmup: float = 0.05
    terms: Terms = field(default_factory=Terms)
    average: float = 0.97
    every: int = 20
    patience: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every", "patience"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("warmup", "average"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be from 0 to below 1.")
        for name, value in (("rate", self.rate), ("temperature", self.terms.temperature)):
            _require(value > 0, f"{name} is {value}; it must be above 0.")
        _require(any(self.terms[:2]), "Both terms of the loss have weight 0; give one of them weight.")


class Held(NamedTuple):
    """Rows that are never trained on: queries, their native vectors, and the native corpus that they search."""

    x: Float[ArrayIn, "n d_in"]
    y: Float[ArrayIn, "n d_out"]
    corpus: Float[ArrayIn, "m d_out"]


class Trained(NamedTuple):
    """What `train` returns.

    Attributes:
        params: Those with the best score.
        scores: Step of each evaluation, and mean reciprocal rank of the true neighbors; the first is the start's.
        best: Step of the best score; 0 if none beat the start, which is then returned as it was.
    """

    params: Params
    scores: list[tuple[int, float]]
    best: int


class _State(NamedTuple):
    """What a step changes; `failed` is the first step whose loss or gradient was not finite, or 0."""

    params: Params
    average: Params
    optimizer: Any
    step: Int[Array, ""]
    failed: Int[Array, ""]


def train(
    module: nn.Module,
    params: Params,
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    held: Held,
    training: Training,
    *,
    rows: Int[np.ndarray, " k"] | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Trained:
    """Train parameters on pairs, and return those with the best score on held-out rows.

    A step reads its own rows alone, so x and y may be memory maps larger than memory. One seed gives one result, bit
    for bit on one backend.

    Args:
        module: Gives rows of length one: `module.apply({"params": params}, x)`.
        params: The start: a nested dict of float32 arrays.
        x: Source embeddings.
        y: Target embeddings of length one, row-aligned with x.
        held: Rows for the score.
        training: How to train.
        rows: Row numbers to train on, ascending; all rows if None.
        seed: Of the order of rows.
        show_progress: Draw a bar on stderr.

    Raises:
        BadInput: Rows or widths do not match, or a value is not finite.
    """
    _check(x, y, held, seed)
    score = _scorer(module, held)
    state, best, scores = _start(training, params), (0, params), [(0, score(params, 0))]
    draws = batches(x, y, training.batch, seed=seed, rows=rows)
    with progress_bar("Training", training.steps, show_progress) as advance:
        for step in range(1, training.steps + 1):
            state = _step(module, training, state, *next(draws))
            advance(1)
            if step % training.every and step < training.steps:
                continue
            failed = int(state.failed)
            _require(not failed, f"Training stopped at step {failed}: the loss is not finite. {ADVICE}")
            scores.append((step, score(state.average, step)))
            if scores[-1][1] > max(earlier for _, earlier in scores[:-1]):
                best = step, jax.tree.map(np.asarray, state.average)
            if sum(evaluated > best[0] for evaluated, _ in scores) >= training.patience:
                break
    return Trained(best[1], scores, best[0])


def _check(x: Any, y: Any, held: Held, seed: int) -> None:
    for name, a, b in (("", x, y), ("held.", held.x, held.y)):
        _require(len(a) == len(b), f"{name}x has {len(a)} rows and {name}y {len(b)}; they must be row-aligned.")
    for name, rows in {"x": x, "y": y, "held.x": held.x, "held.y": held.y, "held.corpus": held.corpus}.items():
        width = (x if name.endswith("x") else y).shape[1]
        _require(len(rows) > 0, f"{name} has no rows; training needs some.")
        _require(rows.shape[1] == width, f"{name} has width {rows.shape[1]}, where the pairs have {width}.")
        fine = not name.startswith("held") or bool(np.isfinite(rows).all())
        _require(fine, f"{name} has values that are not finite; leave those rows out.")
    _require(seed >= 0, f"seed is {seed}; it must be 0 or more.")


def _optimizer(training: Training) -> optax.GradientTransformation:
    warmup = int(training.warmup * training.steps)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, training.rate, warmup, training.steps))


def _start(training: Training, params: Params) -> _State:
    """The state before the first step, in arrays of its own, since a step donates them."""
    own, average = (jax.tree.map(jnp.array, params) for _ in range(2))
    step, failed = (jnp.zeros((), jnp.int32) for _ in range(2))
    return _State(own, average, _optimizer(training).init(own), step, failed)


@partial(jax.jit, static_argnames=("module", "training"), donate_argnames="state")
def _step(module: nn.Module, training: Training, state: _State, x: ArrayIn, y: ArrayIn) -> _State:
    def loss(params: Params) -> Array:
        return training.terms.loss(_outputs(module, params, x), y)

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, optimizer = _optimizer(training).update(gradient, state.optimizer, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    average = cast(Params, optax.incremental_update(params, state.average, 1 - training.average))
    step, fine = state.step + 1, jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves((value, gradient))]).all()
    return _State(params, average, optimizer, step, jnp.where((state.failed > 0) | fine, state.failed, step))


@partial(jax.jit, static_argnums=0)
def _outputs(module: nn.Module, params: Params, x: ArrayIn) -> Float[Array, "n d_out"]:
    return cast(Array, module.apply({"params": params}, x))


def _scorer(module: nn.Module, held: Held) -> Callable[[Params, int], float]:
    """The score of parameters on held-out rows, whose true neighbors are searched once."""
    x, y, corpus = (jnp.asarray(rows, jnp.float32) for rows in held)
    neighbor = top_hit(y, corpus)

    def score(params: Params, step: int) -> float:
        output = jnp.concatenate([_outputs(module, params, x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)])
        _require(bool(jnp.isfinite(output).all()), f"Outputs after step {step} are not finite. {ADVICE}")
        return float(reciprocal_rank(rank_of(output, corpus, neighbor)))

    return score
