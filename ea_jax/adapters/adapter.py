"""The adapter: a pytree of parameters and a pure function over them."""

from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ea_jax.adapters.families import build
from ea_jax.adapters.spec import Spec
from ea_jax.embeddings import check_embeddings
from ea_jax.errors import BadInput
from ea_jax.typing import ArrayIn, Params


@partial(jax.jit, static_argnums=0)
def forward(module: nn.Module, params: Params, x: Float[ArrayIn, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
    """Apply a module. It computes in float32; the result has the dtype that params and x promote to."""
    dtype = jnp.result_type(x, *jax.tree.leaves(params))
    return cast(Array, module.apply({"params": params}, x)).astype(dtype)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Adapter:
    """A pytree whose leaves are `params`, and a pure function `(params, x) -> y`.

    A call never reads `self.params`, so `grad`, `vmap` and `jit` see every input.

    Attributes:
        spec: The models, widths and purpose; static and hashable.
        params: A nested dict of arrays.
    """

    spec: Spec = field(metadata={"static": True})
    params: Params

    def __call__(self, params: Params, x: Float[ArrayIn, "*batch d_in"] | None = None) -> Float[Array, "*batch d_out"]:
        """Map source embeddings to target embeddings; unit length if `spec.unit_norm`.

        Products accumulate in float32; the result has the dtype that `params` and `x` promote to. A row with a
        non-finite value gives a non-finite row, and changes no other row.

        Raises:
            BadInput: x is missing, is not an array of floats, or does not have the source model's width.
        """
        if x is None:
            raise BadInput("The call lacks x. Pass the parameters first: `adapt(adapt.params, x)`.")
        check_embeddings(x, self.spec.d_in, self.spec.source)
        return forward(build(self.spec), params, x)

    def warm(self, rows: int = 1) -> None:
        """Compile the program for this number of rows, or read it from the compilation cache."""
        jax.block_until_ready(self(self.params, np.zeros((rows, self.spec.d_in), np.float32)))


def compose(first: Adapter, second: Adapter) -> Adapter:
    """Compose two adapters into one that computes `second(first(x))`. Chains are flattened.

    The result has the source and the encoder fingerprint of the first adapter, and the target and the purpose of the
    second.

    Args:
        first: An adapter for `store`: the second was fitted on native vectors, and only `store` outputs are close to
            them.
        second: An adapter from the target space of the first, for either purpose.

    Raises:
        BadInput: The spaces or widths do not match, or the first adapter is for queries.
    """
    a, b = first.spec, second.spec
    if (a.target, a.d_out) != (b.source, b.d_in):
        raise BadInput(
            f"The first adapter ends in {a.target!r} of width {a.d_out}, but the second starts from {b.source!r} of "
            f"width {b.d_in}. `ea-jax paths` lists the existing routes."
        )
    if a.purpose != "store":
        raise BadInput(
            f"The first adapter, {a.source!r} to {a.target!r}, is for queries: its outputs rank well but are not "
            'close to native vectors, which the second adapter expects. Load it with purpose="store".'
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


def truncate(adapter: Adapter, dim: int) -> Adapter:
    """Keep the first `dim` outputs of an adapter to a Matryoshka model, and normalize them again.

    Raises:
        BadInput: The adapter has fewer outputs, or is an imported network, whose outputs depend on each other.
    """
    spec, params = adapter.spec, adapter.params
    if not 1 <= dim <= spec.d_out:
        raise BadInput(f"dim is {dim}; the adapter has {spec.d_out} outputs, so it must be from 1 to {spec.d_out}.")
    if spec.parts:
        last = f"links_{len(spec.parts) - 1}"
        link = truncate(Adapter(spec.parts[-1], params[last]), dim)
        parts = (*spec.parts[:-1], link.spec)
        return Adapter(replace(spec, d_out=dim, parts=parts), params | {last: link.params})
    if "out" not in params:
        raise BadInput(f"A {spec.family} adapter has no output layer that can be shortened. Omit dim.")
    out = {name: leaf[..., :dim] for name, leaf in params["out"].items()}
    return Adapter(replace(spec, d_out=dim), params | {"out": out})


def _parts(spec: Spec) -> tuple[Spec, ...]:
    return spec.parts or (spec,)


def _links(adapter: Adapter) -> list[Params]:
    """Parameters of each adapter of a chain in order, or of the single adapter."""
    parts = len(adapter.spec.parts)
    return [adapter.params[f"links_{i}"] for i in range(parts)] if parts else [adapter.params]
