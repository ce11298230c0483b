"""ModernBERT: alternating global and local attention, rotary positions and gated feed-forward.

Source: Warner et al. 2024, arXiv:2412.13663.
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
    name: name
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
} | {"max_tokens": "max_position_embeddings", "pad_id": "pad_token_id"}
LOCAL = "sliding_attention"


@dataclass(frozen=True)
class ModernBertConfig:
    """Sizes and settings.

    Attributes:
        local: For each layer, whether attention is limited to a neighborhood.
        radius: Size of the neighborhood, in tokens to either side.
        theta: Rotary base of global layers.
        local_theta: Rotary base of local layers.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_tokens: int
    pad_id: int
    local: tuple[bool, ...]
    radius: int
    theta: float
    local_theta: float
    eps: float
    act: str
    attention_bias: bool
    mlp_bias: bool
    norm_bias: bool


def modernbert_config(config: Mapping[str, Any]) -> ModernBertConfig:
    """Read the config.json of a ModernBERT, as transformers 4 or 5 writes it."""
    sizes = read_config("ModernBERT", config, SIZES, {"hidden_activation": tuple(ACTIVATIONS)})
    every, rope = config.get("global_attn_every_n_layers", 3), config.get("rope_parameters") or {}
    kinds = config.get("layer_types") or [LOCAL if i % every else "" for i in range(sizes["num_hidden_layers"])]
    return ModernBertConfig(
        **sizes,
        local=tuple(kind == LOCAL for kind in kinds),
        radius=config.get("local_attention", 128) // 2,
        theta=rope.get("full_attention", {}).get("rope_theta") or config.get("global_rope_theta", 160_000.0),
        local_theta=rope.get(LOCAL, {}).get("rope_theta") or config.get("local_rope_theta", 10_000.0),
        eps=config.get("norm_eps", 1e-5),
        act=config.get("hidden_activation", "gelu"),
        attention_bias=config.get("attention_bias", False),
        mlp_bias=config.get("mlp_bias", False),
        norm_bias=config.get("norm_bias", False),
    )


class Layer(nn.Module):
    """Attention and gated feed-forward, each on a normalized input; the first layer's input is normalized already."""

    config: ModernBertConfig
    local: bool
    first: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], bias: Float[Array, "b h tt t"], position: Int[Array, "b t"]
    ) -> Float[Array, "b t d"]:
        c = self.config
        theta = c.local_theta if self.local else c.theta
        normed = x if self.first else _norm(c, "attention_norm")(x)
        qkv = Dense(3 * c.hidden_size, c.attention_bias, name="qkv")(normed)
        q, k, v = jnp.split(qkv.reshape(*x.shape[:-1], 3 * c.num_attention_heads, -1), 3, axis=2)
        mixed = attend(rotate(q, position, theta), rotate(k, position, theta), v, bias)
        x = x + Dense(c.hidden_size, c.attention_bias, name="out")(mixed)
        wide = Dense(2 * c.intermediate_size, c.mlp_bias, name="up")(_norm(c, "norm")(x))
        value, gate = jnp.split(wide, 2, axis=-1)
        return x + Dense(c.hidden_size, c.mlp_bias, name="down")(ACTIVATIONS[c.act](value) * gate)


class ModernBert(nn.Module):
    """Maps token ids and mask to token vectors."""

    config: ModernBertConfig

    def __call__(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        return self.hidden_states(ids, mask, self.config.num_hidden_layers)[-1]

    @nn.compact
    def hidden_states(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"], depth: int) -> list[Float[Array, "b t d"]]:
        """Return the outputs of the embedding layer and of the first `depth` layers; the last one is normalized."""
        c, position, everywhere = self.config, positions(mask), padding_bias(mask)
        distance = jnp.abs(position[:, :, None] - position[:, None, :])
        nearby = everywhere + jnp.where(distance <= c.radius, 0.0, MASKED)[:, None]
        states = [_norm(c, "norm")(nn.Embed(c.vocab_size, c.hidden_size, name="word")(ids))]
        for i in range(depth):
            layer, bias = Layer(c, c.local[i], first=i == 0, parent=None), nearby if c.local[i] else everywhere
            states.append(apply_layer(self, f"layer_{i}", layer, states[-1], bias, position))
        if depth == c.num_hidden_layers:
            states[-1] = _norm(c, "final_norm")(states[-1])
        return states


def _norm(c: ModernBertConfig, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(c.eps, use_bias=c.norm_bias, name=name)


def modernbert_weights(config: ModernBertConfig) -> WeightMap:
    """Weight names of a transformers ModernBertModel."""
    c = config
    leaves = {"embeddings.tok_embeddings.weight": "word.embedding"}
    leaves |= norm_names("embeddings.norm", "norm", c.norm_bias) | norm_names("final_norm", "final_norm", c.norm_bias)
    for i in range(c.num_hidden_layers):
        prefix, layer = f"layers.{i}", f"layer_{i}"
        leaves |= norm_names(f"{prefix}.attn_norm", f"{layer}.attention_norm", c.norm_bias) if i else {}
        leaves |= dense_names(f"{prefix}.attn.Wqkv", f"{layer}.qkv", c.attention_bias)
        leaves |= dense_names(f"{prefix}.attn.Wo", f"{layer}.out", c.attention_bias)
        leaves |= norm_names(f"{prefix}.mlp_norm", f"{layer}.norm", c.norm_bias)
        leaves |= dense_names(f"{prefix}.mlp.Wi", f"{layer}.up", c.mlp_bias)
        leaves |= dense_names(f"{prefix}.mlp.Wo", f"{layer}.down", c.mlp_bias)
    return WeightMap(leaves, r"head\..*|decoder\..*", prefix=r"model\.")
