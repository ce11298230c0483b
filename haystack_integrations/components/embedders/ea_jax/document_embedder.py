"""Embed documents for storage beside native vectors."""

import asyncio
from dataclasses import replace
from typing import Any

from haystack import Document, component  # pyright: ignore[reportMissingImports] (extra: haystack)

from haystack_integrations.components.embedders.ea_jax.embedder import Embedder


@component
class EaJaxDocumentEmbedder(Embedder):
    """Embeds documents locally in another model's space. A pipeline stores the arguments and no parameters."""

    def __init__(
        self,
        source: str,
        target: str,
        flavor: str | None = None,
        *,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        **options: Any,
    ) -> None:
        """Store the names; `warm_up` or the first run loads the encoder.

        Args:
            source: Local model, by id or alias.
            target: Model whose space the embeddings are in, by id or alias.
            flavor: Name of one adapter of the pair. If None, as in `ea_jax.load`.
            meta_fields_to_embed: Names of metadata that are embedded before the content.
            embedding_separator: Text between the metadata and the content.
            options: The other arguments of EaJaxTextEmbedder.
        """
        Embedder.__init__(self, source, target, flavor, **options)  # Haystack replaces the class that super() means
        self.meta_fields_to_embed, self.embedding_separator = list(meta_fields_to_embed or []), embedding_separator

    def arguments(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {"meta_fields_to_embed": self.meta_fields_to_embed, "embedding_separator": self.embedding_separator}
        return Embedder.arguments(self) | own

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
