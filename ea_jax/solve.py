"""Closed-form fits of y ~ x W + b from moments, which add up over blocks, files and folds.

Products are taken in float32 on whatever device JAX has, block by block, and summed in float64 on the host, where the
small systems (the widths of the models) are solved. The number of pairs is not bounded by memory.
"""

from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int
from scipy.linalg import eigh
from scipy.special import expit

from ea_jax.arrays import ArrayIn
from ea_jax.ops import unit

BLOCK = 8192
NEWTON_STEPS, LONGEST_STEP = 50, 10.0


class Moments(NamedTuple):
    """Sums over n pairs: all that a linear fit needs of them."""

    n: float
    x: Float64[np.ndarray, " d_in"]
    y: Float64[np.ndarray, " d_out"]
    xx: Float64[np.ndarray, "d_in d_in"]
    xy: Float64[np.ndarray, "d_in d_out"]
    yy: Float64[np.ndarray, "d_out d_out"]

    def plus(self, other: "Moments") -> "Moments":
        """Moments of both sets of pairs together."""
        return jax.tree.map(np.add, self, other)

    def minus(self, other: "Moments") -> "Moments":
        """Moments of these pairs without some of them."""
        return jax.tree.map(np.subtract, self, other)


class Covariance(NamedTuple):
    """Means and centred second moments, per pair."""

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
        """The map of rows, in float32 and not scaled to length one."""
        return x @ self.kernel.astype(np.float32) + self.bias.astype(np.float32)


def blocks(
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    rows: Int[np.ndarray, " k"] | None = None,
    size: int | None = None,
) -> Iterator[tuple[Float[np.ndarray, "b d_in"], Float[np.ndarray, "b d_out"]]]:
    """Pairs, or those at `rows`, a block at a time in float32: of arrays in files, no more is in memory."""
    n = len(x) if rows is None else len(rows)
    size = size or BLOCK
    for start in range(0, n, size):
        part = slice(start, start + size) if rows is None else rows[start : start + size]
        yield np.asarray(x[part], np.float32), np.asarray(y[part], np.float32)


def gram(phi: Float[np.ndarray, "b m"]) -> Float[np.ndarray, "m m"]:
    """`phi^T phi` in float32: on an accelerator where there is one, else by the host's BLAS, which takes half of it."""
    if jax.default_backend() == "cpu":
        return phi.T @ phi
    with jax.default_matmul_precision("highest"):
        return np.asarray(jnp.asarray(phi).T @ jnp.asarray(phi))


def moments(
    x: Float[ArrayIn, "n d_in"], y: Float[ArrayIn, "n d_out"], rows: Int[np.ndarray, " k"] | None = None
) -> Moments:
    """Moments of row-aligned pairs, or of those at `rows`, streamed in blocks."""
    found = (
        (len(a), *(s.astype(np.float64) for s in (a.sum(0), b.sum(0), gram(a), a.T @ b, gram(b))))
        for a, b in blocks(x, y, rows)
    )
    return reduce(Moments.plus, (Moments(*sums) for sums in found))


def covariance(m: Moments) -> Covariance:
    """Means and centred second moments: `C_ab = E[a b^T] - E[a] E[b]^T`."""
    x, y = m.x / m.n, m.y / m.n
    return Covariance(x, y, m.xx / m.n - np.outer(x, x), m.xy / m.n - np.outer(x, y), m.yy / m.n - np.outer(y, y))


def _centred(kernel: Float64[np.ndarray, "d_in d_out"], c: Covariance) -> Affine:
    return Affine(kernel, c.y_mean - c.x_mean @ kernel)


def mean_only(c: Covariance) -> Affine:
    """The constant map to the mean target: what any fit has to beat."""
    return _centred(np.zeros_like(c.xy), c)


def ridge(c: Covariance, penalty: float) -> Affine:
    """Ridge regression on centred pairs, `W = (C_xx + penalty * t I)^-1 C_xy` with t the mean eigenvalue of C_xx.

    Source: Hoerl and Kennard 1970; the penalty is relative, so that it means the same at every scale.
    """
    return _centred(_regularised(c, penalty, c.xy), c)


def _regularised(c: Covariance, penalty: float, right: Float[np.ndarray, "d_in k"]) -> Float64[np.ndarray, "d_in k"]:
    """`(C_xx + penalty * t I)^-1 R`, by LU: about a far mean, single precision can leave C_xx indefinite."""
    t = np.trace(c.xx) / len(c.xx)
    return np.linalg.solve(c.xx + penalty * t * np.eye(len(c.xx)), right)


class Hat(NamedTuple):
    """Entries of a linear smoother's hat matrix between rows that it was fitted on, `H_ij = left_i . right_j`."""

    left: Float[np.ndarray, "q p"]
    right: Float[np.ndarray, "q p"]


def ridge_hat(c: Covariance, penalty: float, n: int, x: Float[np.ndarray, "q d_in"]) -> Hat:
    """Of a ridge fit of n pairs, `H_ij = 1/n + x~_i^T (C_xx + penalty * t I)^-1 x~_j / n`, x~ = x - mean.

    Source: Hoaglin and Welsch 1978.
    """
    centred = x - c.x_mean
    pull = _regularised(c, penalty, centred.T).T / n
    one = np.ones((len(x), 1))
    return Hat(np.concatenate([one / n, centred], axis=1), np.concatenate([one, pull], axis=1))


def left_out(
    outputs: Float[np.ndarray, "q d_out"], y: Float[np.ndarray, "q d_out"], hat: Hat, sizes: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "b d_out"]:
    """What a fit without some of its rows makes of the first of them, `y_1 - ((I - H)^-1 (y - outputs))_1`.

    Args:
        outputs: The fit's own, for the rows of one block after the other.
        y: Their targets.
        hat: Of the same rows.
        sizes: How many rows each block has.

    Source: Hastie, Tibshirani and Friedman 2009, section 7.10, for any linear smoother and one row; Hoaglin and Welsch.
    """
    starts = np.cumsum(sizes) - sizes
    residual = y - outputs
    lone = 1 - np.minimum(np.sum(hat.left[starts] * hat.right[starts], axis=1), 1 - 1e-3)
    found = y[starts] - residual[starts] / lone[:, None]
    for block in np.flatnonzero(sizes > 1):
        rows = slice(starts[block], starts[block] + sizes[block])
        system = np.eye(sizes[block]) - hat.left[rows] @ hat.right[rows].T
        found[block] = y[starts[block]] - np.linalg.solve(system, residual[rows])[0]
    return found


def logistic(
    z: Float[np.ndarray, "n p"], label: Bool[np.ndarray, " n"], penalty: float
) -> tuple[Float64[np.ndarray, " p"], float]:
    """Weights and bias of a logistic regression, `P = 1 / (1 + exp(-z w - b))`, by Newton's method.

    Args:
        z: One row an observation.
        label: What it came to.
        penalty: Of squared weights of columns of variance one, beside the mean log loss; the bias is free.

    Source: Hastie, Tibshirani and Friedman 2009, section 4.4 (iteratively reweighted least squares).
    """
    mean, deviation = z.mean(axis=0), z.std(axis=0) + 1e-9
    design = np.concatenate([(z - mean) / deviation, np.ones((len(z), 1))], axis=1).astype(np.float64)
    ridge_ = penalty * np.diag(np.r_[np.ones(z.shape[1]), 1e-6])
    weight = np.zeros(design.shape[1])
    for _ in range(NEWTON_STEPS):
        chance = expit(design @ weight)
        slope = design.T @ (chance - label) / len(z) + ridge_ @ weight
        spread = np.maximum(chance * (1 - chance), 1e-6)
        step = np.linalg.solve(design.T @ (design * spread[:, None]) / len(z) + ridge_, slope)
        weight -= step * min(1, LONGEST_STEP / np.linalg.norm(step))
        if np.abs(step).max() < 1e-6:
            break
    plain = weight[:-1] / deviation
    return plain, float(weight[-1] - mean @ plain)


def largest(c: Float64[np.ndarray, "d d"], k: int) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, "d k"]]:
    """The k largest eigenvalues of a symmetric matrix in rising order, or all of them, and their eigenvectors."""
    d = len(c)
    return eigh(c, subset_by_index=(max(0, d - k), d - 1), check_finite=False) if k else (np.zeros(0), np.zeros((d, 0)))


def reduced_rank(c: Covariance, penalty: float, rank: int) -> Affine:
    """Reduced-rank ridge regression: the ridge map projected on the leading directions of its own fitted values.

    Source: Izenman 1975; Mukherjee and Zhu 2011, for the penalty.
    """
    kernel = ridge(c, penalty).kernel
    _, leading = largest(kernel.T @ c.xx @ kernel, rank)
    return _centred(kernel @ leading @ leading.T, c)


def procrustes(c: Covariance, scale: str) -> Affine:
    """Orthogonal Procrustes on centred pairs, `W = s U V^T` with `U S V^T = C_xy`.

    Args:
        scale: `least-squares` for `s = tr(S) / tr(C_xx)`, or `target-length` for `s = sqrt(tr(C_yy) / tr(C_xx))`,
            which gives the centred part the length that native vectors have.

    Source: Schönemann 1966; Gower and Dijksterhuis 2004, for unequal widths.
    """
    u, s, vt = np.linalg.svd(c.xy, full_matrices=False)
    factor = {"least-squares": s.sum() / np.trace(c.xx), "target-length": np.sqrt(np.trace(c.yy) / np.trace(c.xx))}
    return _centred(factor[scale] * (u @ vt), c)


class Spectrum(NamedTuple):
    """Eigenvalues of the target covariance, the mean one taken as 1, and its eigenvectors in columns."""

    values: Float64[np.ndarray, " d_out"]
    vectors: Float64[np.ndarray, "d_out d_out"]


def target_spectrum(c: Covariance) -> Spectrum:
    """Eigendecomposition of `C_yy / t`, with t its mean eigenvalue."""
    return Spectrum(*np.linalg.eigh(c.yy * (len(c.yy) / np.trace(c.yy))))


def whitening(s: Spectrum, exponent: float, shrinkage: float = 0.1) -> Float64[np.ndarray, "d_out d_out"]:
    """`(C_yy / t + shrinkage I)^-exponent`, with t the mean eigenvalue of C_yy: the identity for exponent 0."""
    return (s.vectors * (np.maximum(s.values, 0) + shrinkage) ** -exponent) @ s.vectors.T


def whitened(a: Affine, c: Covariance, s: Spectrum, exponent: float) -> Affine:
    """The map with its centred output passed through a partial whitening of the target covariance.

    `y = mu + (x W + b - mu) (C_yy / t + .1 I)^-exponent`, with t the mean eigenvalue of C_yy. Regression shrinks
    towards the leading directions of the target, which makes hubs: rows near to every query. Whitening undoes that.

    Source: Radovanović et al. 2010 on hubs; Mu and Viswanath 2018, arXiv:1702.01417, on leading directions.
    """
    flat = whitening(s, exponent)
    return Affine(a.kernel @ flat, c.y_mean + (a.bias - c.y_mean) @ flat)


def stretched(a: Affine, c: Covariance, length: float) -> Affine:
    """The map with its centred output at `length` times the root mean square length of centred native vectors.

    A longer centred part weighs less what all outputs share, the mean, which favours the rows near to it.
    """
    ours = np.sum(a.kernel * (c.xx @ a.kernel))
    factor = length * np.sqrt(np.trace(c.yy) / ours)
    return Affine(factor * a.kernel, c.y_mean + factor * (a.bias - c.y_mean))


def inverse_root(c: Float64[np.ndarray, "d d"], shrinkage: float) -> Float64[np.ndarray, "d d"]:
    """`W` such that `W W^T = (C + shrinkage * t I)^-1`, with t the mean eigenvalue of C."""
    t = np.trace(c) / len(c)
    eigenvalues, vectors = np.linalg.eigh(c)
    return vectors / np.sqrt(np.maximum(eigenvalues, 0) + shrinkage * t)


@jax.jit
def _lloyd(x: Float[Array, "n d"], centres: Float[Array, "m d"]) -> Float[Array, "m d"]:
    """One round of spherical k-means; a centre that no row is nearest to stays where it is."""
    label = jax.lax.map(lambda row: jnp.argmax(centres @ row), x, batch_size=1024)
    total = jax.ops.segment_sum(x, label, num_segments=len(centres))
    return unit(jnp.where(jnp.any(total != 0, axis=-1, keepdims=True), total, centres))


def cluster_centres(x: Float[ArrayIn, "n d"], m: int, *, seed: int = 0, rounds: int = 20) -> Float[Array, "m d"]:
    """Unit-length centres of m clusters of unit rows (all rows, where there are no more than m).

    Source: Dhillon and Modha 2001, spherical k-means, from a random sample of the rows.
    """
    chosen = np.random.default_rng(seed).permutation(len(x))[:m]
    centres = unit(jnp.asarray(x[np.sort(chosen)]))
    return reduce(lambda c, _: _lloyd(jnp.asarray(x), c), range(rounds), centres)
