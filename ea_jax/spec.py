"""What an adapter or an encoder is, without its parameters: static, hashable, free of JAX."""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from ea_jax.errors import UnknownName, nearest

Purpose = Literal["store", "query"]


@dataclass(frozen=True)
class Spec:
    """An adapter without its parameters; equal specs never recompile.

    Attributes:
        family: Which module of `models.py` computes it.
        source: Full id of the model whose embeddings come in.
        target: Full id of the model whose space they go to.
        d_in: Width of the source embeddings.
        d_out: Width of the target embeddings.
        unit_norm: Whether outputs have length one.
        purpose: `store` for faithful vectors, `query` for best recall against a native index.
        fingerprint: Of the encoder whose embeddings it was fitted on; empty where not recorded.
    """

    family: str
    source: str
    target: str
    d_in: int
    d_out: int
    unit_norm: bool = True
    purpose: Purpose = "store"
    fingerprint: str = ""


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder without its parameters, as its folder's files describe it.

    Attributes:
        model: Full id of the model, or the folder's name where it has none.
        revision: First 16 hex digits of the SHA-256 of the weights: the same weights, the same revision.
        width: Width of the embeddings.
        pooling: How token vectors become one: `mean`.
        normalize: Whether embeddings have length one.
        prompts: Names and texts of the prefixes that the model was trained with.
        max_length: Tokens, special ones included, after which a text is cut.
        positions: The most tokens that the model can take at all.
        pad_id: Token id that fills the padding.
    """

    model: str
    revision: str
    width: int
    pooling: str
    normalize: bool
    prompts: tuple[tuple[str, str], ...]
    max_length: int
    positions: int
    pad_id: int

    def facts(self, prompt: str | None = None) -> dict[str, str | int | bool]:
        """All that shapes a vector, and their `fingerprint`: 16 hex digits that change when one of them does."""
        facts: dict[str, str | int | bool] = {
            "model": self.model,
            "revision": self.revision,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "prefix": self.prefix(prompt),
            "max_length": self.max_length,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return facts | {"fingerprint": digest[:16]}

    def prefix(self, prompt: str | None) -> str:
        """The text that a named prompt puts before an input; none for None.

        Raises:
            UnknownName: The model has no prompt of this name.
        """
        prompts = dict(self.prompts)
        if prompt is not None and prompt not in prompts:
            raise UnknownName(f"{self.model} has no prompt named {prompt!r}. {nearest(prompt, prompts)}")
        return prompts[prompt] if prompt is not None else ""
