"""Run adapters on all local devices: split batches over them, pad to few shapes, and compute one batch ahead."""

import os
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Shaped

from ea_jax.adapters.adapter import Adapter
from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import VectorRule, check_embeddings, require_rows, unit
from ea_jax.errors import BadInput, EaJaxError
from ea_jax.progress import progress_bar
from ea_jax.quality.scores import Quality
from ea_jax.registry.spaces import find_space
from ea_jax.typing import ArrayIn, Params

ROWS = 4096  # of a batch
MIN_ROWS = 64  # smallest padded batch
PROGRESS_FROM = 100_000  # rows; shorter runs show no progress bar
DTYPES = ("float32", "float16", "int8")


class Outputs(NamedTuple):
    """Outputs for a batch, one row for each input.

    Attributes:
        y: Target vectors in the requested dtype.
        scale: For int8, the number to multiply each row by.
        confidence: Confidence of each row, if a quality part was given.
    """

    y: Shaped[np.ndarray, "n d_out"]
    scale: Float[np.ndarray, " n"] | None
    confidence: Float[np.ndarray, " n"] | None


class Pending(NamedTuple):
    """A batch under computation: the number of its rows, and its padded outputs."""

    rows: int
    outputs: tuple[Array, Array | None, Array | None]

    def finish(self) -> Outputs:
        """Wait for the device, and remove the padding."""
        y, *others = self.outputs
        scale, confidence = (None if a is None else np.asarray(a)[: self.rows] for a in others)
        return Outputs(np.asarray(y)[: self.rows], scale, confidence)


def quantize(y: Float[Array, "n d"]) -> tuple[Shaped[Array, "n d"], Float[Array, " n"]]:
    """Quantize rows to int8: codes `q` and scales `s` with `|y - s q| <= s / 2`."""
    scale = jnp.maximum(jnp.max(jnp.abs(y), axis=-1), 1e-30) / 127
    return jnp.round(y / scale[:, None]).astype(jnp.int8), scale


def padded_rows(rows: int, max_rows: int, devices: int) -> int:
    """Return the padded size of a batch: a power of two up to `max_rows`, divisible by the number of devices."""
    size = min(max(MIN_ROWS, 1 << (rows - 1).bit_length()), max(max_rows, rows))
    return -(-size // devices) * devices


@partial(jax.jit, static_argnums=(0, 1))
def _map(specs: tuple[Spec, Spec | None], form: tuple[str, int | None], params: tuple[Params, Any], x: Array):
    (spec, quality_spec), (dtype, dim) = specs, form
    y = Adapter(spec, params[0])(params[0], x)
    if dim is not None:
        y = unit(y[:, :dim]) if spec.unit_norm else y[:, :dim]
    confidence = Quality(quality_spec, params[1])(params[1], x).confidence if quality_spec else None
    y, scale = quantize(y) if dtype == "int8" else (y.astype(dtype), None)
    return y, scale, confidence


class DeviceRunner:
    """Runs an adapter, and optionally its quality part, with a copy of the parameters on each device.

    Attributes:
        dtype: Dtype of the output vectors.
        width: Their width: `dim`, or the target's.
        max_rows: Largest number of rows in a batch.
    """

    def __init__(
        self,
        adapt: Adapter,
        quality: Quality | None = None,
        *,
        dtype: str = "float32",
        dim: int | None = None,
        max_rows: int = ROWS,
    ) -> None:
        if dtype not in DTYPES:
            raise BadInput(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
        if dim is not None and not 1 <= dim <= adapt.spec.d_out:
            raise BadInput(f"dim is {dim}; vectors of {adapt.spec.target} have {adapt.spec.d_out} numbers.")
        mesh = Mesh(np.array(local_devices()), ("rows",))
        self.dtype, self.width, self.max_rows = dtype, dim or adapt.spec.d_out, max_rows
        self._specs, self._form = (adapt.spec, quality.spec if quality else None), (dtype, dim)
        self._rows = NamedSharding(mesh, PartitionSpec("rows"))
        params = (adapt.params, quality.params if quality else None)
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

    def start(self, x: Float[np.ndarray, "n d_in"]) -> Pending:
        """Start computing a batch. Returns at once, while the devices work."""
        rows = padded_rows(len(x), self.max_rows, self._rows.mesh.size)
        padded = x if rows == len(x) else np.concatenate([x, np.zeros((rows - len(x), x.shape[1]), x.dtype)])
        placed = jax.device_put(padded, self._rows)
        return Pending(len(x), _map(self._specs, self._form, self._params, placed))


def local_devices() -> list[Any]:
    """Return the devices of this process on the configured backend."""
    default = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] (declared at run time)
    return jax.local_devices(backend=getattr(default, "platform", default))


def source_rule(spec: Spec, normalize: bool = False, root: str | os.PathLike[str] | None = None) -> VectorRule:
    """Return what source vectors of an adapter must be. Of a model that is not listed, the length is not known."""
    try:
        unit_norm = find_space(spec.source, root).unit_norm
    except EaJaxError:
        unit_norm = False
    return VectorRule(spec.source, spec.d_in, unit_norm, normalize)


def map_array(
    adapt: Adapter, x: Float[ArrayIn, "n d_in"], *, normalize: bool = False, show_progress: bool = False
) -> Float[np.ndarray, "n d_out"]:
    """Map any number of embeddings, in batches over all local devices.

    Args:
        x: Source embeddings; the array may be memory-mapped.
        normalize: Rescale vectors of any length to unit length.
        show_progress: Show a progress bar on stderr.

    Raises:
        BadInput: x is not a two-dimensional array of floats with the source model's width, or a row is not finite, is
            zero, or does not have unit length as the model's vectors do. The message names the row.
    """
    if getattr(x, "ndim", 2) != 2:
        raise BadInput(f"x has shape {x.shape}; it must be [n, {adapt.spec.d_in}].")
    check_embeddings(x, adapt.spec.d_in, adapt.spec.source)
    y, at = np.empty((len(x), adapt.spec.d_out), np.float32), 0
    chunks = (x[start : start + ROWS] for start in range(0, len(x), ROWS))
    with progress_bar("Mapping", len(x), show_progress, min_total=PROGRESS_FROM, unit="rows") as advance:
        for part in map_batches(adapt, chunks, normalize=normalize):
            y[at : at + len(part)] = part
            at += len(part)
            advance(len(part))
    return y


def map_batches(
    adapt: Adapter,
    batches: Iterable[Float[ArrayIn, "_ d_in"]],
    *,
    normalize: bool = False,
    show_progress: bool = False,
) -> Iterator[Float[np.ndarray, "_ d_out"]]:
    """Map a stream of embeddings: one output batch for each input batch, in order, computed one batch ahead.

    Args:
        batches: Arrays with any number of rows.
        normalize: Rescale vectors of any length to unit length.
        show_progress: Show a progress bar on stderr.

    Raises:
        BadInput: A batch or a row is not as `map_array` requires. The message names the row among all.
    """
    run, rule, waiting, row = DeviceRunner(adapt), source_rule(adapt.spec, normalize), None, 0
    with progress_bar("Mapping", None, show_progress, unit="rows") as advance:
        for batch in batches:
            check_embeddings(batch, adapt.spec.d_in, adapt.spec.source)
            started = run.start(require_rows(np.asarray(batch), rule, "x", row))
            row += len(batch)
            if waiting:
                yield waiting.finish().y
                advance(waiting.rows)
            waiting = started
        if waiting:
            yield waiting.finish().y
            advance(waiting.rows)
