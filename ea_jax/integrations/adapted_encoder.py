"""Embed texts in another model's space: an encoder with its adapter for both purposes and its quality part."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ea_jax.adapters.adapter import Adapter
from ea_jax.adapters.spec import PURPOSES
from ea_jax.errors import BadInput
from ea_jax.loading import load_adapters, load_quality_part, load_source_encoder, resolve_entry
from ea_jax.quality.scores import Quality, Scores
from ea_jax.registry.entry import Entry
from ea_jax.registry.spaces import find_space
from ea_jax.retrieval.neighbors import unit_rows

CHUNK = 4096  # texts that are tokenized and mapped together
SCORES = Scores._fields


class Embedded(NamedTuple):
    """Embeddings of texts in the target space, one row a text.

    Attributes:
        vectors: Embeddings in the target space.
        scores: Quality scores of the inputs.
        tokens: Number of tokens of each text that the local model read.
    """

    vectors: Float[np.ndarray, "n d_out"]
    scores: Scores
    tokens: list[int]


class Names(NamedTuple):
    """The names that identify an adapted encoder. Serialized objects contain these names and no parameters."""

    source: str
    target: str
    flavor: str | None = None
    registry: str | None = None


@dataclass(frozen=True, eq=False)
class AdaptedEncoder:
    """A local encoder whose embeddings are in another model's space, with the methods of a `SentenceTransformer`.

    `encode_query` returns vectors that search a native index, `encode_document` vectors to store in one. Methods can
    be called from several threads. Pickles contain the names, not the parameters.

    Attributes:
        encoder: The source model's `Encoder`, or an object with its `tokenize`, `embed` and `warm`.
        query: Adapter for the purpose `query`.
        quality: Quality part of the adapter. Its parameters include those of the adapter for the purpose `store`.
        matryoshka: Whether the leading dimensions of the target's embeddings are embeddings too.
        names: Names from which it was loaded. If None, it cannot be pickled.
    """

    encoder: Any
    query: Adapter
    quality: Quality
    matryoshka: bool = False
    names: Names | None = None
    _lock: Any = field(default_factory=threading.Lock, repr=False)  # tokenizers hold mutable settings

    @property
    def width(self) -> int:
        """Width of an embedding."""
        return self.quality.spec.d_out

    @property
    def target(self) -> str:
        """Full id of the target model."""
        return self.quality.spec.target

    def check_dimensions(self, dimensions: int | None) -> None:
        """Raise BadInput unless embeddings can be shortened to this many leading dimensions."""
        if dimensions is None or dimensions == self.width:
            return
        if not self.matryoshka:
            raise BadInput(f"{self.target} is not a Matryoshka model. Omit dimensions; it has no shorter embeddings.")
        if not 1 <= dimensions <= self.width:
            raise BadInput(
                f"dimensions is {dimensions}, but {self.target} has embeddings of 1 to {self.width} dimensions."
            )

    def embed(self, texts: Sequence[str], purpose: str = "store", dimensions: int | None = None) -> Embedded:
        """Embed texts and score them.

        Args:
            texts: Texts of any length.
            purpose: `query` for vectors that search a native index, `store` for vectors to store in one.
            dimensions: Number of leading dimensions to keep, rescaled to unit length. If None, all.

        Raises:
            BadInput: A text is not a string, or `purpose` or `dimensions` is not valid.
        """
        self.check_dimensions(dimensions)
        parts = []
        for start in range(0, len(texts), CHUNK):
            x, tokens = self.encode_source(texts[start : start + CHUNK])
            parts.append(Embedded(*self.map_source(x, purpose, dimensions), tokens))
        if not parts:
            empty = np.zeros((len(SCORES), 0), np.float32)
            return Embedded(np.zeros((0, dimensions or self.width), np.float32), Scores(*cast(Any, empty)), [])
        if len(parts) == 1:
            return parts[0]
        columns: Any = [np.concatenate(column) for column in zip(*(part.scores for part in parts), strict=True)]
        vectors = np.concatenate([part.vectors for part in parts])
        return Embedded(vectors, Scores(*columns), [count for part in parts for count in part.tokens])

    def encode_source(
        self, texts: Sequence[str], batch_size: int | None = None
    ) -> tuple[Float[np.ndarray, "n d_in"], list[int]]:
        """Embed texts in the source space, at most `batch_size` together.

        Returns:
            The embeddings, and the number of tokens of each text.
        """
        with self._lock:
            tokenized = self.encoder.tokenize(list(texts))
        return np.asarray(self.encoder.embed(tokenized, batch_size), np.float32), [len(ids) for ids in tokenized.ids]

    def map_source(
        self, x: Float[np.ndarray, "n d_in"], purpose: str = "store", dimensions: int | None = None
    ) -> tuple[Float[np.ndarray, "n d_out"], Scores]:
        """Map source embeddings to the target space and score them. The shared layers are computed once."""
        if purpose not in PURPOSES:
            raise BadInput(f"purpose is {purpose!r}; it must be 'store' or 'query'.")
        adapt = self.query if purpose == "query" else Adapter(self.quality.spec, self.quality.params["adapter"])
        rows = 1 << max(len(x) - 1, 0).bit_length()  # a power of two, so that few shapes are compiled
        padded = np.concatenate([x, np.zeros((rows - len(x), x.shape[1]), x.dtype)]) if rows > len(x) else x
        y, scores = jax.device_get(self.quality.map_and_score(self.quality.params, adapt, padded))
        y = np.asarray(y[: len(x)], np.float32)
        y = y if dimensions is None or dimensions == self.width else unit_rows(y[:, :dimensions])
        return y, Scores(*(column[: len(x)] for column in scores))

    def encode_query(self, sentences: str | Sequence[str], **options: Any) -> Float[np.ndarray, "*n d_out"]:
        """Embed queries for a native index. One string returns one vector. Options are those of `encode`."""
        return self.encode(sentences, purpose="query", **options)

    def encode_document(self, sentences: str | Sequence[str], **options: Any) -> Float[np.ndarray, "*n d_out"]:
        """Embed documents for a native index. One string returns one vector. Options are those of `encode`."""
        return self.encode(sentences, purpose="store", **options)

    def encode(
        self, sentences: str | Sequence[str], *, purpose: str = "store", dimensions: int | None = None, **_: Any
    ) -> Float[np.ndarray, "*n d_out"]:
        """Embed like `SentenceTransformer.encode`. Options for batches, devices and prompts have no effect."""
        y = self.embed([sentences] if isinstance(sentences, str) else list(sentences), purpose, dimensions).vectors
        return y[0] if isinstance(sentences, str) else y

    def confidence(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Probability, for each text, that its query vector has its true neighbor in the first ten results."""
        return cast(np.ndarray, self.embed(texts, "query").scores.confidence)

    def native_similarity(self, score: Any) -> Float[np.ndarray, "*n"]:
        """Map scores of query vectors against native vectors to the scale of similarities between native vectors.

        The map is monotone, so rankings do not change. Use it before comparing scores with a fixed threshold.
        """
        return np.asarray(self.quality.native_similarity(self.quality.params, jnp.asarray(score, jnp.float32)))

    def similarity(self, a: Any, b: Any) -> Float[np.ndarray, "n m"]:
        """Cosine of each row of `a` with each row of `b`."""
        a, b = (np.atleast_2d(np.asarray(part, np.float32)) for part in (a, b))
        a, b = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (a, b))
        return a @ b.T

    def get_sentence_embedding_dimension(self) -> int:
        """Width of an embedding."""
        return self.width

    def __reduce__(self) -> tuple[Any, ...]:
        if self.names is None:
            raise BadInput("Without names, an adapted encoder cannot be pickled. Create it with load_adapted_encoder.")
        return load_adapted_encoder, tuple(self.names)


def load_adapted_encoder(
    source: str, target: str, flavor: str | None = None, registry: str | None = None
) -> AdaptedEncoder:
    """Load an adapter and the encoder that it was fitted on.

    Args:
        source: Local model, by id or alias.
        target: Model whose space the embeddings are in, by id or alias.
        flavor: Name of one adapter among those of the pair. If None, as in `load`.
        registry: Registry folder. If None, the folders of $EA_JAX_REGISTRY, your own registry and the bundled one.

    Raises:
        EaJaxError: As `ea_jax.load` and `ea_jax.load_encoder`.
    """
    names = Names(source, target, flavor, registry)
    entry = resolve_entry(*names)
    return adapt_encoder(load_source_encoder(entry), entry, names)


def adapt_encoder(encoder: Any, entry: Entry, names: Names | None = None) -> AdaptedEncoder:
    """Load the adapters and the quality part of an entry for an encoder that is already loaded.

    Args:
        encoder: The encoder that the adapter was fitted on, as `load_source_encoder` returns it.
        entry: The registry entry of the adapter.
        names: The names to serialize.

    Raises:
        EaJaxError: As `ea_jax.load`.
    """
    adapters = load_adapters(entry)
    matryoshka = find_space(entry.target, entry.path.parent).matryoshka
    return AdaptedEncoder(encoder, adapters["query"], load_quality_part(entry, adapters["store"]), matryoshka, names)
