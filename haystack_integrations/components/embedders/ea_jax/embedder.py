"""The constructor and the serialization of both components."""

from typing import Any, Self

from haystack import default_from_dict, default_to_dict  # pyright: ignore[reportMissingImports] (extra: haystack)

from ea_jax.integrations.adapted_encoder import AdaptedEncoder, Names
from ea_jax.integrations.shared import shared_encoder


class Embedder:
    """Embeds locally in another model's space. A pipeline stores these arguments and no parameters."""

    def __init__(
        self,
        source: str,
        target: str,
        flavor: str | None = None,
        registry: str | None = None,
        dimensions: int | None = None,
        prefix: str = "",
        suffix: str = "",
    ) -> None:
        """Store the names; `warm_up` or the first run loads the encoder.

        Args:
            source: Local model, by id or alias.
            target: Model whose space the embeddings are in, by id or alias.
            flavor: Name of one adapter of the pair. If None, as in `ea_jax.load`.
            registry: Registry folder. If None, all registries.
            dimensions: Number of leading dimensions to keep, for a Matryoshka target. If None, all.
            prefix: Text added before each text.
            suffix: Text added after each text.
        """
        self.names, self.dimensions = Names(source, target, flavor, registry), dimensions
        self.prefix, self.suffix = prefix, suffix

    @property
    def adapted(self) -> AdaptedEncoder:
        """The adapted encoder, shared by all components with the same names."""
        return shared_encoder(*self.names)

    def warm_up(self) -> None:
        """Load the encoder."""
        _ = self.adapted

    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **self.names._asdict(),
            "dimensions": self.dimensions,
            "prefix": self.prefix,
            "suffix": self.suffix,
        }

    def to_dict(self) -> dict[str, Any]:
        """Serialize the arguments of the constructor."""
        return default_to_dict(self, **self.arguments())

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Create the component from its serialized arguments."""
        return default_from_dict(cls, data)

    def native_similarity(self, score: Any) -> Any:
        """Map search scores to the scale of similarities between native vectors, for thresholds."""
        return self.adapted.native_similarity(score)
