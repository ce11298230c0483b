"""MTEB's `EncoderProtocol`: queries are embedded with the purpose `query`, documents with `store`."""

from typing import Any

import numpy as np
from jaxtyping import Float

from ea_jax.errors import MissingDependency
from ea_jax.integrations.adapted_encoder import AdaptedEncoder, load_adapted_encoder


class EaJaxMteb:
    """An adapted encoder that MTEB can evaluate.

    MTEB's `CachedEmbeddingWrapper` has one key for a text as a query and as a document. Do not use it if a task has
    texts that are both.
    """

    def __init__(
        self, source: str | AdaptedEncoder, target: str = "", flavor: str | None = None, registry: str | None = None
    ) -> None:
        """Load an adapted encoder by the arguments of `load_adapted_encoder`, or wrap one that is already loaded."""
        try:
            from mteb.models import ModelMeta  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingDependency("mteb is not installed: pip install mteb.") from error
        is_name = isinstance(source, str)
        self.adapted = load_adapted_encoder(source, target, flavor, registry) if is_name else source
        spec = self.adapted.quality.spec
        name = f"{spec.source.rpartition('/')[2]}--{spec.target.rpartition('/')[2]}"
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"ea_jax/{name}",
                "revision": spec.fingerprint,
                "embed_dim": self.adapted.width,
                "similarity_fn_name": "cosine",
            }
        )

    def encode(self, inputs: Any, *, prompt_type: Any = None, **_: Any) -> Float[np.ndarray, "n d"]:
        """Embed the texts of all batches."""
        from mteb.types import PromptType  # pyright: ignore[reportMissingImports]

        texts = [text for batch in inputs for text in batch["text"]]
        purpose = "query" if prompt_type == PromptType.query else "store"
        return self.adapted.embed(texts, purpose).vectors

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each row of the first array with each row of the second."""
        import torch

        return torch.from_numpy(self.adapted.similarity(embeddings1, embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Cosine of each row of the first array with the same row of the second."""
        import torch

        a, b = (np.atleast_2d(np.asarray(part, np.float32)) for part in (embeddings1, embeddings2))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return torch.from_numpy(np.sum(a * b, axis=1) / np.maximum(lengths, 1e-12))
