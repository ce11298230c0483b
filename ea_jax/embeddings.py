"""Check and normalize embeddings. Shapes: `*batch` leading axes, `d` width."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from ea_jax.errors import BadInput
from ea_jax.typing import ArrayIn

LENGTH_TOLERANCE = 0.02  # relative; stored vectors are rescaled within it, and refused beyond
ROUNDING = 1e-3  # relative; float16 rounding, which is left as it is
NOT_FINITE = "a number of the vector is null, not finite or too large for float32"
ZERO = "the vector is zero"


@dataclass(frozen=True)
class VectorRule:
    """Requirements for stored vectors of a model.

    Attributes:
        model: The model, for messages.
        width: Their width; that of the first vector if None.
        unit_norm: Whether they have unit length.
        normalize: Rescale vectors of any length to unit length, instead of refusing them.
    """

    model: str = ""
    width: int | None = None
    unit_norm: bool = False
    normalize: bool = False

    def of_width(self, width: int) -> "VectorRule":
        """Require a width, if none is required yet."""
        return self if self.width is not None else replace(self, width=width)

    def width_error(self, width: int, expected: int) -> str:
        """Say that a vector has another width than expected."""
        return f"the vector has width {width}, but {self.model or 'the first'} has width {expected}"


def check_rows(x: Shaped[np.ndarray, "n d"], rule: VectorRule) -> tuple[Float32[np.ndarray, "n d"], dict[int, str]]:
    """Convert stored vectors to float32, and rescale them to unit length where their model has it.

    Returns:
        The vectors, and the reason for each that cannot be used, by row.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        x = np.asarray(x, np.float32)
        squares = np.einsum("nd,nd->n", x, x)
        usable = np.isfinite(squares) & (squares > 0)
        length = np.sqrt(squares)
    reasons = {int(row): ZERO if squares[row] == 0 else NOT_FINITE for row in np.flatnonzero(~usable)}
    if not rule.unit_norm and not rule.normalize:
        return x, reasons
    off = np.abs(length - 1)
    if not rule.normalize:
        for row in np.flatnonzero(usable & (off > LENGTH_TOLERANCE)):
            reasons[int(row)] = (
                f"the vector has length {length[row]:.3f}, but vectors of {rule.model or 'the model'} have length 1. "
                "Set `normalize` to rescale them"
            )
    rescaled = usable & (off > ROUNDING)
    if rescaled.any():
        x = x / np.where(rescaled, length, 1)[:, None].astype(np.float32)
    return x, dict(sorted(reasons.items()))


def require_rows(
    x: Shaped[np.ndarray, "n d"], rule: VectorRule, where: str, first: int = 0
) -> Float32[np.ndarray, "n d"]:
    """Return vectors as `check_rows` does.

    Raises:
        BadInput: The vectors have another width, or one cannot be used. The message names `where` and the row,
            counted from `first`.
    """
    if rule.width is not None and x.shape[1] != rule.width:
        model = rule.model or "the model"
        raise BadInput(f"{where} has width {x.shape[1]}, but {model} has width {rule.width}. Is it another model's?")
    x, reasons = check_rows(x, rule)
    for row, why in reasons.items():
        raise BadInput(f"{where}, row {first + row}: {why}.")
    return x


def check_embeddings(x: Any, width: int, model: str) -> None:
    """Raise BadInput unless x is an array of floats whose last axis has the width of the model."""
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        kind = getattr(x, "dtype", type(x).__name__)
        raise BadInput(f"Embeddings must be an array of floats, not {kind}. Try `np.asarray(x, np.float32)`.")
    if not x.ndim or x.shape[-1] != width:
        raise BadInput(
            f"x has shape {x.shape}, but {model!r} embeddings have width {width}. "
            "Did another model make them? `ea-jax list` shows the adapters."
        )


@jax.jit
def unit(x: Float[ArrayIn, "*batch d"]) -> Float[Array, "*batch d"]:
    """Scale each row to unit length, in float32 or wider. A zero row stays zero and has a finite gradient."""
    wide = jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.sum(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))).astype(x.dtype)
