"""The API of embedding-adapters: code written for that package runs here with changed imports."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ea_jax import loading
from ea_jax.adapters.adapter import Adapter
from ea_jax.devices import find_device
from ea_jax.encoders.encoder import Encoder
from ea_jax.errors import BadInput
from ea_jax.quality.scores import Quality
from ea_jax.registry.entry import Entry
from ea_jax.typing import ArrayIn


@dataclass(frozen=True)
class EmbeddingAdapter:
    """An adapter with its quality part and, optionally, its source encoder.

    Attributes:
        entry: The registry entry of the adapter.
        adapter: The pure function and its parameters.
        quality: The quality scores and their parameters.
        encoder: The source encoder; None if it was not loaded.
    """

    entry: Entry
    adapter: Adapter
    quality: Quality
    encoder: Encoder | None = None

    @classmethod
    def from_registry(
        cls,
        source: str,
        target: str,
        flavor: str | None = None,
        *,
        device: str | None = None,
        huggingface_token: str | None = None,
        load_source_encoder: bool = False,
    ) -> "EmbeddingAdapter":
        """Load an adapter by the names of its models.

        Args:
            source: Model that made the embeddings, by id or alias.
            target: Model whose space they are mapped to, by id or alias.
            flavor: Name of one adapter among those of the pair; optional if there is only one.
            device: JAX backend: cpu, gpu (or cuda) or tpu; the best one if None.
            huggingface_token: Token for gated models; `HF_TOKEN` is used if None.
            load_source_encoder: Whether to load the encoder too, which `encode` needs.

        Raises:
            UnknownName, BadEntry, CorruptCheckpoint: As in `ea_jax.load`.
            BadInput: JAX has no such device.
        """
        if huggingface_token:
            os.environ["HF_TOKEN"] = huggingface_token
        entry = loading.resolve_entry(source, target, flavor)
        sharding = jax.sharding.SingleDeviceSharding(find_device(device))
        encoder = loading.load_source_encoder(entry) if load_source_encoder else None
        adapter = loading.load_adapter(entry, sharding=sharding)
        return cls(entry, adapter, loading.load_quality_part(entry, adapter, sharding=sharding), encoder)

    from_pair = from_registry

    def encode_embeddings(self, x: Float[ArrayIn, "*batch d_in"]) -> Float[np.ndarray, "*batch d_out"]:
        """Map source embeddings to the target space."""
        return np.asarray(self.adapter(self.adapter.params, x))

    def encode(self, texts: Sequence[str], **options: Any) -> Float[np.ndarray, "n d_out"]:
        """Embed texts with the source encoder and map them. Options go to the call of the encoder.

        Raises:
            BadInput: The adapter was loaded without its encoder.
        """
        if self.encoder is None:
            raise BadInput("This adapter has no encoder. Load it with load_source_encoder=True to embed texts.")
        return self.encode_embeddings(self.encoder(texts, **options))

    def score_source(self, x: Float[ArrayIn, "*batch d_in"]) -> dict[str, Float[np.ndarray, "*batch"]]:
        """Score source embeddings; returns the scores by name, of which `confidence` summarizes the others."""
        scores = self.quality(self.quality.params, x)
        return {name: np.asarray(value) for name, value in scores._asdict().items()}
