"""Chroma's `EmbeddingFunction`: `embed_query` for searching native vectors, calls for adding to them."""

from typing import Any

import numpy as np

from ea_jax.integrations.adapted_encoder import AdaptedEncoder, Names
from ea_jax.integrations.shared import missing_base, shared_encoder

try:
    from chromadb.api.types import EmbeddingFunction  # pyright: ignore[reportMissingImports] (extra: chroma)
    from chromadb.utils.embedding_functions import register_embedding_function  # pyright: ignore[reportMissingImports]
except ImportError:
    EmbeddingFunction, register_embedding_function = missing_base("chromadb", "chroma"), None


class EaJaxEmbeddingFunction(EmbeddingFunction):  # pyright: ignore[reportGeneralTypeIssues]
    """Local embeddings in another model's space. A collection stores these names and no parameters.

    Import this module before opening a stored collection, so that the class is registered.
    """

    def __init__(
        self,
        source: str,
        target: str,
        flavor: str | None = None,
        registry: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        """Store the names; the encoder is loaded on first use.

        Args:
            source: Local model, by id or alias.
            target: Model whose space the embeddings are in, by id or alias.
            flavor: Name of one adapter of the pair. If None, as in `load`.
            registry: Registry folder. If None, all registries.
            dimensions: Number of leading dimensions to keep, for a Matryoshka target. If None, all.
        """
        self._names, self._dimensions = Names(source, target, flavor, registry), dimensions

    @property
    def adapted(self) -> AdaptedEncoder:
        """The adapted encoder, loaded on first use and shared by its names."""
        return shared_encoder(*self._names)

    def __call__(self, input: list[str]) -> Any:
        """Embed documents for storage beside native vectors."""
        return list(self.adapted.embed(input, "store", self._dimensions).vectors)

    def embed_query(self, input: list[str]) -> Any:
        """Embed queries for native vectors."""
        return list(self.adapted.embed(input, "query", self._dimensions).vectors)

    def native_similarity(self, score: Any) -> Any:
        """Map similarities (1 minus Chroma's cosine distances) to the scale of those between native vectors."""
        return self.adapted.native_similarity(np.asarray(score))

    @staticmethod
    def name() -> str:
        """Name under which Chroma registers this class."""
        return "ea_jax"

    def default_space(self) -> Any:
        """Distance of new collections: cosine."""
        return "cosine"

    def supported_spaces(self) -> list[Any]:
        """All distances, because vectors have unit length."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**self._names._asdict(), "dimensions": self._dimensions}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> "EaJaxEmbeddingFunction":
        """Create the function from a stored configuration."""
        return EaJaxEmbeddingFunction(**config)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Raise ValueError if the vectors of a stored collection would be in another space."""
        for name in ("target", "dimensions"):
            if old_config.get(name) != new_config.get(name):
                raise ValueError(f"The {name} of a collection cannot change; this one has {old_config.get(name)!r}.")


if register_embedding_function is not None:
    register_embedding_function(EaJaxEmbeddingFunction)
