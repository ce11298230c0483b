"""Composite encoders: pooled hidden states of one forward pass, and concatenated unit vectors of several encoders."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.embeddings import unit
from ea_jax.encoders.architectures.pooling import mean, mean_of_windows
from ea_jax.typing import ArrayIn


class HiddenStates(nn.Module):
    """Maps token ids and mask to the concatenated mean-pooled hidden states of some layers.

    If rows are windows, `text` and `tokens` are those of `batching.Windows`, as in `Pipeline`.

    Attributes:
        model: Maps token ids and mask to hidden states; layers after the last selected one are not computed.
        layers: Layer numbers: 0 is the output of the embedding layer, i that of layer i.
    """

    model: Any
    layers: tuple[int, ...]

    def __call__(
        self,
        ids: Int[Array, "b t"],
        mask: Int[Array, "b t"],
        text: Int[Array, " b"] | None = None,
        tokens: Int[Array, " n"] | None = None,
    ) -> Float[Array, "texts d"]:
        states = self.model.hidden_states(ids, mask, max(self.layers))
        windows = None if text is None or tokens is None else (text, tokens)
        pooled = [
            mean_of_windows(states[layer], mask, *windows) if windows else mean(states[layer], mask)
            for layer in self.layers
        ]
        return jnp.concatenate(pooled, axis=-1)


class Composite(nn.Module):
    """Maps the tokens of each member to the composite's embeddings.

    Attributes:
        members: Modules that map their own tokens to vectors of the same texts.
        blocks: For each member, the number of concatenated vectors in its output.
        weights: For each member, the length of each of its blocks before all are normalized together.
    """

    members: tuple[nn.Module, ...]
    blocks: tuple[int, ...]
    weights: tuple[float, ...]

    def __call__(self, *tokens: Sequence[Int[Array, "..."]]) -> Float[Array, "b d"]:
        parts = [member(*own) for member, own in zip(self.members, tokens, strict=True)]
        return concatenate_blocks(parts, self.blocks, self.weights)


def concatenate_blocks(
    parts: Sequence[Float[ArrayIn, "b _"]], blocks: tuple[int, ...], weights: tuple[float, ...]
) -> Float[Array, "b d"]:
    """Compute `unit([w_1 unit(x_1), w_2 unit(x_2), ...])`, where the x_i are the blocks of the parts.

    Args:
        parts: The output of each member: its blocks, concatenated.
        blocks: Number of blocks in each part; the blocks of a part have equal widths.
        weights: Length of the blocks of each part.
    """
    scaled = [
        weight * unit(block)
        for part, count, weight in zip(parts, blocks, weights, strict=True)
        for block in jnp.split(jnp.asarray(part), count, axis=-1)
    ]
    return unit(jnp.concatenate(scaled, axis=-1))
