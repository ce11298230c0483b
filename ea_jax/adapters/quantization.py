"""Weights as int8 codes with a scale a column: what a registry stores is what `fit` returns."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int8

from ea_jax.typing import ArrayIn, Params

BITS = 6  # of a code of normal weights under an entropy coder; it changes an output to a cosine of .9998


class Grid(NamedTuple):
    """`weights = values * scale`."""

    values: Int8[np.ndarray, "k d"]
    scale: Float32[np.ndarray, " d"]


def nearest_grid(w: Float[np.ndarray, "k d"], largest: int) -> Grid:
    """Each row on a grid of its own on which its largest number is `largest`: its direction as int8 codes."""
    top = np.maximum(np.abs(w).max(axis=1, keepdims=True), 1e-30)
    return Grid(np.rint(w * (largest / top)).astype(np.int8), (top[:, 0] / largest).astype(np.float32))


def column_grid(w: Float[ArrayIn, "k d"]) -> Grid:
    """Each column on a grid of its own, so wide that normal weights need about `BITS` bits and none more than 8."""
    w = np.asarray(w)
    root = np.sqrt(np.mean(np.square(w), axis=0, dtype=np.float64))
    step = np.maximum(root * 2.0 ** (2.05 - BITS), np.abs(w).max(axis=0) / 127)
    scale = np.maximum(step, 1e-30).astype(np.float32)
    return Grid(np.clip(np.rint(w / scale), -127, 127).astype(np.int8), scale)


def is_grid(tree: object) -> bool:
    """Whether a node of a parameter tree is weights on a grid."""
    return isinstance(tree, dict) and tree.keys() == {"values", "scale"}


def unpacked(tree: Any, dtype: str = "float32") -> Any:
    """Parameters as a module takes them: grids multiplied out in float32, bare codes cast to `dtype`."""
    if is_grid(tree):
        return jnp.asarray(tree["values"], jnp.float32) * tree["scale"][None]
    if isinstance(tree, dict):
        return {name: unpacked(part, dtype) for name, part in tree.items()}
    return jnp.asarray(tree, dtype if tree.dtype == jnp.int8 else jnp.float32)


def packed(grid: Grid) -> Params:
    """A grid as a node of a parameter tree."""
    return {"values": grid.values, "scale": grid.scale}
