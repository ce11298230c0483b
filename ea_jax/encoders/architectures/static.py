"""Static token tables: a text is the mean of its tokens' vectors (WordLlama, model2vec, StaticEmbedding).

Source: Tulkens and van Dongen 2024 (model2vec); Miller 2024 (WordLlama).
"""

from dataclasses import dataclass

import flax.linen as nn
from jaxtyping import Array, Float, Int

from ea_jax.encoders.architectures.weights import WeightMap


@dataclass(frozen=True)
class StaticConfig:
    """Size of a table. A row already holds its token's weight, where the model has weights."""

    vocab_size: int
    hidden_size: int


class Static(nn.Module):
    """Token ids to rows of the table."""

    config: StaticConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        return nn.Embed(self.config.vocab_size, self.config.hidden_size, name="word")(ids)


def static_weights(config: StaticConfig) -> WeightMap:
    """The one table, under the name that `folders` gives it."""
    return WeightMap({"table": "word.embedding"})
