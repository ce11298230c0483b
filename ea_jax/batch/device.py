"""Vectors to the device and back: the batch axis over all local devices, a few padded shapes, one batch ahead."""

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
from ea_jax.embeddings import check_embeddings, unit
from ea_jax.errors import BadInput
from ea_jax.progress import progress
from ea_jax.quality.scores import Quality
from ea_jax.typing import ArrayIn, Params

ROWS = 4096  # of a batch
LEAST = 64
BAR = 100_000  # fewer rows are done before a bar is read
DTYPES = ("float32", "float16", "int8")


class Mapped(NamedTuple):
    """What came back, a row an input.

    Attributes:
        y: Vectors in the dtype asked for.
        scale: Of int8, what a row's numbers are to be multiplied with.
        confidence: Where a quality part judged the inputs.
    """

    y: Shaped[np.ndarray, "n d_out"]
    scale: Float[np.ndarray, " n"] | None
    confidence: Float[np.ndarray, " n"] | None


class Pending(NamedTuple):
    """A batch that the device computes, padding included."""

    rows: int
    found: tuple[Array, Array | None, Array | None]

    def finish(self) -> Mapped:
        """Wait for the device, and leave the padding out."""
        y, *others = self.found
        scale, confidence = (None if a is None else np.asarray(a)[: self.rows] for a in others)
        return Mapped(np.asarray(y)[: self.rows], scale, confidence)


def quantized(y: Float[Array, "n d"]) -> tuple[Shaped[Array, "n d"], Float[Array, " n"]]:
    """Whole numbers from -127 to 127 and the scale s of each row, `y ~ s q` to within `s / 2`."""
    scale = jnp.maximum(jnp.max(jnp.abs(y), axis=-1), 1e-30) / 127
    return jnp.round(y / scale[:, None]).astype(jnp.int8), scale


def padded_rows(rows: int, most: int, devices: int) -> int:
    """The number of rows that a batch is padded to: a power of two up to `most`, in equal shares for the devices."""
    size = min(max(LEAST, 1 << (rows - 1).bit_length()), max(most, rows))
    return -(-size // devices) * devices


@partial(jax.jit, static_argnums=(0, 1))
def _mapped(specs: tuple[Spec, Spec | None], how: tuple[str, int | None], params: tuple[Params, Any], x: Array):
    (spec, judged), (dtype, dim) = specs, how
    y = Adapter(spec, params[0])(params[0], x)
    if dim is not None:
        y = unit(y[:, :dim]) if spec.unit_norm else y[:, :dim]
    confidence = Quality(judged, params[1])(params[1], x).confidence if judged else None
    y, scale = quantized(y) if dtype == "int8" else (y.astype(dtype), None)
    return y, scale, confidence


class OnDevices:
    """An adapter, and a quality part where confidences are wanted, with a copy of their parameters on each device.

    Attributes:
        dtype: Of the vectors that come back.
        width: Theirs: `dim`, or the target's.
        most: Rows of a batch.
    """

    def __init__(
        self,
        adapt: Adapter,
        judge: Quality | None = None,
        *,
        dtype: str = "float32",
        dim: int | None = None,
        most: int = ROWS,
    ) -> None:
        if dtype not in DTYPES:
            raise BadInput(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}.")
        if dim is not None and not 1 <= dim <= adapt.spec.d_out:
            raise BadInput(f"dim is {dim}; vectors of {adapt.spec.target} have {adapt.spec.d_out} numbers.")
        mesh = Mesh(np.array(local_devices()), ("rows",))
        self.dtype, self.width, self.most = dtype, dim or adapt.spec.d_out, most
        self._specs, self._how = (adapt.spec, judge.spec if judge else None), (dtype, dim)
        self._rows = NamedSharding(mesh, PartitionSpec("rows"))
        params = (adapt.params, judge.params if judge else None)
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

    def start(self, x: Float[np.ndarray, "n d_in"]) -> Pending:
        """Hand a batch to the devices, which compute it while the host goes on."""
        rows = padded_rows(len(x), self.most, self._rows.mesh.size)
        padded = x if rows == len(x) else np.concatenate([x, np.zeros((rows - len(x), x.shape[1]), x.dtype)])
        placed = jax.device_put(padded, self._rows)
        return Pending(len(x), _mapped(self._specs, self._how, self._params, placed))


def local_devices() -> list[Any]:
    """The devices of this process, of the backend that was asked for."""
    wanted = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue] (declared at run time)
    return jax.local_devices(backend=getattr(wanted, "platform", wanted))


def map_array(
    adapt: Adapter, x: Float[ArrayIn, "n d_in"], *, show_progress: bool = False
) -> Float[np.ndarray, "n d_out"]:
    """Map any number of embeddings, in batches over all local devices.

    Args:
        x: Source embeddings; they may be memory-mapped.
        show_progress: Draw a bar on stderr.

    Raises:
        BadInput: x is not of floats in two dimensions, or its width is not the source model's.
    """
    if getattr(x, "ndim", 2) != 2:
        raise BadInput(f"x has shape {x.shape}; give a row a vector, [n, {adapt.spec.d_in}].")
    check_embeddings(x, adapt.spec.d_in, adapt.spec.source)
    y, at = np.empty((len(x), adapt.spec.d_out), np.float32), 0
    pieces = (x[start : start + ROWS] for start in range(0, len(x), ROWS))
    with progress("Mapping", len(x), show_progress, least=BAR, unit="rows") as advance:
        for part in map_batches(adapt, pieces):
            y[at : at + len(part)] = part
            at += len(part)
            advance(len(part))
    return y


def map_batches(
    adapt: Adapter, batches: Iterable[Float[ArrayIn, "_ d_in"]], *, show_progress: bool = False
) -> Iterator[Float[np.ndarray, "_ d_out"]]:
    """Map embeddings as they come, a batch of outputs for each of inputs, in order; one is computed ahead.

    Args:
        batches: Arrays of any numbers of rows.
        show_progress: Draw a bar on stderr.

    Raises:
        BadInput: A batch is not of floats in two dimensions, or its width is not the source model's.
    """
    run, waiting = OnDevices(adapt), None
    with progress("Mapping", None, show_progress, unit="rows") as advance:
        for batch in batches:
            check_embeddings(batch, adapt.spec.d_in, adapt.spec.source)
            started = run.start(np.asarray(batch, np.float32))
            if waiting:
                yield waiting.finish().y
                advance(waiting.rows)
            waiting = started
        if waiting:
            yield waiting.finish().y
            advance(waiting.rows)
