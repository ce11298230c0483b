"""Adapter families as Flax Linen modules. Each ends in a layer named `out`: purposes differ in that layer alone."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import Params
from ea_jax.errors import BadEntry, nearest
from ea_jax.ops import unit
from ea_jax.spec import Spec

_dot = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)


class Linear(nn.Module):
    """One affine map, then unit length where the target's embeddings have it."""

    d_out: int
    unit_norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        y = nn.Dense(self.d_out, name="out", dot_general=_dot)(x)
        return unit(y) if self.unit_norm else y


FAMILIES = {"linear": Linear}


def build(spec: Spec) -> nn.Module:
    """The module that computes an adapter; it does not depend on names, so equal shapes share one compilation.

    Raises:
        BadEntry: No family has this name.
    """
    if spec.family not in FAMILIES:
        raise BadEntry(f"No adapter family is named {spec.family!r}. {nearest(spec.family, FAMILIES)}")
    return FAMILIES[spec.family](spec.d_out, spec.unit_norm)


def abstract_params(spec: Spec) -> Params:
    """Shapes and dtypes of the parameters that a spec asks for, without making any."""
    x = jax.ShapeDtypeStruct((1, spec.d_in), jnp.float32)
    return jax.eval_shape(build(spec).init, jax.random.key(0), x)["params"]
