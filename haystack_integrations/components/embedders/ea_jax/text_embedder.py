"""Embed queries for a native index."""

import asyncio
from typing import Any

from haystack import component  # pyright: ignore[reportMissingImports] (extra: haystack)

from haystack_integrations.components.embedders.ea_jax.embedder import Embedder


@component
class EaJaxTextEmbedder(Embedder):
    """Embeds a query locally in another model's space. A pipeline stores the arguments and no parameters."""

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
