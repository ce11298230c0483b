"""Check and normalize embeddings. Shapes: `*batch` leading axes, `d` width."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.errors import BadInput
from ea_jax.typing import ArrayIn


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
