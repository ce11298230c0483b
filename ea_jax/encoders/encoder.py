"""The encoder: texts to embeddings, with a tokenizer on the host and a pure function on the device."""

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
from ea_jax.encoders.batching import Tokens, Windows, batch_shapes, make_batch, make_batches
from ea_jax.encoders.spec import EncoderSpec
from ea_jax.errors import BadInput
from ea_jax.progress import progress_bar
from ea_jax.typing import ArrayIn, Params

CHUNK = 4096  # texts that `stream` tokenizes at once
MAX_CHARACTERS = 1_000_000  # of one text
MIN_PROGRESS = 256  # texts; fewer finish before a progress bar is readable
BUDGET = {"cpu": 1024}  # tokens in a batch: on a CPU its activations should stay in the cache
DEFAULT_BUDGET = 32768  # tokens in a batch on other devices
MAX_WINDOWS = 6  # more windows hardly change the embedding of a long text

Batch = Tokens | Windows | tuple[Tokens | Windows, ...]
Collect = Callable[[Callable[[int], None]], Float[np.ndarray, "n d"]]  # waits for the device, and reports progress


class Tokenized(NamedTuple):
    """Texts as token ids.

    Attributes:
        ids: Token ids of each text, special tokens included; the windows of a long text follow each other.
        truncated: Whether each text was truncated.
        window: Number of tokens in a window.
        members: For a composite, the tokenized texts of each member; `ids` and `window` are the first member's.
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
    """A pytree whose leaves are `params`: `encode(texts)` embeds texts, `encode.apply(params, tokens)` is pure.

    Attributes:
        spec: The model, pooling, lengths, prompts and members of the encoder; static and hashable.
        module: The Flax module that maps tokens to embeddings.
        tokenizer: Maps texts to token ids; a composite has one tokenizer for each member.
        params: The parameters, a nested dict of arrays.
    """

    spec: EncoderSpec = field(metadata={"static": True})
    module: nn.Module = field(metadata={"static": True})
    tokenizer: Tokenizer = field(metadata={"static": True})
    params: Params

    def with_prompt(self, prompt: str) -> "Encoder":
        """Return the encoder with another default prompt, and so with another fingerprint.

        Raises:
            UnknownName: The model has no such prompt.
        """
        self.spec.prefix(prompt)
        return replace(self, spec=replace(self.spec, default_prompt=prompt))

    def with_windows(self, max_windows: int = MAX_WINDOWS) -> "Encoder":
        """Return the encoder that reads long texts in windows instead of truncating them; its fingerprint differs.

        Args:
            max_windows: Maximum number of windows of a text, each of `spec.max_length` tokens. The rest is truncated.

        Raises:
            BadInput: The model's embeddings are not means of token vectors.
        """
        if self.spec.pooling != "mean":
            raise BadInput(
                f"{self.spec.model} uses {self.spec.pooling} pooling, but windows need mean pooling. Load it without "
                "windows."
            )
        return replace(self, spec=replace(self.spec, windows=max_windows))

    def __call__(
        self,
        texts: Iterable[str],
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        max_length: int | None = None,
        show_progress: bool = False,
    ) -> Float[np.ndarray, "n d"]:
        """Embed texts, in their order.

        Args:
            texts: Strings, in a list or from a generator. The empty string has an embedding too.
            prompt: Name of the prompt whose prefix is put before each text; the folder's default prompt if None.
            batch_size: Maximum number of texts in a batch; it changes speed and memory, not the result.
            max_length: Number of tokens at which a text is truncated, without windows; the model's limit if None.
            show_progress: Show a progress bar on stderr.

        Raises:
            BadInput: `texts` is not a list of strings, or a number is out of range. The message names the text.
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
        """Embed texts with the signature of sentence-transformers: one string gives one vector.

        Args:
            sentences: One string, or several.
            convert_to_numpy: Return a NumPy array; a JAX array otherwise.
            normalize_embeddings: Scale the vectors to unit length, even if the model does not.
            options: Keyword arguments of the encoder's own call.
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
        on_truncated: Callable[[int], None] | None = None,
    ) -> Iterator[Float[np.ndarray, "n d"]]:
        """Embed any number of texts in constant memory, yielding the embeddings of a few thousand texts at a time.

        While the device computes one part, the host tokenizes the next. Arguments and errors are those of the call;
        `on_truncated` is called with the number of truncated texts of each part.
        """
        if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
            raise BadInput('Texts must be a list of strings, for instance encode(["a text"]).')
        total, remaining, read = (len(texts) if isinstance(texts, Sequence) else None), iter(texts), 0
        with progress_bar("Embedding", total, show_progress, min_total=MIN_PROGRESS) as advance:
            pending: Collect | None = None
            while chunk := list(islice(remaining, CHUNK)):
                tokenized = self.tokenize(chunk, prompt=prompt, max_length=max_length, start=read)
                read += len(chunk)
                if on_truncated:
                    on_truncated(sum(tokenized.truncated))
                dispatched = self._dispatch(tokenized, batch_size)
                if pending:
                    yield pending(advance)
                pending = dispatched
            if pending:
                yield pending(advance)

    def warm(self, batch_size: int = 1, *, min_tokens: int = 1, max_tokens: int = 512) -> None:
        """Compile the programs for texts of all lengths, or read them from the compilation cache.

        Later calls with this `batch_size` then never wait for a compilation.

        Args:
            batch_size: Largest number of texts in a batch, as in the call.
            min_tokens: Number of tokens of the shortest text.
            max_tokens: Number of tokens of the longest text.
        """
        window = self.spec.max_length
        shapes = batch_shapes(min_tokens, max_tokens, max_tokens=window, **_limits(batch_size))
        texts = [(length, count) for count, length in shapes]
        counts = range(max(2, -(-min_tokens // window)), min(self.spec.windows, -(-max_tokens // window)) + 1)
        texts += [(window * count, 1) for count in counts]
        if counts:  # several long texts share a batch, whose number of windows is padded to a power of two
            together = [1 << power for power in range(1, batch_size.bit_length())]
            texts += [(window * counts[-1], count) for count in {*together, batch_size}]
        for length, count in texts:
            self.embed(Tokenized([[0] * length] * count, [False] * count, window), batch_size)

    def apply(self, params: Params, tokens: Batch) -> Float[Array, "b d"]:
        """Map padded tokens to embeddings: the pure, jitted part of the encoder.

        Args:
            params: Parameters with the structure of `self.params`.
            tokens: One batch of texts, as `self.pad` returns it; for a composite, a tuple with one batch for each
                member.
        """
        return _embed(self.module, params, tokens)

    def pad(self, tokenized: Tokenized) -> Batch:
        """Pad all tokenized texts into one batch, which `apply` takes."""
        return make_batch(tokenized.ids, tokenized.window, self.spec.pad_id)

    def tokenize(
        self, texts: Sequence[Any], *, prompt: str | None = None, max_length: int | None = None, start: int = 0
    ) -> Tokenized:
        """Tokenize texts with their prompt, truncated at `max_length`, or at the encoder's own limit if None.

        Error messages number the texts from `start`.
        """
        windows = self.spec.windows if max_length is None else 1
        limit = self.spec.max_length if max_length is None else max_length
        if not 3 <= limit <= self.spec.positions:
            raise BadInput(f"max_length is {limit}; {self.spec.model} takes from 3 to {self.spec.positions} tokens.")
        prefix = self.spec.prefix(prompt)
        prepared = [self._prepare(text, start + i, prefix, limit * windows) for i, text in enumerate(texts)]
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(limit)
        encodings = self.tokenizer.encode_batch(prepared, add_special_tokens=self.spec.special_tokens)
        overflow = [encoding.overflowing for encoding in encodings]  # the rest of each text, split at the same limit
        ids = [
            list(chain(encoding.ids, *(window.ids for window in rest[: windows - 1])))
            if windows > 1 and rest
            else encoding.ids
            for encoding, rest in zip(encodings, overflow, strict=True)
        ]
        if self.spec.drop_id is not None:
            ids = [[token for token in row if token != self.spec.drop_id] for row in ids]
        return Tokenized(ids, [len(rest) >= windows for rest in overflow], limit)

    def _prepare(self, text: Any, number: int, prefix: str, limit: int) -> str:
        """Check a text, and apply the prefix, lower-casing and character limit that precede the tokenizer."""
        check_text(text, number)
        text = prefix + text
        text = text.lower() if self.spec.lower else text
        return text[: limit * self.spec.token_chars] if self.spec.token_chars else text

    def embed(
        self, tokenized: Tokenized, batch_size: int | None = None, show_progress: bool = False
    ) -> Float[np.ndarray, "n d"]:
        """Embed tokenized texts, in their order."""
        with progress_bar("Embedding", len(tokenized.ids), show_progress, min_total=MIN_PROGRESS) as advance:
            return self._dispatch(tokenized, batch_size)(advance)

    def _dispatch(self, tokenized: Tokenized, batch_size: int | None) -> Collect:
        """Send the batches to the device, which computes them while the host continues."""
        batches = make_batches(
            tokenized.ids, max_tokens=tokenized.window, pad_id=self.spec.pad_id, **_limits(batch_size)
        )
        parts = [(rows, self.apply(self.params, tokens)) for rows, tokens in batches]
        return partial(_collect, np.zeros((len(tokenized.ids), self.spec.width), np.float32), parts)


def _limits(batch_size: int | None) -> dict[str, int]:
    """Limits of the batches, for `make_batches` and `batch_shapes`."""
    if batch_size is not None and batch_size < 1:
        raise BadInput(f"batch_size is {batch_size}; it must be 1 or more.")
    budget = BUDGET.get(jax.default_backend(), DEFAULT_BUDGET)
    return {"budget": budget, "max_rows": batch_size or budget}


def _collect(
    out: Float[np.ndarray, "n d"], parts: list[tuple[list[int], Array]], advance: Callable[[int], None]
) -> Float[np.ndarray, "n d"]:
    """Wait for the device, and copy the rows of each batch to their positions in `out`."""
    for rows, part in parts:
        out[rows] = np.asarray(part)[: len(rows)]
        advance(len(rows))
    return out


def check_text(text: Any, number: int) -> None:
    """Raise BadInput, with the text's number, unless a tokenizer can read the text."""
    if not isinstance(text, str):
        raise BadInput(f"Text {number} is {type(text).__name__}, not a string.")
    if len(text) > MAX_CHARACTERS:
        raise BadInput(f"Text {number} has {len(text):,} characters; split texts at {MAX_CHARACTERS:,} or fewer.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadInput(f"Text {number} contains a lone surrogate. Decode the text as UTF-8.") from error
