"""Nystrom kernel ridge regression on the sphere: a radial expansion around landmarks, on top of an affine map.

Shapes: n pairs, m landmarks, r features that the m radial functions are mixed down to. Sums over pairs are taken block
by block, so their number is not bounded by memory; systems of m equations are solved in float64 on the host.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64, Int, Int8
from scipy.linalg import cho_solve, cholesky, solve_triangular

from ea_jax.arrays import ArrayIn, Params
from ea_jax.ops import radial, unit
from ea_jax.packing import Grid, nearest_grid, rounded
from ea_jax.solve import Affine, Covariance, Hat, Moments, blocks, covariance, gram, ridge_hat

JITTER = 1e-5
SAMPLE = 8192
PRECISE = 2048  # rows whose products are summed in single precision


@dataclass(frozen=True)
class Radial:
    """Radial functions around landmarks: all of a kernel map but its weights.

    Attributes:
        landmarks: Directions, whole numbers of eight bits.
        scale: What gives them length one.
        gamma: Bandwidth; larger is narrower.
        centre: Mean of each function, taken off it.
    """

    landmarks: Int8[np.ndarray, "m d_in"]
    scale: Float32[np.ndarray, " m"]
    gamma: float
    centre: Float32[np.ndarray, " m"]

    @classmethod
    def around(cls, centres: Float[ArrayIn, "m d_in"], gamma: float, x: Float[ArrayIn, "n d_in"]) -> "Radial":
        """Functions around centres, which are rounded first: what is fitted is what will be stored."""
        directions = nearest_grid(np.asarray(centres), 127).values
        scale = (1 / np.linalg.norm(directions.astype(np.float32), axis=1)).astype(np.float32)
        bare = cls(directions, scale, gamma, np.zeros(len(scale), np.float32))
        sample = np.linspace(0, len(x) - 1, min(SAMPLE, len(x))).astype(int)
        return replace(bare, centre=np.mean(bare(np.asarray(x[sample])), axis=0, dtype=np.float64).astype(np.float32))

    def __call__(self, x: Float[ArrayIn, "n d_in"]) -> Float[np.ndarray, "n m"]:
        """Centred values of the functions, a row an input."""
        return np.asarray(_values(jnp.asarray(x), self.params()))

    def params(self) -> Params:
        """The part of an adapter's parameters that holds them."""
        return {
            "landmarks": self.landmarks,
            "scale": self.scale,
            "gamma": np.full(1, self.gamma, np.float32),
            "weight": np.ones(1, np.float32),
            "centre": self.centre,
        }

    @cached_property
    def among(self) -> Float64[np.ndarray, "m m"]:
        """The kernel between the landmarks, not centred: the norm of the space that the map lives in."""
        z = self.landmarks * self.scale[:, None].astype(np.float64)
        return np.exp(self.gamma * (z @ z.T - 1))


@jax.jit
def _values(x: Float[Array, "n d_in"], p: Params) -> Float[Array, "n m"]:
    with jax.default_matmul_precision("highest"):
        phi = radial(unit(x) @ p["landmarks"].astype(jnp.float32).T, p["scale"], p["gamma"], p["weight"])
    return phi - p["centre"][None]


class Sums(NamedTuple):
    """Sums over pairs of the radial functions phi, with the inputs and targets beside them; they add up."""

    phi: Float64[np.ndarray, " m"]
    gram: Float64[np.ndarray, "m m"]
    cross_x: Float64[np.ndarray, "m d_in"]
    cross_y: Float64[np.ndarray, "m d_out"]

    def plus(self, other: "Sums", sign: int = 1) -> "Sums":
        """Sums over both sets of pairs; with sign -1, over the first without the second."""
        return Sums(*(a + sign * b for a, b in zip(self, other, strict=True)))


def sums(
    radial_: Radial,
    x: Float[ArrayIn, "n d_in"],
    y: Float[ArrayIn, "n d_out"],
    rows: Int[np.ndarray, " k"] | None = None,
) -> Sums:
    """Sums over the pairs, or over those at `rows`, streamed in blocks."""

    m, d_in, d_out = len(radial_.scale), x.shape[1], y.shape[1]
    found = Sums(*(np.zeros(shape) for shape in ((m,), (m, m), (m, d_in), (m, d_out))))
    for part_x, part_y in blocks(x, y, rows, PRECISE):
        phi = radial_(part_x)
        for total, part in zip(found, (phi.sum(0), gram(phi), phi.T @ part_x, phi.T @ part_y), strict=True):
            total += part
    return found


def weights(
    s: Sums, norm: Float64[np.ndarray, "m m"], affine: Affine, penalty: float
) -> Float64[np.ndarray, "m d_out"]:
    """Weights of the radial functions, fitted to what an affine map leaves over.

    `W = (Phi^T Phi + penalty * K_zz)^-1 Phi^T (Y - X A - b)`, K_zz the kernel between landmarks.

    Source: Williams and Seeger 2001 (Nystrom); Rudi et al. 2015, arXiv:1507.04717.
    """
    return cho_solve((_factor(s, norm, penalty), True), _left_over(s, affine), check_finite=False)


def corrections(
    s: Sums,
    norm: Float64[np.ndarray, "m m"],
    affine: Affine,
    penalties: Sequence[float],
    phi: Float32[np.ndarray, "q m"],
) -> Iterator[Float64[np.ndarray, "q d_out"]]:
    """What the weights for each penalty add to an affine map's outputs, `phi W`.

    Where rows are fewer than outputs, they take the place of these in the system, which is then solved in less time.
    """
    left = _left_over(s, affine)
    few = len(phi) < left.shape[1]
    for penalty in penalties:
        factor = _factor(s, norm, penalty), True
        if few:
            yield cho_solve(factor, phi.T, check_finite=False).T @ left
        else:
            yield phi @ cho_solve(factor, left, check_finite=False)


def _left_over(s: Sums, affine: Affine) -> Float64[np.ndarray, "m d_out"]:
    """`Phi^T (Y - X A - b)`."""
    return s.cross_y - s.cross_x @ affine.kernel - np.outer(s.phi, affine.bias)


def _factor(s: Sums, norm: Float64[np.ndarray, "m m"], penalty: float) -> Float64[np.ndarray, "m m"]:
    """Lower Cholesky factor of the system, whose diagonal is raised above what single precision left in the sums."""
    system = s.gram + penalty * norm
    system[np.diag_indices_from(system)] += JITTER * np.trace(s.gram) / len(norm)
    return cholesky(system, lower=True, overwrite_a=True, check_finite=False)


def hat_of(
    radial_: Radial, s: Sums, m: Moments, base: float, penalty: float
) -> Callable[[Float[np.ndarray, "q d_in"]], Hat]:
    """The hat matrix between fitted rows of both steps, ridge and then radial functions on what it leaves over.

    `H = R + K - K R`, with `R = 1/n + X~ (C_xx + base * t I)^-1 X~^T / n` of ridge and
    `K = Phi (Phi^T Phi + penalty * K_zz)^-1 Phi^T`: the radial functions give back a part of what a row pulled at the
    affine map.

    Args:
        radial_: The functions.
        s: Their sums over all pairs.
        m: Moments of all pairs.
        base: Penalty of the ridge.
        penalty: Of the weights.
    """
    c, n = covariance(m), int(m.n)
    low = _factor(s, radial_.among, penalty)
    pulled = np.column_stack([s.phi / n, s.cross_x - np.outer(s.phi, c.x_mean)])
    back = cho_solve((low, True), pulled, check_finite=False).astype(np.float32)
    low = low.astype(np.float32)

    def hat(x: Float[np.ndarray, "q d_in"]) -> Hat:
        phi, ridge_ = radial_(x), ridge_hat(c, base, n, x)
        root = solve_triangular(low, phi.T, lower=True, check_finite=False).T
        left, right = ridge_.left - phi @ back, ridge_.right
        return Hat(*(np.concatenate([side, root], axis=1, dtype=np.float32) for side in (left, right)))

    return hat


class KernelMap(NamedTuple):
    """Features of the kernel family: the input, and the radial functions mixed down to r numbers.

    Attributes:
        radial: The functions.
        mix: Their weights in each feature, on a grid.
    """

    radial: Radial
    mix: Grid

    def __call__(self, x: Float[ArrayIn, "n d_in"]) -> Float32[np.ndarray, "n k"]:
        """Features of inputs, `[x, phi(x) M]`."""
        parts = [
            np.concatenate([a, self.radial(a) @ self.mix.values.astype(np.float32) * self.mix.scale[None]], axis=1)
            for a, _ in blocks(x, x)
        ]
        return np.concatenate(parts)

    def covariance(self, s: Sums, m: Moments) -> Covariance:
        """Covariance of features and targets, from the sums that the weights were fitted to."""
        mix = self.mix.values * self.mix.scale[None].astype(np.float64)
        side = mix.T @ s.cross_x
        xx = np.block([[m.xx, side.T], [side, mix.T @ s.gram @ mix]])
        xy = np.concatenate([m.xy, mix.T @ s.cross_y])
        return covariance(Moments(m.n, np.concatenate([m.x, mix.T @ s.phi]), m.y, xx, xy, m.yy))

    def sizes(self) -> dict[str, int]:
        """What the family needs to know of its shapes."""
        return {"landmarks": len(self.mix.values), "rank": self.mix.values.shape[1], "bandwidths": 1}

    def params(self) -> Params:
        """The parameters before the last layer, as they are stored."""
        return {**self.radial.params(), "mix": self.mix.values, "step": self.mix.scale}


def mixed(
    radial_: Radial,
    w: Float64[np.ndarray, "m d_out"],
    s: Sums,
    metric: Float64[np.ndarray, "d_out d_out"],
    rank: int,
    bits: int,
) -> tuple[KernelMap, Float64[np.ndarray, "r d_out"]]:
    """The r features that keep most of what the weights give on the pairs, rounded, and how they make it up.

    The best rank-r approximation of `Phi W` in the inner product of `metric`, turned at random so that all features
    vary alike, then whole numbers for the mix, rounded so that rows make up for each other's errors, then the
    least-squares expansion of `Phi W` in the rounded features.

    Source: Izenman 1975 (reduced rank); Chee et al. 2023, arXiv:2307.13304 (turning); Frantar et al. 2022,
    arXiv:2210.17323 (rounding).
    """
    through = s.gram @ w
    turn = np.linalg.qr(np.random.default_rng(rank).standard_normal((rank, rank)))[0]
    project = metric @ _leading(w.T @ through, metric, rank) @ turn
    grid = rounded(w @ project, s.gram, bits)
    features = grid.values * grid.scale[None].astype(np.float64)
    within = features.T @ s.gram @ features
    floor = JITTER * np.trace(within) / len(within) * np.eye(len(within))
    return KernelMap(radial_, grid), np.linalg.solve(within + floor, features.T @ through)


def mixed_down(
    outputs: Float[np.ndarray, "n d_out"], metric: Float64[np.ndarray, "d_out d_out"], rank: int
) -> Float64[np.ndarray, "n d_out"]:
    """What mixing down to a rank leaves of outputs for rows left out, by axes of their own.

    The axes of `mixed` were chosen to keep what the weights give on the pairs, and so know the pairs.
    """
    axes = _leading(outputs.T @ outputs, metric, rank)
    return outputs @ metric @ axes @ np.linalg.solve(metric, axes).T


def _leading(
    second: Float[np.ndarray, "d_out d_out"], metric: Float64[np.ndarray, "d_out d_out"], rank: int
) -> Float64[np.ndarray, "d_out r"]:
    """Axes along which outputs of these second moments vary most in the metric."""
    return np.linalg.eigh(metric @ second @ metric)[1][:, ::-1][:, :rank]
