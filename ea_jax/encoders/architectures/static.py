"""Static token tables: the embedding of a text is the mean of its tokens' vectors.

WordLlama, model2vec and the StaticEmbedding module of sentence-transformers are such tables.

Source: Tulkens and van Dongen 2024 (model2vec); Miller 2024 (WordLlama).
"""

from dataclasses import dataclass

import flax.linen as nn
from jaxtyping import Array, Float, Int

from ea_jax.encoders.architectures.weights import WeightMap


@dataclass(frozen=True)
class StaticConfig:
    """Size of a table. If the model has token weights, the rows are multiplied by them already."""

    vocab_size: int
    hidden_size: int


class Static(nn.Module):
    """Maps token ids to rows of the table."""

    config: StaticConfig

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"], mask: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        return nn.Embed(self.config.vocab_size, self.config.hidden_size, name="word")(ids)


def static_weights(config: StaticConfig) -> WeightMap:
    """The one table, under the name that `load_folder` gives it."""
    return WeightMap({"table": "word.embedding"})
