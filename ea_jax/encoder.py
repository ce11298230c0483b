"""The encoder: texts to embeddings, a tokenizer on the host and a pure function on the device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from tokenizers import Tokenizer

from ea_jax.arrays import ArrayIn, Params
from ea_jax.errors import BadInput
from ea_jax.ops import mean_pool, unit
from ea_jax.spec import EncoderSpec

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512)
POOLINGS = {"mean": mean_pool}


class Tokens(NamedTuple):
    """Padded token ids, and a mask that is 1 on tokens and 0 on padding."""

    ids: Int[ArrayIn, "b t"]
    mask: Int[ArrayIn, "b t"]


class Tokenized(NamedTuple):
    """Token ids a text, and whether the text was cut at the maximum length."""

    ids: list[list[int]]
    cut: list[bool]


@partial(jax.jit, static_argnums=(0, 1))
def _embed(module: nn.Module, spec: EncoderSpec, params: Params, tokens: Tokens) -> Float[Array, "b d"]:
    hidden = cast(Array, module.apply({"params": params}, tokens.ids, tokens.mask))
    pooled = POOLINGS[spec.pooling](hidden, jnp.asarray(tokens.mask, hidden.dtype))
    return unit(pooled) if spec.normalize else pooled


def _padded_length(tokens: int, most: int) -> int:
    """The smallest of a few lengths that holds the tokens; the model's own limit beyond them."""
    return next((length for length in LENGTHS if tokens <= length <= most), most)


def _padded_rows(rows: int, most: int) -> int:
    """The smallest power of two that holds the rows, but at most `most`."""
    return min(1 << (rows - 1).bit_length(), most)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Encoder:
    """A pytree whose leaves are `params`; `encode(texts)` for texts, `encode.apply(params, tokens)` for the pure part.

    Attributes:
        spec: What it is: model, pooling, lengths, prompts; static and hashable.
        module: The Flax module that computes token vectors.
        tokenizer: Text to token ids.
        params: Its parameters, a nested dict of arrays.
    """

    spec: EncoderSpec = field(metadata={"static": True})
    module: nn.Module = field(metadata={"static": True})
    tokenizer: Tokenizer = field(metadata={"static": True})
    params: Params

    def __call__(
        self,
        texts: Sequence[str],
        *,
        prompt: str | None = None,
        batch_size: int = 32,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Float[np.ndarray, "n d"]:
        """Embed texts, in the order given.

        Args:
            texts: Any strings; an empty one has an embedding too.
            prompt: Name of the prefix to put before each text; None for no prefix.
            batch_size: Texts computed together; it changes speed and memory, not the result.
            max_length: Tokens after which a text is cut; the model's own limit if None.
            show_progress: Draw a bar on stderr.

        Raises:
            BadInput: texts is no list of strings, or a number is out of range.
            UnknownName: The model has no such prompt.
        """
        return self.embed(self.tokenize(texts, prompt=prompt, max_length=max_length), batch_size, show_progress)

    def apply(self, params: Params, tokens: Tokens) -> Float[Array, "b d"]:
        """The pure part: padded tokens to embeddings, jitted."""
        return _embed(self.module, self.spec, params, tokens)

    def tokenize(self, texts: Sequence[str], *, prompt: str | None = None, max_length: int | None = None) -> Tokenized:
        """Token ids of each text with its prompt, cut at `max_length`. Raises as `__call__` does."""
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise BadInput('Texts must be a list of strings, for instance encode(["a text"]).')
        limit = self.spec.max_length if max_length is None else max_length
        if not 3 <= limit <= self.spec.positions:
            raise BadInput(f"max_length is {limit}; {self.spec.model} takes from 3 to {self.spec.positions} tokens.")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(limit)
        prefix = self.spec.prefix(prompt)
        try:
            found = self.tokenizer.encode_batch([prefix + text for text in texts])
        except TypeError as error:  # the tokenizer's word for text that has no UTF-8 form
            raise BadInput("A text holds a lone surrogate, which is no character. Decode it as UTF-8 first.") from error
        return Tokenized([one.ids for one in found], [bool(one.overflowing) for one in found])

    def embed(
        self, tokenized: Tokenized, batch_size: int = 32, show_progress: bool = False
    ) -> Float[np.ndarray, "n d"]:
        """Embed tokenized texts: sorted by length, computed in batches of a few padded shapes, returned in order."""
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; it must be 1 or more.")
        out = np.zeros((len(tokenized.ids), self.spec.width), np.float32)
        batches = list(self._batches(tokenized.ids, batch_size))
        if show_progress:
            from rich.console import Console
            from rich.progress import track

            batches = track(batches, "Embedding", console=Console(stderr=True), disable=len(batches) < 2)
        for rows, tokens in batches:
            out[rows] = np.asarray(self.apply(self.params, tokens))[: len(rows)]
        return out

    def _batches(self, ids: list[list[int]], batch_size: int) -> Iterator[tuple[list[int], Tokens]]:
        """Rows of similar length with their tokens; both axes are padded, so shapes are few."""
        order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            shape = (_padded_rows(len(rows), batch_size), _padded_length(len(ids[rows[0]]), self.spec.positions))
            padded = Tokens(np.full(shape, self.spec.pad_id, np.int32), np.zeros(shape, np.int32))
            for i, row in enumerate(rows):
                padded.ids[i, : len(ids[row])] = ids[row]
                padded.mask[i, : len(ids[row])] = 1
            yield rows, padded
