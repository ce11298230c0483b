"""What a sentence-transformers folder puts behind the model: pooling, dense layers, truncation, unit length."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.embeddings import unit
from ea_jax.encoders.architectures.layers import ACTIVATIONS, NEVER, Dense
from ea_jax.encoders.architectures.weights import WeightMap, dense

Hidden = Float[Array, "b t d"]
Mask = Int[Array, "b t"]
Pooled = Float[Array, "b d"]


def first(hidden: Hidden, mask: Mask) -> Pooled:
    """Vector of the first token, which is [CLS] in BERT."""
    return _at(hidden, jnp.argmax(mask, axis=-1))


def last(hidden: Hidden, mask: Mask) -> Pooled:
    """Vector of the last token."""
    return _at(hidden, mask.shape[-1] - 1 - jnp.argmax(mask[:, ::-1], axis=-1))


def largest(hidden: Hidden, mask: Mask) -> Pooled:
    """Maximum over the tokens, number by number."""
    return jnp.max(jnp.where(mask[..., None] > 0, hidden, NEVER), axis=1)


def mean(hidden: Hidden, mask: Mask) -> Pooled:
    """Mean of the token vectors."""
    return mean_pool(hidden, mask.astype(hidden.dtype))


def mean_of_windows(
    hidden: Hidden, mask: Mask, text: Int[Array, " b"], tokens: Int[Array, " n"]
) -> Float[Array, "n d"]:
    """Mean of the token vectors of all windows of a text.

    Args:
        hidden: Token vectors of each window.
        mask: Which of them are of tokens.
        text: Which text each window is of.
        tokens: Number of tokens of each text.
    """
    total = jnp.einsum("btd,bt->bd", hidden, mask.astype(hidden.dtype))
    summed = jax.ops.segment_sum(total, text, num_segments=tokens.shape[0])
    return summed / jnp.maximum(tokens, 1).astype(hidden.dtype)[:, None]


def mean_sqrt_len(hidden: Hidden, mask: Mask) -> Pooled:
    """Sum of the token vectors over the square root of their number."""
    return mean(hidden, mask) * jnp.sqrt(jnp.sum(mask, axis=-1, keepdims=True).astype(hidden.dtype))


def weighted_mean(hidden: Hidden, mask: Mask) -> Pooled:
    """Mean of the token vectors weighted by their place, from 1. Source: Muennighoff 2022, arXiv:2202.08904."""
    weight = (jnp.cumsum(mask, axis=-1) * mask).astype(hidden.dtype)
    total = jnp.einsum("btd,bt->bd", hidden, weight)
    return total / jnp.maximum(jnp.sum(weight, axis=-1, keepdims=True), 1)


def _at(hidden: Hidden, place: Int[Array, " b"]) -> Pooled:
    return jnp.take_along_axis(hidden, place[:, None, None], axis=1)[:, 0]


POOLINGS = {
    "cls": first,
    "max": largest,
    "mean": mean,
    "mean_sqrt_len_tokens": mean_sqrt_len,
    "weightedmean": weighted_mean,
    "lasttoken": last,
}


class Pipeline(nn.Module):
    """Token ids and mask to embeddings, as the folder's modules.json chains it; of windows, with their texts and sizes.

    Attributes:
        model: Token ids and mask to token vectors.
        pooling: Names in POOLINGS; several are put side by side.
        heads: Dense layers: width, whether it has a bias, activation.
        dim: How many leading numbers are kept (Kusupati et al. 2022, arXiv:2205.13147); all if None.
        normalize: Whether embeddings have length one.
    """

    model: nn.Module
    pooling: tuple[str, ...]
    heads: tuple[tuple[int, bool, str], ...]
    dim: int | None
    normalize: bool

    @nn.compact
    def __call__(
        self, ids: Mask, mask: Mask, text: Int[Array, " b"] | None = None, tokens: Int[Array, " n"] | None = None
    ) -> Float[Array, "texts d"]:
        hidden = self.model(ids, mask)
        if text is not None and tokens is not None:  # rows are windows, which go with mean pooling alone
            x = mean_of_windows(hidden, mask, text, tokens)
        else:
            x = jnp.concatenate([POOLINGS[name](hidden, mask) for name in self.pooling], axis=-1)
        for i, (width, bias, act) in enumerate(self.heads):
            x = ACTIVATIONS[act](Dense(width, bias, name=f"head_{i}")(x))
        x = x[:, : self.dim]
        return unit(x) if self.normalize else x


def pipeline_weights(model: WeightMap, heads: tuple[tuple[int, bool, str], ...]) -> WeightMap:
    """Names of the model's weights, and of each dense layer's as `head_<i>.linear.*`."""
    leaves = {theirs: f"model.{ours}" for theirs, ours in model.leaves.items()}
    for i, (_, bias, _) in enumerate(heads):
        leaves |= dense(f"head_{i}.linear", f"head_{i}", bias)
    return WeightMap(leaves, model.ignored, model.prefix)


def mean_pool(hidden: Float[Array, "*batch t d"], mask: Float[Array, "*batch t"]) -> Float[Array, "*batch d"]:
    """Mean of the token vectors whose mask is one. A row without any token gives zeros."""
    total = jnp.einsum("...td,...t->...d", hidden, mask)
    return total / jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
