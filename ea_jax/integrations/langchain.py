"""LangChain's `Embeddings`: `embed_query` for searching a native index, `embed_documents` for adding to it."""

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict

from ea_jax.integrations.adapted_encoder import AdaptedEncoder
from ea_jax.integrations.shared import missing_base, shared_encoder

try:
    from langchain_core.embeddings import Embeddings  # pyright: ignore[reportMissingImports] (extra: langchain)
except ImportError:
    Embeddings = missing_base("langchain-core", "langchain")


class EaJaxEmbeddings(BaseModel, Embeddings):
    """Local embeddings in another model's space. Serialized objects contain these names and no parameters.

    A text has different vectors as a query and as a document, but `CacheBackedEmbeddings` has one key for both. Pass
    a separate store as its `query_embedding_cache`, not True.

    Attributes:
        source: Local model, by id or alias.
        target: Model whose space the embeddings are in, by id or alias.
        flavor: Name of one adapter of the pair. If None, as in `load`.
        registry: Registry folder. If None, all registries.
        dimensions: Number of leading dimensions to keep, for a Matryoshka target. If None, all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    target: str
    flavor: str | None = None
    registry: str | None = None
    dimensions: int | None = None

    @property
    def adapted(self) -> AdaptedEncoder:
        """The adapted encoder, loaded on first use and shared by its names."""
        return shared_encoder(self.source, self.target, self.flavor, self.registry)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents for storage beside native vectors."""
        return self.adapted.embed(texts, "store", self.dimensions).vectors.tolist()

    def embed_query(self, text: str) -> list[float]:
        """Embed a query for a native index."""
        return self.embed_queries([text])[0]

    def embed_queries(self, texts: list[str]) -> list[list[float]]:
        """Embed several queries."""
        return self.adapted.embed(texts, "query", self.dimensions).vectors.tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Call `embed_documents` in a thread."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Call `embed_query` in a thread."""
        return await asyncio.to_thread(self.embed_query, text)

    def native_similarity(self, score: Any) -> Any:
        """Map search scores to the scale of similarities between native vectors, for thresholds."""
        return self.adapted.native_similarity(score)
