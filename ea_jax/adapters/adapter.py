"""The adapter: a pytree of parameters and a pure function over them."""

from dataclasses import dataclass, field
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ea_jax.adapters.families import build
from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import check_embeddings
from ea_jax.errors import BadInput
from ea_jax.typing import ArrayIn, Params


@partial(jax.jit, static_argnums=0)
def forward(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
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
        return forward(build(self.spec), params, x)


def compose(first: Adapter, second: Adapter) -> Adapter:
    """One adapter that does what two do in turn: `second(first(x))`, with the parameters of both in one tree.

    It is fitted on the encoder that the first was, and serves the purpose of the second. Chains become one flat chain.

    Args:
        first: For `store`: what comes out has to be close to native vectors, which is what the second was fitted on.
        second: From the first one's target space; for either purpose.

    Raises:
        BadInput: The second starts from another space or width than the first ends in, or the first is for queries.
    """
    a, b = first.spec, second.spec
    if (a.target, a.d_out) != (b.source, b.d_in):
        raise BadInput(
            f"The first adapter ends in {a.target!r} of width {a.d_out}, but the second starts from {b.source!r} of "
            f"width {b.d_in}. `ea-jax paths` lists the routes there are."
        )
    if a.purpose != "store":
        raise BadInput(
            f"The first adapter, {a.source!r} to {a.target!r}, is for queries: its vectors rank well and are not close "
            'to native ones, so no other adapter can read them. Load it with purpose="store".'
        )
    spec = Spec(
        family="chain",
        source=a.source,
        target=b.target,
        d_in=a.d_in,
        d_out=b.d_out,
        unit_norm=b.unit_norm,
        purpose=b.purpose,
        fingerprint=a.fingerprint,
        parts=_parts(a) + _parts(b),
    )
    links = _links(first) + _links(second)
    return Adapter(spec, {f"links_{i}": params for i, params in enumerate(links)})


def _parts(spec: Spec) -> tuple[Spec, ...]:
    return spec.parts or (spec,)


def _links(adapter: Adapter) -> list[Params]:
    """Parameters of each link of a chain in order, or those of the adapter alone."""
    parts = len(adapter.spec.parts)
    return [adapter.params[f"links_{i}"] for i in range(parts)] if parts else [adapter.params]
