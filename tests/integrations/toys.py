"""A toy encoder, whose embeddings are sums of random word vectors."""

import hashlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ea_jax import load, load_quality
from ea_jax.integrations.adapted_encoder import AdaptedEncoder, Names


class ToySpec(NamedTuple):
    max_length: int = 64
    windows: int = 1
    model: str = "toy/source"


class ToyTokens(NamedTuple):
    ids: list[list[int]]


class ToyEncoder:
    """The methods of an encoder that are used. A text with the word `fail` raises an error."""

    spec = ToySpec()

    def tokenize(self, texts: list[str]) -> ToyTokens:
        return ToyTokens([[_token(word) for word in text.split()] for text in texts])

    def __init__(self) -> None:
        self.warmed: list[tuple[int, int, int]] = []

    def warm(self, batch_size: int, *, min_tokens: int, max_tokens: int) -> None:
        self.warmed.append((batch_size, min_tokens, max_tokens))

    def embed(self, tokenized: ToyTokens, batch_size: int | None = None) -> np.ndarray:
        if any(_token("fail") in ids for ids in tokenized.ids):
            raise RuntimeError("a bug")
        return np.stack([_row(ids) for ids in tokenized.ids])


@cache
def _token(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")


@cache
def _word_vector(token: int) -> np.ndarray:
    return np.random.default_rng(token).normal(size=8)


def _row(ids: list[int]) -> np.ndarray:
    y = sum(map(_word_vector, ids), np.full(8, 1e-3))
    return (y / np.linalg.norm(y)).astype(np.float32)


def toy_adapted(root: Any) -> AdaptedEncoder:
    """Load the toy adapter, as if its target were a Matryoshka model."""
    names = Names("toy-a", "toy-b", None, str(root))
    query, quality = load("toy-a", "toy-b", purpose="query", root=root), load_quality("toy-a", "toy-b", root=root)
    return AdaptedEncoder(ToyEncoder(), query, quality, True, names)
