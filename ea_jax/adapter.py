"""The adapter: a pytree of parameters and a pure function over them."""

from dataclasses import dataclass, field
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.arrays import ArrayIn, Params
from ea_jax.models import build
from ea_jax.ops import check_embeddings
from ea_jax.spec import Spec


@partial(jax.jit, static_argnums=0)
def _forward(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
    """In float32 inside; the result has the dtype that params and x promote to."""
    dtype = jnp.result_type(x, *jax.tree.leaves(params))
    return cast(Array, module.apply({"params": params}, x)).astype(dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Adapter:
    """A pytree whose leaves are `params`, and a pure function `(params, x) -> y`.

    A call never reads `self.params`, so `grad`, `vmap` and `jit` see every input.

    Attributes:
        spec: What it is: models, widths, purpose; static and hashable.
        params: Its parameters, a nested dict of arrays.
    """

    spec: Spec = field(metadata={"static": True})
    params: Params

    def __call__(self, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        """Map source embeddings to target embeddings; unit length if `spec.unit_norm`.

        Products accumulate in float32; the result has the dtype that `params` and `x` promote to.

        Raises:
            BadInput: x is not of floats, or its width is not the source model's.
        """
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return _forward(build(self.spec), params, x)
