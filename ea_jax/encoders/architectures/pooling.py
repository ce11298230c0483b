"""The modules that follow the model in a sentence-transformers folder: pooling, dense layers, unit length."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.embeddings import unit
from ea_jax.encoders.architectures.layers import ACTIVATIONS, MASKED, Dense
from ea_jax.encoders.architectures.weights import WeightMap, dense_names

Hidden = Float[Array, "b t d"]
Mask = Int[Array, "b t"]
Pooled = Float[Array, "b d"]


def first(hidden: Hidden, mask: Mask) -> Pooled:
    """Return the vector of the first token, which is [CLS] in BERT."""
    return _at(hidden, jnp.argmax(mask, axis=-1))


def last(hidden: Hidden, mask: Mask) -> Pooled:
    """Return the vector of the last token."""
    return _at(hidden, mask.shape[-1] - 1 - jnp.argmax(mask[:, ::-1], axis=-1))


def largest(hidden: Hidden, mask: Mask) -> Pooled:
    """Maximum over the tokens, coordinate by coordinate."""
    return jnp.max(jnp.where(mask[..., None] > 0, hidden, MASKED), axis=1)


def mean(hidden: Hidden, mask: Mask) -> Pooled:
    """Mean of the token vectors."""
    return mean_pool(hidden, mask.astype(hidden.dtype))


def mean_of_windows(
    hidden: Hidden, mask: Mask, text: Int[Array, " b"], tokens: Int[Array, " n"]
) -> Float[Array, "n d"]:
    """Mean of the token vectors over all windows of a text.

    Args:
        hidden: Token vectors of each window.
        mask: 1 on tokens and 0 on padding.
        text: Index of the text that each window belongs to.
        tokens: Number of tokens of each text, over all its windows.
    """
    total = jnp.einsum("btd,bt->bd", hidden, mask.astype(hidden.dtype))
    summed = jax.ops.segment_sum(total, text, num_segments=tokens.shape[0])
    return summed / jnp.maximum(tokens, 1).astype(hidden.dtype)[:, None]


def mean_sqrt_len(hidden: Hidden, mask: Mask) -> Pooled:
    """Sum of the token vectors divided by the square root of their number."""
    return mean(hidden, mask) * jnp.sqrt(jnp.sum(mask, axis=-1, keepdims=True).astype(hidden.dtype))


def weighted_mean(hidden: Hidden, mask: Mask) -> Pooled:
    """Mean of the token vectors weighted by their positions, from 1. Source: Muennighoff 2022, arXiv:2202.08904."""
    weight = (jnp.cumsum(mask, axis=-1) * mask).astype(hidden.dtype)
    total = jnp.einsum("btd,bt->bd", hidden, weight)
    return total / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1)


def _at(hidden: Hidden, position: Int[Array, " b"]) -> Pooled:
    return jnp.take_along_axis(hidden, position[:, None, None], axis=1)[:, 0]


POOLINGS = {
    "cls": first,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}


@dataclass(frozen=True)
class DenseConfig:
    """A dense layer behind the pooling.

    Attributes:
        d_in: Width of the input.
        d_out: Width of the output.
        bias: Whether the layer has a bias.
        act: Name of the activation, a key of ACTIVATIONS.
        residual: Whether the input is added to the output, through a linear layer if the widths differ.
    """

    d_in: int
    d_out: int
    bias: bool = True
    act: str = "tanh"
    residual: bool = False

    @property
    def projects_residual(self) -> bool:
        """Whether the residual connection has a linear layer of its own."""
        return self.residual and self.d_in != self.d_out


class Pipeline(nn.Module):
    """Maps token ids and mask to embeddings, through the modules that modules.json lists.

    If rows are windows, `text` and `tokens` are those of `batching.Windows`.

    Attributes:
        model: Maps token ids and mask to token vectors.
        pooling: Names in POOLINGS; the results of several are concatenated.
        dense: The dense layers, in order.
        dim: Number of leading coordinates that are kept (Kusupati et al. 2022, arXiv:2205.13147); all if None.
        normalize: Whether embeddings are scaled to unit length.
    """

    model: nn.Module
    pooling: tuple[str, ...]
    dense: tuple[DenseConfig, ...]
    dim: int | None
    normalize: bool

    @nn.compact
    def __call__(
        self, ids: Mask, mask: Mask, text: Int[Array, " b"] | None = None, tokens: Int[Array, " n"] | None = None
    ) -> Float[Array, "texts d"]:
        hidden = self.model(ids, mask)
        if text is not None and tokens is not None:  # rows are windows, which need mean pooling
            x = mean_of_windows(hidden, mask, text, tokens)
        else:
            x = jnp.concatenate([POOLINGS[name](hidden, mask) for name in self.pooling], axis=-1)
        for i, layer in enumerate(self.dense):
            y = ACTIVATIONS[layer.act](Dense(layer.d_out, layer.bias, name=f"dense_{i}")(x))
            if layer.projects_residual:
                y += Dense(layer.d_out, use_bias=False, name=f"residual_{i}")(x)
            elif layer.residual:
                y += x
            x = y
        x = x[:, : self.dim]
        return unit(x) if self.normalize else x


def pipeline_weights(model: WeightMap, dense: tuple[DenseConfig, ...]) -> WeightMap:
    """Names of the model's weights, and of those of each dense layer as `dense_<i>.*`."""
    leaves = {name: f"model.{path}" for name, path in model.leaves.items()}
    for i, layer in enumerate(dense):
        leaves |= dense_names(f"dense_{i}.linear", f"dense_{i}", layer.bias)
        if layer.projects_residual:
            leaves |= dense_names(f"dense_{i}.residual", f"residual_{i}", bias=False)
    return WeightMap(leaves, model.ignored, model.prefix)


def mean_pool(hidden: Float[Array, "*batch t d"], mask: Float[Array, "*batch t"]) -> Float[Array, "*batch d"]:
    """Mean of the token vectors whose mask is 1; a row without tokens gives zeros."""
    total = jnp.einsum("...td,...t->...d", hidden, mask)
    return total / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
