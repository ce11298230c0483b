"""BERT, RoBERTa, XLM-R, MPNet and DistilBERT: encoders with a layer norm after each residual connection.

Sources: Devlin et al. 2019, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692; Conneau et al. 2020, arXiv:1911.02116;
Song et al. 2020, arXiv:2004.09297; Sanh et al. 2019, arXiv:1910.01108.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.encoders.architectures.layers import ACTIVATIONS, Dense, apply_layer, attend, padding_bias, positions
from ea_jax.encoders.architectures.weights import WeightMap, dense_names, norm_names, read_config

ACTS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
SIZES = {
    name: name
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
} | {"positions": "max_position_embeddings", "pad_id": "pad_token_id", "eps": "layer_norm_eps"}
DISTIL_SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "dim",
    "intermediate_size": "hidden_dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "positions": "max_position_embeddings",
    "pad_id": "pad_token_id",
}


@dataclass(frozen=True)
class BertConfig:
    """Sizes and settings.

    Attributes:
        offset: Position of the first token: 0, or one past the padding index in RoBERTa and MPNet.
        segments: Rows of the segment table; 0 without one.
        buckets: Relative-position buckets, which MPNet has; 0 without them.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    positions: int
    pad_id: int
    eps: float
    act: str
    offset: int = 0
    segments: int = 0
    buckets: int = 0

    @property
    def max_tokens(self) -> int:
        """Maximum number of tokens, limited by the position table."""
        return self.positions - self.offset


def bert_config(config: Mapping[str, Any]) -> BertConfig:
    """Read the config.json of a BERT."""
    supported = {"hidden_act": ACTS, "position_embedding_type": ("absolute",), "is_decoder": (False,)}
    sizes = read_config("BERT", config, SIZES | {"segments": "type_vocab_size"}, supported)
    return BertConfig(**sizes, act=config.get("hidden_act", "gelu"))


def roberta_config(config: Mapping[str, Any]) -> BertConfig:
    """Read the config.json of a RoBERTa or XLM-R, whose positions start one past the padding index."""
    plain = bert_config(config)
    return BertConfig(**{**vars(plain), "offset": plain.pad_id + 1})


def mpnet_config(config: Mapping[str, Any]) -> BertConfig:
    """Read the config.json of an MPNet: no segments, a relative-position bias, and padding index 1."""
    keys = SIZES | {"buckets": "relative_attention_num_buckets"}
    sizes = read_config("MPNet", {"pad_token_id": 1} | dict(config), keys, {"hidden_act": ACTS})
    return BertConfig(**sizes, act=config.get("hidden_act", "gelu"), offset=2)


def distilbert_config(config: Mapping[str, Any]) -> BertConfig:
    """Read the config.json of a DistilBERT, which has no segments."""
    sizes = read_config("DistilBERT", {"pad_token_id": 0} | dict(config), DISTIL_SIZES, {"activation": ACTS})
    return BertConfig(**sizes, eps=1e-12, act=config.get("activation", "gelu"))


class Layer(nn.Module):
    """Attention and feed-forward, each followed by a residual connection and a layer norm."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], bias: Float[Array, "b h tt t"]) -> Float[Array, "b t d"]:
        c = self.config
        split = (*x.shape[:-1], c.num_attention_heads, c.hidden_size // c.num_attention_heads)
        q, k, v = (Dense(c.hidden_size, name=name)(x).reshape(split) for name in ("query", "key", "value"))
        x = nn.LayerNorm(c.eps, name="attention_norm")(x + Dense(c.hidden_size, name="out")(attend(q, k, v, bias)))
        wide = ACTIVATIONS[c.act](Dense(c.intermediate_size, name="up")(x))
        return nn.LayerNorm(c.eps, name="norm")(x + Dense(c.hidden_size, name="down")(wide))


class Bert(nn.Module):
    """Maps token ids and mask to token vectors."""

    config: BertConfig

    def __call__(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        return self.hidden_states(ids, mask, self.config.num_hidden_layers)[-1]

    @nn.compact
    def hidden_states(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"], depth: int) -> list[Float[Array, "b t d"]]:
        """Return the outputs of the embedding layer, its norm included, and of the first `depth` layers."""
        c = self.config
        position = positions(mask) + c.offset
        x = nn.Embed(c.vocab_size, c.hidden_size, name="word")(ids)
        x += nn.Embed(c.positions, c.hidden_size, name="position")(position)
        if c.segments:
            x += nn.Embed(c.segments, c.hidden_size, name="segment")(jnp.zeros_like(ids))
        x = nn.LayerNorm(c.eps, name="norm")(x)
        bias = padding_bias(mask)
        if c.buckets:
            relative = nn.Embed(c.buckets, c.num_attention_heads, name="relative")
            bias += jnp.moveaxis(relative(relative_bucket(position, c.buckets)), -1, 1)
        states = [x]
        for i in range(depth):
            states.append(apply_layer(self, f"layer_{i}", Layer(c, parent=None), states[-1], bias))
        return states


def relative_bucket(position: Int[Array, "b t"], buckets: int, max_distance: int = 128) -> Int[Array, "b t t"]:
    """Bucket of each (query, key) distance: linear up close, then logarithmic; keys after the query use the upper half.

    Source: Raffel et al. 2020, arXiv:1910.10683, as MPNet uses it.
    """
    half = buckets // 2
    exact = half // 2
    offset = position[:, None, :] - position[:, :, None]
    distance = jnp.abs(offset)
    log = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / jnp.log(max_distance / exact)
    large = jnp.minimum(exact + (log * (half - exact)).astype(jnp.int32), half - 1)
    return jnp.where(distance < exact, distance, large) + half * (offset > 0)


def bert_weights(config: BertConfig) -> WeightMap:
    """Weight names of a transformers BertModel, RobertaModel or XLMRobertaModel."""
    leaves = _embeddings("embeddings", segments=True)
    for i in range(config.num_hidden_layers):
        prefix, layer = f"encoder.layer.{i}", f"layer_{i}"
        for name in ("query", "key", "value"):
            leaves |= dense_names(f"{prefix}.attention.self.{name}", f"{layer}.{name}")
        leaves |= dense_names(f"{prefix}.attention.output.dense", f"{layer}.out") | _feed_forward(prefix, layer)
        leaves |= norm_names(f"{prefix}.attention.output.LayerNorm", f"{layer}.attention_norm")
    ignored = r"embeddings\.position_ids|pooler\..*|cls\..*|lm_head\..*"
    return WeightMap(leaves, ignored, prefix=r"bert\.|roberta\.")


def mpnet_weights(config: BertConfig) -> WeightMap:
    """Weight names of a transformers MPNetModel."""
    leaves = _embeddings("embeddings", segments=False)
    leaves |= {"encoder.relative_attention_bias.weight": "relative.embedding"}
    for i in range(config.num_hidden_layers):
        prefix, layer = f"encoder.layer.{i}", f"layer_{i}"
        for short, name in {"q": "query", "k": "key", "v": "value", "o": "out"}.items():
            leaves |= dense_names(f"{prefix}.attention.attn.{short}", f"{layer}.{name}")
        leaves |= norm_names(f"{prefix}.attention.LayerNorm", f"{layer}.attention_norm") | _feed_forward(prefix, layer)
    return WeightMap(leaves, r"embeddings\.position_ids|pooler\..*|lm_head\..*", prefix=r"mpnet\.")


def distilbert_weights(config: BertConfig) -> WeightMap:
    """Weight names of a transformers DistilBertModel."""
    leaves = _embeddings("embeddings", segments=False)
    for i in range(config.num_hidden_layers):
        prefix, layer = f"transformer.layer.{i}", f"layer_{i}"
        for short, name in {"q": "query", "k": "key", "v": "value", "out": "out"}.items():
            leaves |= dense_names(f"{prefix}.attention.{short}_lin", f"{layer}.{name}")
        leaves |= norm_names(f"{prefix}.sa_layer_norm", f"{layer}.attention_norm")
        leaves |= dense_names(f"{prefix}.ffn.lin1", f"{layer}.up") | dense_names(f"{prefix}.ffn.lin2", f"{layer}.down")
        leaves |= norm_names(f"{prefix}.output_layer_norm", f"{layer}.norm")
    return WeightMap(leaves, r"embeddings\.position_ids|vocab_.*", prefix=r"distilbert\.")


def _embeddings(prefix: str, segments: bool) -> dict[str, str]:
    tables = {"word_embeddings": "word", "position_embeddings": "position"}
    tables |= {"token_type_embeddings": "segment"} if segments else {}
    names = {f"{prefix}.{table}.weight": f"{layer}.embedding" for table, layer in tables.items()}
    return names | norm_names(f"{prefix}.LayerNorm", "norm")


def _feed_forward(prefix: str, layer: str) -> dict[str, str]:
    names = dense_names(f"{prefix}.intermediate.dense", f"{layer}.up")
    names |= dense_names(f"{prefix}.output.dense", f"{layer}.down")
    return names | norm_names(f"{prefix}.output.LayerNorm", f"{layer}.norm")
