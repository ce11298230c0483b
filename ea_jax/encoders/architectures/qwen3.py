"""Qwen3 as an encoder: causal attention with grouped queries and rotary positions.

Source: Yang et al. 2025, arXiv:2505.09388.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.encoders.architectures.layers import (
    ACTIVATIONS,
    MASKED,
    Dense,
    apply_layer,
    attend,
    padding_bias,
    positions,
    rotate,
)
from ea_jax.encoders.architectures.weights import WeightMap, dense_names, norm_names, read_config

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "eps": "rms_norm_eps",
    "max_tokens": "max_position_embeddings",
}


@dataclass(frozen=True)
class Qwen3Config:
    """Sizes and settings."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    heads: int
    key_heads: int
    head_dim: int
    eps: float
    max_tokens: int
    theta: float
    act: str
    attention_bias: bool
    pad_id: int = 0


def qwen3_config(config: Mapping[str, Any]) -> Qwen3Config:
    """Read the config.json of a Qwen3, as transformers 4 or 5 writes it."""
    supported = {"hidden_act": tuple(ACTIVATIONS), "use_sliding_window": (False,), "rope_scaling": (None,)}
    sizes = read_config("Qwen3", config, SIZES, supported)
    rope = config.get("rope_parameters") or {}
    read_config("Qwen3", rope, {}, {"rope_type": ("default",)})
    return Qwen3Config(
        **sizes,
        theta=rope.get("rope_theta") or config.get("rope_theta", 10_000.0),
        act=config.get("hidden_act", "silu"),
        attention_bias=config.get("attention_bias", False),
        pad_id=config.get("pad_token_id") or 0,
    )


class Layer(nn.Module):
    """Attention and gated feed-forward, each on a normalized input; queries and keys are normalized by head."""

    config: Qwen3Config

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "b h tt t"], position: Int[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        c = self.config
        normed = nn.RMSNorm(c.eps, name="attention_norm")(x)

        def heads(name: str, n: int) -> Float[Array, "b t n c"]:
            return Dense(n * c.head_dim, c.attention_bias, name=name)(normed).reshape(*x.shape[:-1], n, c.head_dim)

        q = rotate(nn.RMSNorm(c.eps, name="query_norm")(heads("query", c.heads)), position, c.theta)
        k = rotate(nn.RMSNorm(c.eps, name="key_norm")(heads("key", c.key_heads)), position, c.theta)
        mixed = attend(q, k, heads("value", c.key_heads), bias)
        x = x + Dense(c.hidden_size, c.attention_bias, name="out")(mixed)
        normed = nn.RMSNorm(c.eps, name="norm")(x)
        gate = ACTIVATIONS[c.act](Dense(c.intermediate_size, False, name="gate")(normed))
        return x + Dense(c.hidden_size, False, name="down")(gate * Dense(c.intermediate_size, False, name="up")(normed))


class Qwen3(nn.Module):
    """Maps token ids and mask to token vectors; each token attends to itself and those before it."""

    config: Qwen3Config

    def __call__(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        return self.hidden_states(ids, mask, self.config.num_hidden_layers)[-1]

    @nn.compact
    def hidden_states(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"], depth: int) -> list[Float[Array, "b t d"]]:
        """Return the outputs of the embedding layer and of the first `depth` layers; the last one is normalized."""
        c, position = self.config, positions(mask)
        step = jnp.arange(ids.shape[-1])
        causal = jnp.where(step[None, :] <= step[:, None], 0.0, MASKED)
        bias = padding_bias(mask) + causal[None, None]
        states = [nn.Embed(c.vocab_size, c.hidden_size, name="word")(ids)]
        for i in range(depth):
            states.append(apply_layer(self, f"layer_{i}", Layer(c, parent=None), states[-1], bias, position))
        if depth == c.num_hidden_layers:
            states[-1] = nn.RMSNorm(c.eps, name="norm")(states[-1])
        return states


def qwen3_weights(config: Qwen3Config) -> WeightMap:
    """Weight names of a transformers Qwen3Model."""
    leaves = {"embed_tokens.weight": "word.embedding"} | norm_names("norm", "norm", bias=False)
    for i in range(config.num_hidden_layers):
        prefix, layer = f"layers.{i}", f"layer_{i}"
        for short, name in {"q": "query", "k": "key", "v": "value", "o": "out"}.items():
            leaves |= dense_names(f"{prefix}.self_attn.{short}_proj", f"{layer}.{name}", config.attention_bias)
        for short, name in {"q": "query", "k": "key"}.items():
            leaves |= norm_names(f"{prefix}.self_attn.{short}_norm", f"{layer}.{name}_norm", bias=False)
        for name in ("gate", "up", "down"):
            leaves |= dense_names(f"{prefix}.mlp.{name}_proj", f"{layer}.{name}", bias=False)
        leaves |= norm_names(f"{prefix}.input_layernorm", f"{layer}.attention_norm", bias=False)
        leaves |= norm_names(f"{prefix}.post_attention_layernorm", f"{layer}.norm", bias=False)
    return WeightMap(leaves, r"lm_head\..*", prefix=r"model\.")
