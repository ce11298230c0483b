"""Compute batches of texts with programs that are compiled in advance."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ea_jax.adapters.spec import PURPOSES
from ea_jax.integrations.adapted_encoder import SCORES
from ea_jax.integrations.server.models import Catalog

SIZES = (1, 4, 16)  # texts that an encoder reads together
READY_TOKENS = 256  # single texts up to this length are compiled before the server is ready, longer ones after
LENGTHS = (64, READY_TOKENS, 512, 1024, 2048, 4096, 8192)  # tokens; between two of them, compiling can be stopped
CONFIDENCE = SCORES.index("confidence")


class Row(NamedTuple):
    """The result for one text.

    Attributes:
        vector: Embedding in the target space, with all dimensions.
        scores: Quality scores, in the order of `SCORES`.
        tokens: Number of tokens that the local model read.
    """

    vector: Float[np.ndarray, " d"]
    scores: Float[np.ndarray, " s"]
    tokens: int

    @property
    def confidence(self) -> float:
        """Probability that the query vector has its true neighbor in the first ten results."""
        return float(self.scores[CONFIDENCE])


class Engine:
    """Computes batches with compiled programs only, so that no request waits for a compilation.

    Attributes:
        size: Largest number of texts for which the encoders' programs are compiled: first 1, later 4 and 16.
    """

    def __init__(self) -> None:
        self.size = 1
        self._stopped = threading.Event()

    def prepare(self, catalog: Catalog, most_texts: int) -> None:
        """Compile the programs for single texts of common lengths, or read them from the compilation cache.

        Args:
            catalog: The served models.
            most_texts: Largest number of texts in a batch.
        """
        self._warm(catalog, 1, 1, READY_TOKENS)
        for model in catalog.models:
            x = np.zeros((most_texts, model.adapted.quality.spec.d_in), np.float32)
            x[:, 0] = 1.0
            for purpose in PURPOSES:
                for count in (1 << i for i in range((most_texts - 1).bit_length() + 1)):
                    model.adapted.map_source(x[:count], purpose)

    def prepare_more(self, catalog: Catalog) -> None:
        """Compile the programs for long texts, then for several at once. Other threads can call `compute` meanwhile."""
        self._warm(catalog, 1, READY_TOKENS + 1, LENGTHS[-1])
        for size in SIZES[1:]:
            self._warm(catalog, size, 1, LENGTHS[-1])
            self.size = size

    def stop(self) -> None:
        """Stop compiling."""
        self._stopped.set()

    def _warm(self, catalog: Catalog, size: int, shortest: int, longest: int) -> None:
        encoders = {id(model.adapted.encoder): model.adapted.encoder for model in catalog.models}
        for before, length in pairwise((0, *LENGTHS)):
            for encoder in encoders.values():
                if shortest <= length <= longest and not self._stopped.is_set():
                    encoder.warm(size, min_tokens=before + 1, max_tokens=length)

    def compute(self, parts: Sequence[tuple[Any, str]]) -> list[Row]:
        """Compute one row for each text. Models with the same encoder share its forward pass.

        Args:
            parts: Pairs of key and text. A key is a `ServedModel` and a purpose.
        """
        rows: list[Row | None] = [None] * len(parts)
        for members in _grouped(range(len(parts)), lambda i: id(parts[i][0][0].adapted.encoder)):
            adapted = parts[members[0]][0][0].adapted
            x, tokens = adapted.encode_source([parts[i][1] for i in members], self.size)
            at = {i: row for row, i in enumerate(members)}
            for same in _grouped(members, lambda i: (id(parts[i][0][0]), parts[i][0][1])):
                model, purpose = parts[same[0]][0]
                y, scores = model.adapted.map_source(x[[at[i] for i in same]], purpose)
                columns = np.stack(scores, axis=-1)
                for row, i in enumerate(same):
                    rows[i] = Row(y[row], columns[row], tokens[at[i]])
        return [row for row in rows if row is not None]


def _grouped(items: Sequence[int], key: Callable[[int], Any]) -> Iterator[list[int]]:
    """Group items by key, keeping their order."""
    for _, group in groupby(sorted(items, key=key), key):
        yield sorted(group)
