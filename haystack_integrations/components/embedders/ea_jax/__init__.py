"""Haystack components. Its pipeline loader accepts only modules of `haystack` and `haystack_integrations`."""

from haystack_integrations.components.embedders.ea_jax.document_embedder import EaJaxDocumentEmbedder
from haystack_integrations.components.embedders.ea_jax.text_embedder import EaJaxTextEmbedder

__all__ = ["EaJaxDocumentEmbedder", "EaJaxTextEmbedder"]
