"""Embed documents for storage beside native vectors."""

import asyncio
from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict  # pyright: ignore[reportMissingImports] (extra: haystack)

from ea_jax.integrations.adapted_encoder import AdaptedEncoder, Names
from ea_jax.integrations.shared import shared_encoder


@component
class EaJaxDocumentEmbedder:
    """Embeds documents locally in another model's space. A pipeline stores these arguments and no parameters."""

    def __init__(
        self,
        source: str,
        target: str,
        flavor: str | None = None,
        registry: str | None = None,
        dimensions: int | None = None,
        prefix: str = "",
        suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
    ) -> None:
        """Store the names; `warm_up` or the first run loads the encoder.

        Args:
            source: Local model, by id or alias.
            target: Model whose space the embeddings are in, by id or alias.
            flavor: Name of one adapter of the pair. If None, `small` or the only one.
            registry: Registry folder. If None, all registries.
            dimensions: Number of leading dimensions to keep, for a Matryoshka target. If None, all.
            prefix: Text added before each document.
            suffix: Text added after each document.
            meta_fields_to_embed: Names of metadata that are embedded before the content.
            embedding_separator: Text between the metadata and the content.
        """
        self.names, self.dimensions = Names(source, target, flavor, registry), dimensions
        self.prefix, self.suffix = prefix, suffix
        self.meta_fields_to_embed, self.embedding_separator = list(meta_fields_to_embed or []), embedding_separator

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
        return default_to_dict(
            self,
            **fields,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "EaJaxDocumentEmbedder":
        """Create the component from its serialized arguments."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """Return copies of the documents with embeddings."""
        if not isinstance(documents, list) or not all(isinstance(one, Document) for one in documents):
            raise TypeError("documents is not a list of Documents. To embed a query, use EaJaxTextEmbedder.")
        y = self.adapted.embed([self._text(one) for one in documents], "store", self.dimensions).vectors
        embedded = [replace(one, embedding=row.tolist()) for one, row in zip(documents, y, strict=True)]
        return {"documents": embedded, "meta": {"model": self.adapted.target}}

    @component.output_types(documents=list[Document], meta=dict[str, Any])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """Call `run` in a thread."""
        return await asyncio.to_thread(self.run, documents)

    def _text(self, document: Document) -> str:
        meta = [str(document.meta[key]) for key in self.meta_fields_to_embed if document.meta.get(key) is not None]
        return self.prefix + self.embedding_separator.join([*meta, document.content or ""]) + self.suffix
