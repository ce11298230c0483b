"""Train a module's parameters on pairs: AdamW on batches drawn from a seed, judged on rows that are held out."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ea_jax.arrays import ArrayIn, Params
from ea_jax.digests import values_sha256
from ea_jax.draws import batches
from ea_jax.errors import BadInput, nearest
from ea_jax.losses import Terms
from ea_jax.metrics import mean_cosine, rank_of, reciprocal_rank, top_hit
from ea_jax.progress import progress
from ea_jax.resume import kept, rows_told

BLOCK = 4096  # held-out rows that are put through the module together


def _require(fine: bool, told: str) -> None:
    if not fine:
        raise BadInput(told)


@dataclass(frozen=True)
class Training:
    """What training does.

    Attributes:
        steps: Updates at the most.
        batch: Pairs of a step; all of them where there are fewer.
        rate: AdamW's learning rate at its highest.
        decay: AdamW's weight decay, of matrices alone.
        warmup: Share of the steps in which the rate rises from 0; it then falls to 0 as a cosine.
        terms: Weights of the terms of the loss.
        mixup: Beta parameter of the mixing of pairs, of which the larger part stays a pair's own; 0 for none.
        average: Decay a step of the exponential average of the weights, which is what is judged and returned.
        every: Steps between judgments.
        patience: Judgments without a better one, after which it stops.
        judge: Score of held-out rows: reciprocal rank of the native top hit, or mean cosine. Larger is better.
        only: Top-level names of the parameters that are trained; all of them if empty.

    Raises:
        BadInput: A number is out of its range.
    """

    steps: int = 1000
    batch: int = 1024
    rate: float = 1e-3
    decay: float = 1e-2
    warmup: float = 0.05
    terms: Terms = field(default_factory=Terms)
    mixup: float = 0.0
    average: float = 0.99
    every: int = 50
    patience: int = 5
    judge: Literal["reciprocal_rank", "cosine"] = "reciprocal_rank"
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "every", "patience"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more.")
        for name in ("warmup", "average"):
            _require(0 <= getattr(self, name) < 1, f"{name} is {getattr(self, name)}; it must be from 0 to below 1.")
        for name in ("decay", "mixup"):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}; it must be 0 or more.")
        for name, value in (("rate", self.rate), ("temperature", self.terms.temperature)):
            _require(value > 0, f"{name} is {value}; it must be above 0.")
        _require(any(self.terms[:4]), "Every term of the loss has weight 0; give one of them weight.")


# For about 5,000 pairs, 20 epochs of them; the measured choice for an MLP of width 512 and depth 2.
MLP_TRAINING = Training(
    steps=200, batch=512, rate=5e-4, mixup=1.0, average=0.97, terms=Terms(cosine=0.5, contrastive=0.5)
)


class Held(NamedTuple):
    """Rows that are never trained on: queries, their native vectors, and the native corpus that they are sent to."""

    x: Float[ArrayIn, "n d_in"]
    y: Float[ArrayIn, "n d_out"]
    corpus: Float[ArrayIn, "m d_out"]


class Trained(NamedTuple):
    """What `train` returns.

    Attributes:
        params: The best that was judged, in the dtypes that came in.
        steps: How many were done.
        judged: Each judgment's step and score; the first is of the start.
        best: Step of the best judgment; 0 if nothing beat the start, which then comes back as it was.
        seconds: What it took, over all the processes that it took.
    """

    params: Params
    steps: int
    judged: list[tuple[int, float]]
    best: int
    seconds: float


class _State(NamedTuple):
    """What a step changes; `failed` is the first step whose loss or gradient was not finite, or 0."""

    params: Params
    average: Params
    optimizer: Any
    step: Int[Array, ""]
    failed: Int[Array, ""]


class _Run(NamedTuple):
    """What has been done so far; `best` are the trained parameters of the best judgment."""

    state: _State
    best: Params
    judged: list[tuple[int, float]]
    seconds: float

    @property
    def step(self) -> int:
        return self.judged[-1][0]

    @property
    def best_step(self) -> int:
        return max(self.judged, key=lambda judgment: judgment[1])[0]

    def finished(self, training: Training) -> bool:
        since = sum(step > self.best_step for step, _ in self.judged)
        return self.step >= training.steps or since >= training.patience


def train(
    module: nn.Module,
    params: Params,
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    held: Held,
    training: Training,
    *,
    seed: int = 0,
    folder: Path | None = None,
    show_progress: bool = False,
) -> Trained:
    """Train parameters on pairs, and return the best of those that were judged on held-out rows.

    A step reads its own rows alone, so x and y may be memory maps larger than memory. One seed gives one result, bit
    for bit on one backend. Arithmetic is in float32, whatever the dtypes of the parameters.

    Args:
        module: Gives rows of length one: `module.apply({"params": params}, x)`.
        params: The start: a nested dict of float arrays.
        x: Source embeddings.
        y: Target embeddings of length one, row-aligned with x.
        held: What judges.
        training: What training does.
        seed: Of the order of rows and of their mixing.
        folder: Where the run is kept at every judgment: the same call goes on from there if it was stopped, and returns
            the same result at once if it was done. Nothing is kept if None.
        show_progress: Draw a bar on stderr.

    Raises:
        BadInput: Rows or widths do not match, a name in `only` is unknown, a value is not finite, or `folder` keeps a
            run of other arguments.
    """
    began = time.monotonic()
    _check(params, x, y, held, training, seed)
    trained = {name: params[name] for name in training.only or params}
    frozen = {name: value for name, value in params.items() if name not in trained}
    score = _judge(module, frozen, held, training)
    arguments = _arguments(module, params, x, y, held, training, seed)
    state, best = _start(training, trained), jax.tree.map(np.asarray, trained)
    with (
        kept(folder, arguments, (state, best)) as (found, save),
        progress("Training", training.steps, show_progress) as advance,
    ):
        if found:
            (state, best), notes = found
            run = _Run(state, best, [(step, score) for step, score in notes["judged"]], notes["seconds"])
        else:
            run = _Run(state, best, [(0, score(trained, 0))], 0.0)
        before = run.seconds
        state, draws = run.state, batches(x, y, training.batch, mixup=training.mixup, seed=seed, step=run.step)
        advance(run.step)
        while not run.finished(training):
            until = min(run.step + training.every, training.steps)
            for _ in range(until - run.step):
                state = _step(module, training, state, frozen, *next(draws))
                advance(1)
            run = _judged(run, state, until, score, before + time.monotonic() - began)
            save(run.step, (run.state, run.best), {"judged": run.judged, "seconds": run.seconds})
    result = {**params, **run.best} if run.best_step else params
    return Trained(result, run.step, run.judged, run.best_step, run.seconds)


_TRY = "Try a smaller rate or a longer warmup, or look for values that are not finite in the pairs and the start."


def _check(params: Params, x: Any, y: Any, held: Held, training: Training, seed: int) -> None:
    for name, a, b in (("", x, y), ("held.", held.x, held.y)):
        _require(len(a) == len(b), f"{name}x has {len(a)} rows and {name}y {len(b)}; they must be row-aligned.")
    for name, rows in {"x": x, "y": y, "held.x": held.x, "held.y": held.y, "held.corpus": held.corpus}.items():
        width = (x if name.endswith("x") else y).shape[1]
        _require(len(rows) > 0, f"{name} has no rows; training needs some.")
        _require(rows.shape[1] == width, f"{name} has width {rows.shape[1]}, where the pairs have {width}.")
        fine = not name.startswith("held") or bool(np.isfinite(rows).all())
        _require(fine, f"{name} has values that are not finite; leave those rows out.")
    _require(seed >= 0, f"seed is {seed}; it must be 0 or more.")
    for name in training.only or params:
        _require(name in params, f"No parameters are named {name!r}. {nearest(name, params)}")
        kinds = {str(a.dtype) for a in jax.tree.leaves(params[name]) if not jnp.issubdtype(a.dtype, jnp.floating)}
        _require(not kinds, f"{name!r} holds {', '.join(kinds)}, which cannot be trained; name others in `only`.")


def _optimizer(training: Training) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(0.0, training.rate, int(training.warmup * training.steps), training.steps)
    return optax.adamw(rate, weight_decay=training.decay, mask=partial(jax.tree.map, lambda a: a.ndim > 1))


def _start(training: Training, trained: Params) -> _State:
    """The state before the first step, in arrays that nobody else holds, for a step gives them away."""
    params, average = (jax.tree.map(lambda a: jnp.array(a, jnp.float32), trained) for _ in range(2))
    step, failed = (jnp.zeros((), jnp.int32) for _ in range(2))
    return _State(params, average, _optimizer(training).init(params), step, failed)


@partial(jax.jit, static_argnames=("module", "training"), donate_argnames="state")
def _step(module: nn.Module, training: Training, state: _State, frozen: Params, x: ArrayIn, y: ArrayIn) -> _State:
    def loss(trained: Params) -> Array:
        return training.terms.loss(_outputs(module, {**frozen, **trained}, x), y)

    value, gradient = jax.value_and_grad(loss)(state.params)
    updates, optimizer = _optimizer(training).update(gradient, state.optimizer, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    average = cast(Params, optax.incremental_update(params, state.average, 1 - training.average))
    step, fine = state.step + 1, jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves((value, gradient))]).all()
    return _State(params, average, optimizer, step, jnp.where((state.failed > 0) | fine, state.failed, step))


@partial(jax.jit, static_argnums=0)
def _outputs(module: nn.Module, params: Params, x: ArrayIn) -> Float[Array, "n d_out"]:
    return cast(Array, module.apply({"params": params}, x)).astype(jnp.float32)


def _judge(module: nn.Module, frozen: Params, held: Held, training: Training) -> Callable[[Params, int], float]:
    """The score of trained parameters on held-out rows, where the native top hits are found once."""
    x, y, corpus = (jnp.asarray(rows, jnp.float32) for rows in held)
    hit = top_hit(y, corpus) if training.judge == "reciprocal_rank" else None

    def score(trained: Params, step: int) -> float:
        params = {**frozen, **trained}
        output = jnp.concatenate([_outputs(module, params, x[i : i + BLOCK]) for i in range(0, len(x), BLOCK)])
        _require(bool(jnp.isfinite(output).all()), f"Outputs after step {step} are not finite. {_TRY}")
        return float(mean_cosine(output, y) if hit is None else reciprocal_rank(rank_of(output, corpus, hit)))

    return score


def _judged(run: _Run, state: _State, step: int, score: Callable[[Params, int], float], seconds: float) -> _Run:
    """The run with its averaged weights judged, in the dtypes in which they would be returned."""
    failed = int(state.failed)
    _require(not failed, f"Training stopped at step {failed}: the loss is not finite. {_TRY}")
    average = jax.tree.map(lambda a, best: np.array(a, best.dtype), state.average, run.best)
    judged = [*run.judged, (step, score(average, step))]
    better = judged[-1][1] > max(score for _, score in run.judged)
    return _Run(state, average if better else run.best, judged, seconds)


def _arguments(
    module: nn.Module, params: Params, x: Any, y: Any, held: Held, training: Training, seed: int
) -> dict[str, Any]:
    """What a run was called with, in few words."""
    rows = {"x": x, "y": y, "held.x": held.x, "held.y": held.y, "held.corpus": held.corpus}
    return {
        **asdict(training),
        "terms": training.terms._asdict(),
        "seed": seed,
        "module": " ".join(repr(module).split()),
        "params": values_sha256(params)[:16],
        **{name: rows_told(a) for name, a in rows.items()},
    }
