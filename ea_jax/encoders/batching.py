"""Pad token lists into batches of few distinct shapes, so that each shape is compiled once.

Texts of similar length share a batch, and all batches hold about the same number of tokens.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ea_jax.typing import ArrayIn

LENGTHS = (12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)
STEP = 4  # ratio of the numbers of rows of small batches


class Tokens(NamedTuple):
    """Token ids, and a mask that is 1 on tokens and 0 on padding. Padding may be on either side."""

    ids: Int[ArrayIn, "b t"]
    mask: Int[ArrayIn, "b t"]


class Windows(NamedTuple):
    """A batch with texts that are longer than a row: each row is a window of one text.

    Attributes:
        ids: Token ids of each window.
        mask: 1 on tokens and 0 on padding; rows of padding alone fill the batch up.
        text: Index of the text that each window belongs to.
        tokens: Number of tokens of each text over all its windows. The array's length is the number of texts.
    """

    ids: Int[ArrayIn, "b t"]
    mask: Int[ArrayIn, "b t"]
    text: Int[ArrayIn, " b"]
    tokens: Int[ArrayIn, " n"]


def padded_length(tokens: int, max_tokens: int) -> int:
    """Return the smallest standard length that holds the tokens, at most `max_tokens`.

    Twelve lengths serve up to 256 tokens, with about one seventh of padding; beyond 512 they double.
    """
    length = next((length for length in LENGTHS if tokens <= length), 0)
    return min(length or 1 << (tokens - 1).bit_length(), max_tokens)


def make_batches(
    ids: Sequence[Sequence[int]], *, budget: int, max_rows: int, max_tokens: int, pad_id: int
) -> Iterator[tuple[list[int], Tokens | Windows]]:
    """Group texts of similar length into padded batches, the longest texts first.

    Args:
        ids: Token ids of each text.
        budget: Maximum number of tokens in a batch, padding included. A text that exceeds it is a batch of its own.
        max_rows: Maximum number of texts in a batch.
        max_tokens: Maximum number of tokens in a row. A longer text is split into windows of this many tokens, all in
            one batch.
        pad_id: Token id of the padding.

    Yields:
        Indices into `ids`, and the padded tokens of these texts. All batches of one length have the same number of
        rows, unless all texts would fit into one batch: then the numbers of rows are powers of `STEP`.
    """
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    first_short = next((i for i, row in enumerate(order) if len(ids[row]) <= max_tokens), len(order))
    yield from _window_batches(ids, order[:first_short], max(1, budget // max_tokens), max_rows, max_tokens, pad_id)
    order, start = order[first_short:], 0
    while start < len(order):
        length = padded_length(max(len(ids[order[start]]), 1), max_tokens)
        full = max(1, min(budget // length, max_rows))
        count = full if len(order) >= full else _row_count(len(order) - start, full)
        rows = order[start : start + count]
        yield rows, _pad([ids[row] for row in rows], count, length, pad_id)
        start += count


def batch_shapes(
    shortest: int, longest: int, *, budget: int, max_rows: int, max_tokens: int
) -> Iterator[tuple[int, int]]:
    """Yield the rows and tokens of all batches of `make_batches` with texts of `shortest` to `longest` tokens."""
    length = 0
    while shortest <= max_tokens and length < min(longest, max_tokens):
        length = padded_length(max(shortest, length + 1), max_tokens)
        full = max(1, min(budget // length, max_rows))
        small = [count for count in (STEP**power for power in range(full.bit_length())) if count < full]
        yield from ((count, length) for count in [*small, full])


def _row_count(rows: int, full: int) -> int:
    """Number of rows of the next small batch: a power of `STEP`, at least half of which is used, or `full`."""
    count = 1
    while count * STEP <= 2 * rows:
        count *= STEP
    return min(count, full)


def make_batch(ids: Sequence[Sequence[int]], max_tokens: int, pad_id: int) -> Tokens | Windows:
    """Pad all texts into one batch, in their order; split into windows if a text exceeds `max_tokens`."""
    longest = max(map(len, ids), default=0)
    if longest > max_tokens:
        count = sum(len(_split(row, max_tokens)) for row in ids)
        return _pad_windows(ids, count, len(ids), max_tokens, pad_id)
    return _pad(ids, len(ids), padded_length(max(longest, 1), max_tokens), pad_id)


def _window_batches(
    ids: Sequence[Sequence[int]], order: list[int], full: int, max_rows: int, length: int, pad_id: int
) -> Iterator[tuple[list[int], Windows]]:
    """Group long texts so that their windows fit into `full` rows; a text of more windows is a batch of its own."""
    start = 0
    while start < len(order):
        rows, count = [], 0
        for row in order[start : start + max_rows]:
            windows = -(-len(ids[row]) // length)
            if rows and count + windows > full:
                break
            rows, count = [*rows, row], count + windows
        padded = max(count, min(full, 1 << (count - 1).bit_length()))
        yield rows, _pad_windows([ids[row] for row in rows], padded, padded // 2, length, pad_id)
        start += len(rows)


def _pad(ids: Sequence[Sequence[int]], count: int, length: int, pad_id: int) -> Tokens:
    tokens = Tokens(np.full((count, length), pad_id, np.int32), np.zeros((count, length), np.int32))
    for i, row in enumerate(ids):
        tokens.ids[i, : len(row)] = row
        tokens.mask[i, : len(row)] = 1
    return tokens


def _pad_windows(ids: Sequence[Sequence[int]], count: int, texts: int, length: int, pad_id: int) -> Windows:
    """Split texts into windows in `count` rows, with room for `texts` texts."""
    pieces = [(i, piece) for i, row in enumerate(ids) for piece in _split(row, length)]
    rows = _pad([piece for _, piece in pieces], count, length, pad_id)
    text, tokens = np.zeros(count, np.int32), np.zeros(texts, np.int32)
    text[: len(pieces)] = [i for i, _ in pieces]
    tokens[: len(ids)] = list(map(len, ids))
    return Windows(*rows, text, tokens)


def _split(row: Sequence[int], length: int) -> list[Sequence[int]]:
    """Split a text's tokens into windows; a text without tokens has one empty window."""
    return [row[start : start + length] for start in range(0, max(len(row), 1), length)]
