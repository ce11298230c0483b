"""LlamaIndex's `BaseEmbedding`: query embeddings search a native index, text embeddings are added to it."""

import asyncio
from typing import Any

from pydantic import Field

from ea_jax.integrations.adapted_encoder import AdaptedEncoder
from ea_jax.integrations.shared import missing_base, shared_encoder

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding  # pyright: ignore[reportMissingImports]
except ImportError:
    BaseEmbedding = missing_base("llama-index-core", "llama-index")


class EaJaxEmbedding(BaseEmbedding):
    """Local embeddings in another model's space. Serialized objects contain these names and no parameters.

    A text has different vectors as a query and as a document, but an `embeddings_cache` has one key for both. So the
    cache is used for documents only.
    """

    source: str = Field(description="Local model, by id or alias.")
    target: str = Field(description="Model whose space the embeddings are in, by id or alias.")
    flavor: str | None = Field(default=None, description="Name of one adapter of the pair.")
    registry: str | None = Field(default=None, description="Registry folder. If None, all.")
    dimensions: int | None = Field(default=None, description="Number of leading dimensions to keep.")

    def __init__(self, **fields: Any) -> None:
        fields.setdefault("model_name", f"{fields.get('source')}--{fields.get('target')}")
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serializes this class."""
        return "EaJaxEmbedding"

    @property
    def adapted(self) -> AdaptedEncoder:
        """The adapted encoder, loaded on first use and shared by its names."""
        return shared_encoder(self.source, self.target, self.flavor, self.registry)

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query for a native index, without the cache."""
        return BaseEmbedding.get_query_embedding(self._uncached(), query)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Embed a query in a thread, without the cache."""
        return await BaseEmbedding.aget_query_embedding(self._uncached(), query)

    def native_similarity(self, score: Any) -> Any:
        """Map search scores to the scale of similarities between native vectors, for thresholds."""
        return self.adapted.native_similarity(score)

    def _uncached(self) -> "EaJaxEmbedding":
        return self.model_copy(update={"embeddings_cache": None})

    def _embed(self, texts: list[str], purpose: str) -> list[list[float]]:
        return self.adapted.embed(texts, purpose, self.dimensions).vectors.tolist()

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed([query], "query")[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed([text], "store")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed(texts, "store")

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)
