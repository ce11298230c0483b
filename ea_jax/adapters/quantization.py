"""Quantization of weights to int8 codes with one scale a row or a column. Entries store the codes."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, Int8

from ea_jax.typing import ArrayIn

BITS = 6  # entropy of a code for normal weights; the rounding changes an output to a cosine of .9998
LARGEST = 127  # code


class Quantized(NamedTuple):
    """Codes and scales: `weights = values * scale`, with a scale for each row or for each column.

    `_asdict()` is a node of a parameter tree that `dequantize` reads, for scales of columns.
    """

    values: Int8[np.ndarray, "k d"]
    scale: Float32[np.ndarray, " _"]


def quantize_rows(w: Float[np.ndarray, "k d"]) -> Quantized:
    """Quantize each row with its own scale, so that its largest magnitude is `LARGEST`."""
    top = np.maximum(np.abs(w).max(axis=1, keepdims=True), 1e-30)
    return Quantized(np.rint(w * (LARGEST / top)).astype(np.int8), (top[:, 0] / LARGEST).astype(np.float32))


def quantize_columns(w: Float[ArrayIn, "k d"]) -> Quantized:
    """Quantize each column with its own scale.

    The scale makes the entropy of normal weights about `BITS` bits a code, and is larger where an outlier would not fit
    into 8 bits.
    """
    w = np.asarray(w)
    root = np.sqrt(np.mean(np.square(w), axis=0, dtype=np.float64))
    step = np.maximum(root * 2.0 ** (2.05 - BITS), np.abs(w).max(axis=0) / LARGEST)
    scale = np.maximum(step, 1e-30).astype(np.float32)
    return Quantized(np.clip(np.rint(w / scale), -LARGEST, LARGEST).astype(np.int8), scale)


def dequantize(tree: Any, dtype: str = "float32") -> Any:
    """Convert stored parameters to those of a module.

    Codes with a scale are multiplied out in float32. Codes without one, which the module scales itself, are cast to
    `dtype`.
    """
    if isinstance(tree, dict) and tree.keys() == {"values", "scale"}:
        return jnp.asarray(tree["values"], jnp.float32) * tree["scale"][None]
    if isinstance(tree, dict):
        return {name: dequantize(part, dtype) for name, part in tree.items()}
    return jnp.asarray(tree, dtype if tree.dtype == jnp.int8 else jnp.float32)
