"""Moments of pairs, which add up over blocks, files and folds; affine maps.

Products are computed in float32 on the default device, block by block, and summed in float64 on the host. The number of
pairs is not limited by memory.
"""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.linalg import eigh

from ea_jax.typing import ArrayIn

BLOCK = 8192


class Moments(NamedTuple):
    """Sums over n pairs, from which a linear fit is computed."""

    n: float
    x: Float64[np.ndarray, " d_in"]
    y: Float64[np.ndarray, " d_out"]
    xx: Float64[np.ndarray, "d_in d_in"]
    xy: Float64[np.ndarray, "d_in d_out"]
    yy: Float64[np.ndarray, "d_out d_out"]

    def plus(self, other: "Moments") -> "Moments":
        """Moments of the union of two disjoint sets of pairs."""
        return jax.tree.map(np.add, self, other)

    def minus(self, other: "Moments") -> "Moments":
        """Moments without a subset of the pairs."""
        return jax.tree.map(np.subtract, self, other)


class Covariance(NamedTuple):
    """Means and centered second moments."""

    x_mean: Float64[np.ndarray, " d_in"]
    y_mean: Float64[np.ndarray, " d_out"]
    xx: Float64[np.ndarray, "d_in d_in"]
    xy: Float64[np.ndarray, "d_in d_out"]
    yy: Float64[np.ndarray, "d_out d_out"]


class Affine(NamedTuple):
    """The map `y = x @ kernel + bias`."""

    kernel: Float64[np.ndarray, "d_in d_out"]
    bias: Float64[np.ndarray, " d_out"]

    def apply(self, x: Float[np.ndarray, "n d_in"]) -> Float[np.ndarray, "n d_out"]:
        """Map rows in float32, without normalization."""
        return x @ self.kernel.astype(np.float32) + self.bias.astype(np.float32)


def iterate_blocks(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    rows: Int[np.ndarray, " k"] | None = None,
) -> Iterator[tuple[Float[np.ndarray, "b d_in"], Float[np.ndarray, "b d_out"]]]:
    """Yield the pairs, or those at `rows`, in float32 blocks; only one block of a memory map is in memory."""
    for start in range(0, len(x) if rows is None else len(rows), BLOCK):
        part = slice(start, start + BLOCK) if rows is None else rows[start : start + BLOCK]
        yield np.asarray(x[part], np.float32), np.asarray(y[part], np.float32)


def gram(phi: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "m m"]:
    """`phi^T phi` in float32, on an accelerator if available. On CPUs, NumPy's BLAS takes half the time of JAX."""
    if jax.default_backend() == "cpu":
        return phi.T @ phi
    with jax.default_matmul_precision("highest"):
        return np.asarray(jnp.asarray(phi).T @ jnp.asarray(phi))


def moments(
    x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], rows: Int[np.ndarray, " k"] | None = None
) -> Moments:
    """Compute the moments of row-aligned pairs, or of those at `rows`, block by block."""
    sums = (
        (len(a), *(s.astype(np.float64) for s in (a.sum(0), b.sum(0), gram(a), a.T @ b, gram(b))))
        for a, b in iterate_blocks(x, y, rows)
    )
    return reduce(Moments.plus, (Moments(*block) for block in sums))


def covariance(m: Moments) -> Covariance:
    """Means and centered second moments: `C_ab = E[a b^T] - E[a] E[b]^T`."""
    x, y = m.x / m.n, m.y / m.n
    return Covariance(x, y, m.xx / m.n - np.outer(x, x), m.xy / m.n - np.outer(x, y), m.yy / m.n - np.outer(y, y))


def largest_eigenpairs(c: Float[np.ndarray, "d d"], k: int) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "d k"]]:
    """The k largest eigenvalues of a symmetric matrix in ascending order (at most all), and their eigenvectors."""
    return eigh(c, subset_by_index=(max(0, len(c) - k), len(c) - 1), check_finite=False)
