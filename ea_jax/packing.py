"""Weights as whole numbers of few bits with a scale a column: what a registry stores is what `fit` returns."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Float64, Int8
from scipy.linalg import cholesky, get_lapack_funcs

from ea_jax.arrays import ArrayIn, Params

WHOLE = {"landmarks", "mix"}  # parameters that stay whole numbers in the module
DAMPING = 1e-3
BLOCK = 256


class Grid(NamedTuple):
    """`weights = values * scale`."""

    values: Int8[np.ndarray, "k d"]
    scale: Float32[np.ndarray, " d"]


def nearest_grid(w: Float[np.ndarray, "k d"], largest: int) -> Grid:
    """Each row on a grid of its own on which its largest number is `largest`: its direction in whole numbers."""
    top = np.maximum(np.abs(w).max(axis=1, keepdims=True), 1e-30)
    return Grid(np.rint(w * (largest / top)).astype(np.int8), (top[:, 0] / largest).astype(np.float32))


def column_scale(w: Float[ArrayIn, "k d"], bits: int) -> Float32[np.ndarray, " d"]:
    """Step of each column's grid: so wide that a normal variable needs about `bits` bits, and no number more than 8."""
    root = np.sqrt(np.mean(np.square(w), axis=0, dtype=np.float64))
    step = np.maximum(root * 2.0 ** (2.05 - bits), np.abs(w).max(axis=0) / 127)
    return np.maximum(step, 1e-30).astype(np.float32)


def rounded(w: Float[np.ndarray, "k d"], moment: Float[np.ndarray, "k k"], bits: int) -> Grid:
    """Weights on a grid, such that `x @ weights` errs little for inputs of the second moment given.

    Rows are rounded one after the other, and each one's error is made up for by the rows still to come: Babai's nearest
    plane in the lattice that the moment spans.

    Args:
        w: Weights, one row an input feature.
        moment: Sum or mean of `x x^T` over inputs, at any scale.
        bits: About how many bits an entropy coder needs for a number; at most 8.

    Source: Frantar et al. 2022, arXiv:2210.17323 (GPTQ); Chen et al. 2025, arXiv:2507.18553 (its geometry).
    """
    scale = column_scale(w, bits)
    target = (w / scale).astype(np.float32)
    moment = np.asarray(moment, np.float64)
    damped = moment + DAMPING * np.trace(moment) / len(moment) * np.eye(len(moment))
    order = np.argsort(-np.diag(damped), kind="stable")
    upper = _inverse_factor(damped[np.ix_(order, order)]).astype(np.float32)
    target, values = target[order], np.empty(w.shape, np.float32)
    for start in range(0, len(w), BLOCK):
        stop = min(start + BLOCK, len(w))
        errors = np.empty((stop - start, w.shape[1]), np.float32)
        for row in range(start, stop):
            values[row] = np.clip(np.rint(target[row]), -127, 127)
            errors[row - start] = (target[row] - values[row]) / upper[row, row]
            target[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], errors[row - start])
        target[stop:] -= upper[start:stop, stop:].T @ errors
    back = np.empty_like(values)
    back[order] = values
    return Grid(back.astype(np.int8), scale)


def _inverse_factor(moment: Float64[np.ndarray, "k k"]) -> Float64[np.ndarray, "k k"]:
    """Upper triangular R with `R^T R = moment^-1`, by the Cholesky factor of the moment in reversed order."""
    low = cholesky(moment[::-1, ::-1], lower=True, check_finite=False)
    (invert,) = get_lapack_funcs(("trtri",), (low,))
    return invert(low, lower=1)[0][::-1, ::-1]


def is_grid(tree: object) -> bool:
    """Whether a node of a parameter tree is weights on a grid."""
    return isinstance(tree, dict) and tree.keys() == {"values", "scale"}


def unpacked(tree: Any, dtype: str = "float32") -> Any:
    """Parameters as a module takes them: grids multiplied out in float32, bare whole numbers cast to `dtype`."""
    if is_grid(tree):
        return jnp.asarray(tree["values"], jnp.float32) * tree["scale"][None]
    if isinstance(tree, dict):
        return {name: unpacked(part, dtype) for name, part in tree.items()}
    return jnp.asarray(tree, dtype if tree.dtype == jnp.int8 else jnp.float32)


def packed(grid: Grid) -> Params:
    """A grid as a node of a parameter tree."""
    return {"values": grid.values, "scale": grid.scale}
