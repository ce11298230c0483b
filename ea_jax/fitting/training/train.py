"""Train the parameters of a module on pairs: Adam on random batches, with early stopping on a validation set."""

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
from ea_jax.fitting.training.losses import LossWeights
from ea_jax.progress import progress_bar
from ea_jax.retrieval.metrics import rank_of, reciprocal_rank, top_hit
from ea_jax.typing import ArrayIn, Params

BLOCK = 4096  # validation rows of one call
ADVICE = "Lower the learning rate, lengthen the warmup, or look for non-finite values in the pairs and the start."


def _require(valid: bool, message: str) -> None:
    if not valid:
        raise BadInput(message)


@dataclass(frozen=True)
class TrainingConfig:
    """Hyperparameters of a training run.

    Attributes:
        steps: Maximal number of updates.
        batch_size: Pairs in a batch; all pairs if there are fewer.
        learning_rate: Peak learning rate of Adam.
        warmup: Fraction of the steps with a linear warmup from 0, followed by a cosine decay to 0.
        losses: Weights of the losses.
        ema_decay: Decay of the exponential moving average of the weights, which is evaluated and returned.
        eval_every: Steps between evaluations.
        patience: Evaluations without a better score after which training stops.

    Raises:
        BadInput: A number is out of its range.
    """

    steps: int = 60
    batch_size: int = 1024
    learning_rate: float = 1e-3
    warmup: float = 0.05
    losses: LossWeights = field(default_factory=LossWeights)
    ema_decay: float = 0.97
    eval_every: int = 20
    patience: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "eval_every", "patience"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("warmup", "ema_decay"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"{name} is {value}; it must be at least 0 and below 1.")
        for name, value in (("learning_rate", self.learning_rate), ("temperature", self.losses.temperature)):
            _require(value > 0, f"{name} is {value}; it must be above 0.")
        _require(any(self.losses[:2]), "Both losses have weight 0; one of the weights must be above 0.")


class ValidationSet(NamedTuple):
    """Rows that training never reads: queries, their native vectors, and a native corpus to search."""

    x: Float[ArrayIn, "n d_in"]
    y: Float[ArrayIn, "n d_out"]
    corpus: Float[ArrayIn, "m d_out"]


class Trained(NamedTuple):
    """Result of `train`.

    Attributes:
        params: The parameters with the best score.
        scores: Step and mean reciprocal rank of the true neighbors at each evaluation; the first is the start's.
        best: Step of the best score; 0 if no step improved on the start, which is then returned unchanged.
    """

    params: Params
    scores: list[tuple[int, float]]
    best: int


class _State(NamedTuple):
    """The state of training. `failed` is the first step with a non-finite loss or gradient, or 0."""

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
    validation: ValidationSet,
    training: TrainingConfig,
    *,
    rows: Int[np.ndarray, " k"] | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> Trained:
    """Train parameters on pairs, and return those with the best validation score.

    A step reads only the rows of its batch, so x and y may be memory maps larger than memory. The same seed gives the
    same result, bit for bit on one backend.

    Args:
        module: A module whose outputs have unit length: `module.apply({"params": params}, x)`.
        params: The starting point: a nested dict of float32 arrays.
        x: Source embeddings.
        y: Target embeddings of unit length, row-aligned with x.
        validation: The validation set.
        training: Hyperparameters.
        rows: Row numbers to train on, ascending; all rows if None.
        seed: Random seed of the batches.
        show_progress: Show a progress bar on stderr.

    Raises:
        BadInput: Rows or widths do not match, or a value is not finite.
    """
    _check(x, y, validation, seed)
    score = _scorer(module, validation)
    state, best, scores = _start(training, params), (0, params), [(0, score(params, 0))]
    stream = batches(x, y, training.batch_size, seed=seed, rows=rows)
    with progress_bar("Training", training.steps, show_progress) as advance:
        for step in range(1, training.steps + 1):
            state = _step(module, training, state, *next(stream))
            advance(1)
            if step % training.eval_every and step < training.steps:
                continue
            failed = int(state.failed)
            _require(not failed, f"Training stopped at step {failed}: the loss is not finite. {ADVICE}")
            scores.append((step, score(state.average, step)))
            if scores[-1][1] > max(earlier for _, earlier in scores[:-1]):
                best = step, jax.tree.map(np.asarray, state.average)
            if sum(evaluated > best[0] for evaluated, _ in scores) >= training.patience:
                break
    return Trained(best[1], scores, best[0])


def _check(x: Any, y: Any, validation: ValidationSet, seed: int) -> None:
    for name, a, b in (("", x, y), ("validation.", validation.x, validation.y)):
        _require(len(a) == len(b), f"{name}x has {len(a)} rows and {name}y {len(b)}; they must be row-aligned.")
    named = {f"validation.{field}": rows for field, rows in validation._asdict().items()}
    for name, rows in {"x": x, "y": y, **named}.items():
        width = (x if name.endswith("x") else y).shape[1]
        _require(len(rows) > 0, f"{name} has no rows; training needs at least one.")
        _require(rows.shape[1] == width, f"{name} has width {rows.shape[1]}, but the pairs have width {width}.")
        finite = not name.startswith("validation") or bool(np.isfinite(rows).all())
        _require(finite, f"{name} has non-finite values; remove those rows.")
    _require(seed >= 0, f"seed is {seed}; it must be 0 or more.")


def _optimizer(training: TrainingConfig) -> optax.GradientTransformation:
    warmup = int(training.warmup * training.steps)
    return optax.adam(optax.warmup_cosine_decay_schedule(0.0, training.learning_rate, warmup, training.steps))


def _start(training: TrainingConfig, params: Params) -> _State:
    """The state before the first step, in copies, because a step donates its state."""
    current, average = (jax.tree.map(jnp.array, params) for _ in range(2))
    step, failed = (jnp.zeros((), jnp.int32) for _ in range(2))
    return _State(current, average, _optimizer(training).init(current), step, failed)


@partial(jax.jit, static_argnames=("module", "training"), donate_argnames="state")
def _step(module: nn.Module, training: TrainingConfig, state: _State, x: ArrayIn, y: ArrayIn) -> _State:
    def loss(params: Params) -> Array:
        return training.losses.loss(_outputs(module, params, x), y)

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, optimizer = _optimizer(training).update(gradient, state.optimizer, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    average = cast(Params, optax.incremental_update(params, state.average, 1 - training.ema_decay))
    step, finite = state.step + 1, jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves((value, gradient))]).all()
    return _State(params, average, optimizer, step, jnp.where((state.failed > 0) | finite, state.failed, step))


@partial(jax.jit, static_argnums=0)
def _outputs(module: nn.Module, params: Params, x: ArrayIn) -> Float[Array, "n d_out"]:
    return cast(Array, module.apply({"params": params}, x))


def _scorer(module: nn.Module, validation: ValidationSet) -> Callable[[Params, int], float]:
    """Build the function that scores parameters on the validation set. It searches the true neighbors once."""
    x, y, corpus = (jnp.asarray(rows, jnp.float32) for rows in validation)
    true_neighbor = top_hit(y, corpus)

    def score(params: Params, step: int) -> float:
        output = jnp.concatenate([_outputs(module, params, x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)])
        _require(bool(jnp.isfinite(output).all()), f"Outputs after step {step} are not finite. {ADVICE}")
        return float(reciprocal_rank(rank_of(output, corpus, true_neighbor)))

    return score
