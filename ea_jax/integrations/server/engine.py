"""Compute batches of texts with programs that are compiled in advance."""

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from ea_jax.adapters.spec import PURPOSES
from ea_jax.integrations.adapted_encoder import SCORES, AdaptedEncoder
from ea_jax.integrations.server.models import Catalog

LENGTHS = (12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512, 1024, 2048, 4096, 8192)  # tokens
BUDGET = 1024  # tokens of a batch on a CPU
SIZES = (1, 4, 16)  # texts that an encoder reads together
READY_TOKENS = 256  # single texts up to this length are compiled before the server is ready, longer ones after
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
        sizes: Numbers of texts for which the encoders' programs are compiled: first 1, later all of `SIZES`.
    """

    def __init__(self) -> None:
        self.sizes: tuple[int, ...] = (1,)
        self._stopped = threading.Event()

    def prepare(self, catalog: Catalog, most_texts: int) -> None:
        """Compile the programs for single texts of common lengths, or read them from the compilation cache.

        Args:
            catalog: The served models.
            most_texts: Largest number of texts in a batch.
        """
        for adapted in _encoders(catalog):
            self._probe(adapted, 1, [n for n in probe_lengths(adapted, 1) if n <= READY_TOKENS])
        for model in catalog.models:
            x = np.zeros((most_texts, model.adapted.quality.spec.d_in), np.float32)
            x[:, 0] = 1.0
            for purpose in PURPOSES:
                for count in (1 << i for i in range((most_texts - 1).bit_length() + 1)):
                    model.adapted.map_source(x[:count], purpose)

    def prepare_more(self, catalog: Catalog) -> None:
        """Compile the programs for long texts, then for several at once. Other threads can call `compute` meanwhile."""
        for adapted in _encoders(catalog):
            self._probe(adapted, 1, [n for n in probe_lengths(adapted, 1) if n > READY_TOKENS])
        for size in SIZES[1:]:
            for adapted in _encoders(catalog):
                self._probe(adapted, size, probe_lengths(adapted, size))
            self.sizes = (*self.sizes, size)

    def stop(self) -> None:
        """Stop compiling."""
        self._stopped.set()

    def _probe(self, adapted: AdaptedEncoder, size: int, lengths: Sequence[int]) -> None:
        for length in lengths:
            if not self._stopped.is_set():
                adapted.encode_source([_text(length)] * min(size, max(1, BUDGET // length)))

    def compute(self, parts: Sequence[tuple[Any, str]]) -> list[Row]:
        """Compute one row for each text. Models with the same encoder share its forward pass.

        Args:
            parts: Pairs of key and text. A key is a `ServedModel` and a purpose.
        """
        rows: list[Row | None] = [None] * len(parts)
        for members in _grouped(range(len(parts)), lambda i: id(parts[i][0][0].adapted.encoder)):
            adapted = parts[members[0]][0][0].adapted
            x, tokens = self._encode(adapted, [parts[i][1] for i in members])
            at = {i: row for row, i in enumerate(members)}
            for same in _grouped(members, lambda i: (id(parts[i][0][0]), parts[i][0][1])):
                model, purpose = parts[same[0]][0]
                y, scores = model.adapted.map_source(x[[at[i] for i in same]], purpose)
                columns = np.stack(scores, axis=-1)
                for row, i in enumerate(same):
                    rows[i] = Row(y[row], columns[row], tokens[at[i]])
        return [row for row in rows if row is not None]

    def _encode(self, adapted: AdaptedEncoder, texts: list[str]) -> tuple[Float[np.ndarray, "n d"], list[int]]:
        """Embed texts in groups of similar length. Returns source embeddings and numbers of tokens."""
        x, tokens = np.zeros((len(texts), adapted.quality.spec.d_in), np.float32), [0] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        start = 0
        for count, size in group_sizes(len(texts), self.sizes):
            group = order[start : start + count]
            start += count
            embeddings, counts = adapted.encode_source([texts[i] for i in group] + [texts[group[0]]] * (size - count))
            x[group] = embeddings[:count]
            for i, number in zip(group, counts[:count], strict=True):
                tokens[i] = number
        return x, tokens


def group_sizes(count: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Split texts into groups of the compiled sizes. Returns the number of texts and the padded size of each group.

    A group is padded if it is at least half full; the remaining texts form smaller groups.

    Args:
        count: Number of texts.
        sizes: Compiled sizes, ascending from 1.
    """
    groups = []
    for size in sorted(sizes, reverse=True):
        while 2 * count >= size and count:
            groups.append((min(count, size), size))
            count -= min(count, size)
    return groups


def probe_lengths(adapted: AdaptedEncoder, size: int) -> list[int]:
    """Lengths, in tokens, at which `size` equal texts have every padded shape of the encoder.

    An encoder pads texts to a few lengths. It splits batches by a budget of tokens, so long texts are single. Single
    texts beyond the encoder's limit are read in windows.
    """
    spec = adapted.encoder.spec
    windows = [count * spec.max_length for count in range(2, spec.windows + 1)] if size == 1 else []
    return [length for length in LENGTHS if size == 1 or BUDGET // length > 1] + windows


def _text(tokens: int) -> str:
    """Make a text of this many tokens, including two special tokens."""
    return " ".join(["a"] * (tokens - 2))


def _encoders(catalog: Catalog) -> list[AdaptedEncoder]:
    """One adapted encoder for each different encoder."""
    return list({id(model.adapted.encoder): model.adapted for model in catalog.models}.values())


def _grouped(items: Sequence[int], key: Callable[[int], Any]) -> Iterator[list[int]]:
    """Group items by key, keeping their order."""
    for _, group in groupby(sorted(items, key=key), key):
        yield sorted(group)
