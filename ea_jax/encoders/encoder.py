"""The encoder: texts to embeddings, a tokenizer on the host and a pure function on the device."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from tokenizers import Tokenizer

from ea_jax.embeddings import unit
from ea_jax.encoders.batching import Tokens, Windows, batches, one_batch
from ea_jax.encoders.spec import EncoderSpec
from ea_jax.errors import BadInput
from ea_jax.progress import progress_bar
from ea_jax.typing import ArrayIn, Params

CHUNK = 4096
LONGEST = 1_000_000  # characters
BAR = 256  # fewer texts are done before a bar is read
BUDGET = {"cpu": 1024}  # tokens of a batch: on a CPU its activations should stay in the cache
ELSEWHERE = 32768
WINDOWS = 6  # a longer text gains little from more

Batch = Tokens | Windows | tuple[Tokens | Windows, ...]
Finish = Callable[[Callable[[int], None]], Float[np.ndarray, "n d"]]  # waits for the device, and reports progress


class Tokenized(NamedTuple):
    """Texts as token ids.

    Attributes:
        ids: Token ids of each text, special ones included; those of its windows follow each other.
        truncated: Whether each text was truncated.
        window: Tokens of a window.
        members: Of a composite, the same for each member; `ids` and `window` are those of the first.
    """

    ids: list[list[int]]
    truncated: list[bool]
    window: int
    members: tuple["Tokenized", ...] = ()


@partial(jax.jit, static_argnums=0)
def _embed(module: nn.Module, params: Params, tokens: Batch) -> Float[Array, "b d"]:
    return cast(Array, module.apply({"params": params}, *tokens))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class Encoder:
    """A pytree whose leaves are `params`; `encode(texts)` for texts, `encode.apply(params, tokens)` for the pure part.

    Attributes:
        spec: What it is: model, pooling, lengths, prompts, and members of a composite; static and hashable.
        module: The Flax module that computes embeddings of tokens.
        tokenizer: Text to token ids; of a composite, those of its members.
        params: Its parameters, a nested dict of arrays.
    """

    spec: EncoderSpec = field(metadata={"static": True})
    module: nn.Module = field(metadata={"static": True})
    tokenizer: Tokenizer = field(metadata={"static": True})
    params: Params

    def with_prompt(self, prompt: str) -> "Encoder":
        """The encoder with another default prompt, which its fingerprint tells.

        Raises:
            UnknownName: The model has no such prompt.
        """
        self.spec.prefix(prompt)
        return replace(self, spec=replace(self.spec, default_prompt=prompt))

    def with_windows(self, most: int = WINDOWS) -> "Encoder":
        """The encoder with long texts read in windows in place of cut, which its fingerprint tells.

        Args:
            most: Windows of a text, each of `spec.max_length` tokens; what is beyond the last is cut.

        Raises:
            BadInput: Its embeddings are not means of token vectors.
        """
        if self.spec.pooling != "mean":
            raise BadInput(
                f"{self.spec.model} pools by {self.spec.pooling}; windows need mean pooling. Leave them out."
            )
        return replace(self, spec=replace(self.spec, windows=most))

    def __call__(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Float[np.ndarray, "n d"]:
        """Embed texts, in the order given.

        Args:
            texts: Any strings, in a list or from a generator; an empty one has an embedding too.
            prompt: Name of the prefix to put before each text; the folder's default prompt if None.
            batch_size: The most texts computed together; it changes speed and memory, not the result.
            max_length: Tokens after which a text is cut, not read in windows; the model's own limit if None.
            show_progress: Draw a bar on stderr.

        Raises:
            BadInput: texts is no list of strings, or a number is out of range. The message names the text.
            UnknownName: The model has no such prompt.
        """
        parts = self.stream(
            texts, prompt=prompt, batch_size=batch_size, max_length=max_length, show_progress=show_progress
        )
        return np.concatenate([np.zeros((0, self.spec.width), np.float32), *parts])

    def encode(
        self,
        sentences: str | Sequence[str],
        *,
        convert_to_numpy: bool = True,
        normalize_embeddings: bool = False,
        **options: Any,
    ) -> Float[ArrayIn, "*n d"]:
        """The same call as sentence-transformers has it: one string gives one vector.

        Args:
            sentences: Strings, or one.
            convert_to_numpy: Whether to return a NumPy array; a JAX array if not.
            normalize_embeddings: Whether to give the vectors length one where the model does not.
            options: Those of the encoder's own call.
        """
        x = self([sentences] if isinstance(sentences, str) else sentences, **options)
        x = unit(x) if normalize_embeddings else x
        x = np.asarray(x) if convert_to_numpy else jnp.asarray(x)
        return x[0] if isinstance(sentences, str) else x

    def stream(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Iterator[Float[np.ndarray, "n d"]]:
        """Embed any number of texts in constant memory: yields the embeddings of a few thousand at a time, in order.

        While the device computes one part, the host tokenizes the next. Args and errors are those of the call.
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise BadInput('Texts must be a list of strings, for instance encode(["a text"]).')
        total, source, seen = (len(texts) if isinstance(texts, Sequence) else None), iter(texts), 0
        with progress_bar("Embedding", total, show_progress, least=BAR) as advance:
            waiting: Finish | None = None
            while chunk := list(islice(source, CHUNK)):
                tokenized = self.tokenize(chunk, prompt=prompt, max_length=max_length, start=seen)
                seen += len(chunk)
                started = self._start(tokenized, batch_size)
                if waiting:
                    yield waiting(advance)
                waiting = started
            if waiting:
                yield waiting(advance)

    def apply(self, params: Params, tokens: Batch) -> Float[Array, "b d"]:
        """The pure part: padded tokens to embeddings, jitted.

        Args:
            params: Parameters, as `self.params` has them.
            tokens: Of one batch of texts, as `self.pad` makes them; of a composite, a tuple with each member's.
        """
        return _embed(self.module, params, tokens)

    def pad(self, tokenized: Tokenized) -> Batch:
        """The tokens of all texts as one padded batch, which `apply` takes."""
        return one_batch(tokenized.ids, tokenized.window, self.spec.pad_id)

    def tokenize(
        self, texts: Sequence[Any], *, prompt: str | None = None, max_length: int | None = None, start: int = 0
    ) -> Tokenized:
        """Token ids of each text with its prompt, cut at `max_length`, or if None at the encoder's own limit.

        `start` is the number of the first text in errors.
        """
        windows = self.spec.windows if max_length is None else 1
        limit = self.spec.max_length if max_length is None else max_length
        if not 3 <= limit <= self.spec.positions:
            raise BadInput(f"max_length is {limit}; {self.spec.model} takes from 3 to {self.spec.positions} tokens.")
        prefix = self.spec.prefix(prompt)
        prepared = [self._prepared(text, start + i, prefix, limit * windows) for i, text in enumerate(texts)]
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(limit)
        found = self.tokenizer.encode_batch(prepared, add_special_tokens=self.spec.special_tokens)
        more = [one.overflowing for one in found]  # what follows, in windows of as many tokens
        ids = [
            list(chain(one.ids, *(window.ids for window in rest[: windows - 1]))) if windows > 1 and rest else one.ids
            for one, rest in zip(found, more, strict=True)
        ]
        if self.spec.drop_id is not None:
            ids = [[token for token in row if token != self.spec.drop_id] for row in ids]
        return Tokenized(ids, [len(rest) >= windows for rest in more], limit)

    def _prepared(self, text: Any, number: int, prefix: str, limit: int) -> str:
        """The text as the tokenizer gets it."""
        check_text(text, number)
        text = prefix + (text.lower() if self.spec.lower else text)
        return text[: limit * self.spec.token_chars] if self.spec.token_chars else text

    def embed(
        self, tokenized: Tokenized, batch_size: int | None = None, show_progress: bool = False
    ) -> Float[np.ndarray, "n d"]:
        """Embed tokenized texts, in the order given."""
        with progress_bar("Embedding", len(tokenized.ids), show_progress, least=BAR) as advance:
            return self._start(tokenized, batch_size)(advance)

    def _start(self, tokenized: Tokenized, batch_size: int | None) -> Finish:
        """Hand the batches to the device, which computes them while the host goes on."""
        if batch_size is not None and batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; it must be 1 or more.")
        budget = BUDGET.get(jax.default_backend(), ELSEWHERE)
        made = batches(
            tokenized.ids,
            budget=budget,
            most_rows=batch_size or budget,
            most_tokens=tokenized.window,
            pad_id=self.spec.pad_id,
        )
        parts = [(rows, self.apply(self.params, tokens)) for rows, tokens in made]
        return partial(_finish, np.zeros((len(tokenized.ids), self.spec.width), np.float32), parts)


def _finish(
    out: Float[np.ndarray, "n d"], parts: list[tuple[list[int], Array]], advance: Callable[[int], None]
) -> Float[np.ndarray, "n d"]:
    """Wait for the device, and put each batch's rows in their places."""
    for rows, part in parts:
        out[rows] = np.asarray(part)[: len(rows)]
        advance(len(rows))
    return out


def check_text(text: Any, number: int) -> None:
    """Raise BadInput, with the text's number, unless a tokenizer can take it."""
    if not isinstance(text, str):
        raise BadInput(f"Text {number} is {type(text).__name__}, not a string.")
    if len(text) > LONGEST:
        raise BadInput(f"Text {number} has {len(text):,} characters; split texts of more than {LONGEST:,} yourself.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"Text {number} holds a lone surrogate, which is no character. Decode it as UTF-8.") from error
