"""BERT (MiniLM, e5, bge, gte): Devlin et al. 2019, arXiv:1810.04805. Shapes: b texts, t tokens, h heads, d width."""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.encoders.weights import WeightMap
from ea_jax.errors import BadEncoder


@dataclass(frozen=True)
class BertConfig:
    """The numbers of a BERT `config.json` that shape its output."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    pad_token_id: int

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> "BertConfig":
        """Read a `config.json`; a variant that would be computed wrongly is an error.

        Raises:
            BadEncoder: A number is missing, or the activation or position kind is not BERT's.
        """
        for key, supported in {"hidden_act": "gelu", "position_embedding_type": "absolute"}.items():
            if config.get(key, supported) != supported:
                raise BadEncoder(f"config.json has {key} = {config[key]!r}; this BERT computes {supported!r} only.")
        missing = [name for name in cls.__dataclass_fields__ if name not in config]
        if missing:
            raise BadEncoder(f"config.json lacks {', '.join(missing)}. Is it a BERT's?")
        return cls(**{name: config[name] for name in cls.__dataclass_fields__})


class Attention(nn.Module):
    """Multi-head self-attention; `bias` is 0 on tokens and very negative on padding."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], bias: Float[Array, "b 1 1 t"]) -> Float[Array, "b t d"]:
        heads = self.config.num_attention_heads
        split = (*x.shape[:-1], heads, x.shape[-1] // heads)
        q, k, v = (nn.Dense(x.shape[-1], name=name)(x).reshape(split) for name in ("query", "key", "value"))
        logits = jnp.einsum("bqhc,bkhc->bhqk", q, k) * split[-1] ** -0.5 + bias
        mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(logits, axis=-1), v)
        return nn.Dense(x.shape[-1], name="out")(mixed.reshape(x.shape))


class Layer(nn.Module):
    """Attention and feed-forward, each followed by a residual and a layer norm."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], bias: Float[Array, "b 1 1 t"]) -> Float[Array, "b t d"]:
        eps = self.config.layer_norm_eps
        x = nn.LayerNorm(eps, name="attention_norm")(x + Attention(self.config, name="attention")(x, bias))
        wide = nn.gelu(nn.Dense(self.config.intermediate_size, name="up")(x), approximate=False)
        return nn.LayerNorm(eps, name="norm")(x + nn.Dense(x.shape[-1], name="down")(wide))


class Bert(nn.Module):
    """Token ids and mask to token vectors."""

    config: BertConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        c = self.config
        word = nn.Embed(c.vocab_size, c.hidden_size, name="word")(ids)
        position = nn.Embed(c.max_position_embeddings, c.hidden_size, name="position")(jnp.arange(ids.shape[-1]))
        segment = nn.Embed(c.type_vocab_size, c.hidden_size, name="segment")(jnp.zeros((), jnp.int32))
        x = nn.LayerNorm(c.layer_norm_eps, name="norm")(word + position[None] + segment[None, None])
        bias = jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(x.dtype).min)
        for i in range(c.num_hidden_layers):
            x = Layer(c, name=f"layer_{i}")(x, bias)
        return x


def weight_map(config: BertConfig) -> WeightMap:
    """Where the weights of a transformers `BertModel` go."""
    embeddings = {
        "embeddings.word_embeddings.weight": "word.embedding",
        "embeddings.position_embeddings.weight": "position.embedding",
        "embeddings.token_type_embeddings.weight": "segment.embedding",
        **_norm("embeddings.LayerNorm", "norm"),
    }
    layers = {}
    for i in range(config.num_hidden_layers):
        theirs, ours = f"encoder.layer.{i}", f"layer_{i}"
        for name in ("query", "key", "value"):
            layers |= _dense(f"{theirs}.attention.self.{name}", f"{ours}.attention.{name}")
        layers |= _dense(f"{theirs}.attention.output.dense", f"{ours}.attention.out")
        layers |= _norm(f"{theirs}.attention.output.LayerNorm", f"{ours}.attention_norm")
        layers |= _dense(f"{theirs}.intermediate.dense", f"{ours}.up")
        layers |= _dense(f"{theirs}.output.dense", f"{ours}.down")
        layers |= _norm(f"{theirs}.output.LayerNorm", f"{ours}.norm")
    return WeightMap(embeddings | layers, ignored=r"embeddings\.position_ids|pooler\..*|cls\..*", prefix=r"bert\.")


def _dense(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.weight": f"{ours}.kernel", f"{theirs}.bias": f"{ours}.bias"}


def _norm(theirs: str, ours: str) -> dict[str, str]:
    return {f"{theirs}.weight": f"{ours}.scale", f"{theirs}.bias": f"{ours}.bias"}
