"""Composite encoders: pooled hidden states of one forward pass, and several encoders' unit vectors side by side."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ea_jax.embeddings import unit
from ea_jax.encoders.architectures.pooling import mean, mean_of_windows
from ea_jax.typing import ArrayIn


class HiddenStates(nn.Module):
    """Token ids and mask to the mean-pooled hidden states of some layers, side by side.

    As in `Pipeline`, `text` and `tokens` are those of `batching.Windows`, where rows are windows.

    Attributes:
        model: Token ids and mask to token vectors; layers after the last one wanted are not computed.
        layers: 0 for the output of the embedding layer, i for that of layer i.
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
    """Tokens of each member to the composite's embeddings.

    Attributes:
        members: Modules, each from its own tokens to vectors of the same texts.
        blocks: By member, how many vectors stand side by side in what it returns.
        weights: By member, the length of each of its blocks before all are scaled to length one.
    """

    members: tuple[nn.Module, ...]
    blocks: tuple[int, ...]
    weights: tuple[float, ...]

    def __call__(self, *tokens: Sequence[Int[Array, "..."]]) -> Float[Array, "b d"]:
        parts = [member(*theirs) for member, theirs in zip(self.members, tokens, strict=True)]
        return concatenate_blocks(parts, self.blocks, self.weights)


@partial(jax.jit, static_argnums=(1, 2))
def concatenate_blocks(
    parts: Sequence[Float[ArrayIn, "b _"]], blocks: tuple[int, ...], weights: tuple[float, ...]
) -> Float[Array, "b d"]:
    """`unit([w_1 unit(x_1), w_2 unit(x_2), ...])`, where the x_i are the blocks of the parts.

    Args:
        parts: What each member makes of the texts: its blocks, side by side.
        blocks: How many each part has, of equal width.
        weights: Length that the blocks of each part are given.
    """
    scaled = [
        weight * unit(block)
        for part, count, weight in zip(parts, blocks, weights, strict=True)
        for block in jnp.split(jnp.asarray(part), count, axis=-1)
    ]
    return unit(jnp.concatenate(scaled, axis=-1))
