"""Embed the texts of files and stores, and say how many were cut."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from ea_jax.data.pairs import stacked
from ea_jax.encoders.encoder import Encoder

logger = logging.getLogger(__name__)


def embed_texts(
    encoder: Encoder, texts: Sequence[str], where: str, scratch: Path | None = None
) -> Float32[np.ndarray, "n d"]:
    """Embed texts, with a progress bar in a terminal, and warn of those that the encoder's limit cuts.

    Args:
        encoder: The encoder.
        texts: The texts.
        where: File or store of the texts, for the warning.
        scratch: Folder of a file that the vectors are written to and memory-mapped from. If None, memory.
    """
    truncated: list[int] = []
    parts = encoder.stream(texts, show_progress=sys.stderr.isatty(), on_truncated=truncated.append)
    vectors = stacked(parts, scratch)
    if sum(truncated):
        spec = encoder.spec
        limit = f"{spec.windows} windows of {spec.max_length}" if spec.windows > 1 else str(spec.max_length)
        logger.warning(
            f"{where}: {sum(truncated):,} texts are longer than the {limit} tokens of {spec.model} and were cut."
        )
    return vectors
