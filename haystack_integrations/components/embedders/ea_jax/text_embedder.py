"""Embed queries for a native index."""

import asyncio
from typing import Any

from haystack import component, default_from_dict, default_to_dict  # pyright: ignore[reportMissingImports] (extra: haystack)

from ea_jax.integrations.adapted_encoder import AdaptedEncoder, Names
from ea_jax.integrations.shared import shared_encoder


@component
class EaJaxTextEmbedder:
    """Embeds a query locally in another model's space. A pipeline stores these arguments and no parameters."""

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
            flavor: Name of one adapter of the pair. If None, `small` or the only one.
            registry: Registry folder. If None, all registries.
            dimensions: Number of leading dimensions to keep, for a Matryoshka target. If None, all.
            prefix: Text added before the query.
            suffix: Text added after the query.
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

    def to_dict(self) -> dict[str, Any]:
        """Serialize the arguments of the constructor."""
        fields = self.names._asdict() | {"dimensions": self.dimensions, "prefix": self.prefix, "suffix": self.suffix}
        return default_to_dict(self, **fields)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "EaJaxTextEmbedder":
        """Create the component from its serialized arguments."""
        return default_from_dict(cls, data)

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    def run(self, text: str) -> dict[str, Any]:
        """Embed a query. `meta` contains its confidence."""
        if not isinstance(text, str):
            raise TypeError("text is not a string. To embed documents, use EaJaxDocumentEmbedder.")
        y = self.adapted.embed([self.prefix + text + self.suffix], "query", self.dimensions)
        meta = {"model": self.adapted.target, "confidence": float(y.scores.confidence[0])}
        return {"embedding": y.vectors[0].tolist(), "meta": meta}

    @component.output_types(embedding=list[float], meta=dict[str, Any])
    async def run_async(self, text: str) -> dict[str, Any]:
        """Call `run` in a thread."""
        return await asyncio.to_thread(self.run, text)

    def native_similarity(self, score: Any) -> Any:
        """Map search scores to the scale of similarities between native vectors, for thresholds."""
        return self.adapted.native_similarity(score)
