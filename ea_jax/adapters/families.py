"""The adapter families: their Flax Linen modules, and one table of facts about each."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import unit
from ea_jax.errors import BadEntry, suggest_names
from ea_jax.typing import Params

_dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
_Dense = partial(nn.Dense, dot_general=_dot)
_LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)


def _product(x: Float[Array, "*batch d"], weights: Float[Array, "a b"], axis: int = 0) -> Float[Array, "*batch k"]:
    """Contract x with one axis of the weights, in the dtype of the weights, with float32 accumulation."""
    return _dot(x.astype(weights.dtype), weights, (((x.ndim - 1,), (axis,)), ((), ())))


class Linear(nn.Module):
    """One affine map, normalized to unit length if `unit_norm`."""

    d_out: int
    unit_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        y = _Dense(self.d_out, name="out")(x)
        return unit(y) if self.unit_norm else y


class Kernel(nn.Module):
    """An affine map of the input and of `rank` kernel features around landmarks on the sphere.

    `y = [x, (phi(x) - centre) M] W + b` with `phi_j(x) = sum_s w_s exp(gamma_s (cos(x, z_j) - 1))`. The landmarks z
    and the projection M (`mix`) may be int8 codes: `scale` normalizes each landmark, and `step` scales each column of
    M. Products with them use their own dtype.
    """

    d_out: int
    unit_norm: bool
    landmarks: int
    rank: int
    bandwidths: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        normal, m = nn.initializers.normal(), self.landmarks
        z = self.param("landmarks", normal, (m, x.shape[-1]))
        scale = self.param("scale", nn.initializers.ones, (m,))
        gamma = self.param("gamma", nn.initializers.ones, (self.bandwidths,))
        weight = self.param("weight", nn.initializers.ones, (self.bandwidths,))
        centre = self.param("centre", nn.initializers.zeros, (m,))
        mix = self.param("mix", normal, (m, self.rank))
        step = self.param("step", nn.initializers.ones, (self.rank,))
        phi = radial(_product(unit(x), z, axis=1), scale, gamma, weight)
        h = _product(phi - jnp.broadcast_to(centre, phi.shape), mix)
        h = h * jnp.broadcast_to(step, h.shape)
        y = _Dense(self.d_out, name="out")(jnp.concatenate([x.astype(jnp.float32), h], axis=-1))
        return unit(y) if self.unit_norm else y


class _Gated(nn.Module):
    """A gated residual block, `x + gamma * W (a * gelu(g))`, where `a` and `g` are the halves of one projection."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        width = x.shape[-1]
        value, gate = jnp.split(_Dense(8 * width, name="proj")(_LayerNorm(name="ln")(x)), 2, axis=-1)
        step = _Dense(width, name="down")(value * nn.gelu(gate, approximate=False))
        return x + step * jnp.broadcast_to(self.param("gamma", nn.initializers.ones, (width,)), step.shape)


class ResMLP(nn.Module):
    """The network of embedding-adapters: layer norms around residual gated blocks. It has one set of weights for both
    purposes.
    """

    d_out: int
    unit_norm: bool
    width: int
    depth: int

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        h = _Dense(self.width, name="in_fc")(_LayerNorm(name="in_ln")(x))
        for block in range(self.depth):
            h = _Gated(name=f"block_{block}")(h)
        y = _LayerNorm(name="out_ln")(_Dense(self.d_out, name="out_fc")(_LayerNorm(name="mid_ln")(h)))
        return unit(y) if self.unit_norm else y


class Chain(nn.Module):
    """The composition of several adapters."""

    links: tuple[nn.Module, ...]

    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        for link in self.links:
            x = cast(Array, link(x))
        return x


@dataclass(frozen=True)
class Family:
    """One adapter family. A new family is one more row of `FAMILIES` and a file in `ea_jax/fitting` that fits it.

    Attributes:
        module: Builds the Flax module from `d_out`, `unit_norm` and the sizes. The module of a family that `fit` fits
            ends in a dense layer named `out`, the only one that differs between purposes.
        description: One line for model cards and error messages, without the sizes.
        sizes: Names of the widths and counts that the module takes.
        int8_leaves: Parameters beside the output layer that entries store as int8 codes.
        fit_features: Function of `ea_jax.fitting` that computes the features of the pairs, as `module:function`; None
            for families that are imported and never fitted here.
    """

    module: Callable[..., nn.Module]
    description: str
    sizes: tuple[str, ...] = ()
    int8_leaves: frozenset[str] = frozenset()
    fit_features: str | None = None

    def describe(self, sizes: Mapping[str, int]) -> str:
        """The description with the sizes of one adapter."""
        counts = ", ".join(f"{name} {sizes[name]:,}" for name in self.sizes)
        return f"{self.description} ({counts})" if counts else self.description


FAMILIES = {
    "linear": Family(Linear, "One affine map", fit_features="features:linear_features"),
    "kernel": Family(
        Kernel,
        "One affine map of the input and of kernel principal components around landmarks (Nystrom)",
        sizes=("landmarks", "rank", "bandwidths"),
        int8_leaves=frozenset({"landmarks", "mix"}),
        fit_features="kernel_features:kernel_features",
    ),
    "resmlp": Family(ResMLP, "The residual network of embedding-adapters", sizes=("width", "depth")),
}


def find_family(name: str) -> Family:
    """The family of a name.

    Raises:
        BadEntry: No family has this name; the message suggests the nearest one.
    """
    if name not in FAMILIES:
        raise BadEntry(f"No adapter family is named {name!r}. {suggest_names(name, FAMILIES)}")
    return FAMILIES[name]


def build(spec: Spec) -> nn.Module:
    """Build the module that computes an adapter. It ignores model names, so equal shapes share one compilation.

    Raises:
        BadEntry: No family has this name, or the spec names other sizes than the family has.
    """
    if spec.parts:
        return Chain(tuple(build(part) for part in spec.parts))
    family, sizes = find_family(spec.family), dict(spec.sizes)
    if set(sizes) != set(family.sizes):
        expected, actual = (", ".join(sorted(names)) or "none" for names in (family.sizes, sizes))
        raise BadEntry(f"Family {spec.family!r}: its sizes are {expected}, not {actual}. Fetch the adapter again.")
    return family.module(spec.d_out, spec.unit_norm, **sizes)


def abstract_params(spec: Spec) -> Params:
    """Shapes and dtypes of the parameters of a spec, without allocating them."""
    x = jax.ShapeDtypeStruct((1, spec.d_in), jnp.float32)
    return jax.eval_shape(build(spec).init, jax.random.key(0), x)["params"]


def radial(
    cosine: Float[Array, "*batch m"], scale: Float[Array, " m"], gamma: Float[Array, " s"], weight: Float[Array, " s"]
) -> Float[Array, "*batch m"]:
    """Evaluate a sum of radial functions on the sphere, `phi = sum_s w_s exp(gamma_s (c - 1))`.

    Args:
        cosine: Inner products of unit rows with the unscaled landmarks.
        scale: Inverse length of each landmark, `1 / |z_j|`.
        gamma: Inverse bandwidths: `exp(-gamma |x - z|^2 / 2)` for unit rows; larger is narrower.
        weight: Weight of each bandwidth.

    Source: Schoenberg 1942 (non-negative sums of these functions are positive definite on the sphere).
    """
    offset = cosine * jnp.broadcast_to(scale, cosine.shape) - 1
    return sum((w * jnp.exp(g * offset) for g, w in zip(gamma, weight, strict=True)), jnp.zeros_like(offset))
