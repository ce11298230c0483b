"""Layers that the architectures share. Shapes: b texts, t tokens, h heads, g key heads, c width of a head, d width."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

ACTIVATIONS = {
    "gelu": partial(nn.gelu, approximate=False),
    "gelu_new": partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(nn.gelu, approximate=True),
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
    "identity": lambda x: x,
}
MASKED = -1e30  # attention logit of a position that gets no weight


class Dense(nn.Module):
    """Computes `x W + b`, with products in the dtype of W and sums in float32."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features))
        rows = x.reshape(-1, x.shape[-1]).astype(kernel.dtype)
        y = jnp.dot(rows, kernel, preferred_element_type=jnp.float32).reshape(*x.shape[:-1], self.features)
        if not self.use_bias:
            return y
        return y + jnp.broadcast_to(self.param("bias", nn.initializers.zeros, (self.features,)), y.shape)


def apply_layer(parent: nn.Module, name: str, layer: nn.Module, *inputs: Array) -> Any:
    """Apply a layer whose parameters the parent has under `name`.

    Linen traces every submodule anew. Here equal layers of a model share one trace for each shape, and one function of
    the lowered program, which XLA inlines.

    Args:
        parent: The module that calls this in its compact method.
        name: Name of the layer's parameters.
        layer: The layer, created with `parent=None`.
        inputs: Arguments of its call.
    """
    if parent.has_variable("params", name):
        params = parent.get_variable("params", name)
    else:
        params = parent.param(name, lambda key: _init_layer(layer, key, *inputs))
    return _apply_layer(layer, params, *inputs)


@partial(jax.jit, static_argnums=0)
def _init_layer(layer: nn.Module, key: Array, *inputs: Array) -> Any:
    return layer.init(key, *inputs)["params"]


@partial(jax.jit, static_argnums=0)
def _apply_layer(layer: nn.Module, params: Any, *inputs: Array) -> Any:
    return layer.apply({"params": params}, *inputs)


def positions(mask: Int[Array, "b t"]) -> Int[Array, "b t"]:
    """Position of each token in its text, from 0, whichever side the padding is on; 0 on leading padding."""
    return jnp.maximum(jnp.cumsum(mask, axis=-1) - 1, 0)


def padding_bias(mask: Int[Array, "b t"]) -> Float[Array, "b 1 1 t"]:
    """Additive bias of attention logits: 0 on tokens, and so low on padding that it gets no weight."""
    return jnp.where(mask[:, None, None, :] > 0, 0.0, MASKED)


def attend(
    q: Float[Array, "b t h c"], k: Float[Array, "b t g c"], v: Float[Array, "b t g c"], bias: Float[Array, "b hh tt t"]
) -> Float[Array, "b t hc"]:
    """Scaled dot-product attention with grouped keys, `softmax(q k^T / sqrt(c) + bias) v`, heads concatenated.

    Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245, for grouped keys.
    """
    b, t, heads, width = q.shape
    if k.shape[2] != heads:
        k, v = (jnp.repeat(a, heads // a.shape[2], axis=2) for a in (k, v))
    logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) * width**-0.5 + bias
    mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(logits, axis=-1), v)
    return mixed.reshape(b, t, heads * width)


def rotate(x: Float[Array, "b t h c"], position: Int[Array, "b t"], theta: float) -> Float[Array, "b t h c"]:
    """Rotary position embedding, in the half-split layout of transformers. Source: Su et al. 2021, arXiv:2104.09864."""
    half = x.shape[-1] // 2
    frequency = 1.0 / theta ** (jnp.arange(half, dtype=jnp.float32) / half)
    angle = position[..., None, None].astype(jnp.float32) * frequency[None, None, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    left, right = x[..., :half], x[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
