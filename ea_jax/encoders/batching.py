"""Token lists into a few padded shapes: batches of like lengths, of about as many tokens each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ea_jax.typing import ArrayIn

LENGTHS = (12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)


class Tokens(NamedTuple):
    """Token ids, and a mask that is 1 on tokens and 0 on padding, which may be on either side."""

    ids: Int[ArrayIn, "b t"]
    mask: Int[ArrayIn, "b t"]


class Windows(NamedTuple):
    """Texts of which some are longer than a row: each row is a window of one.

    Attributes:
        ids: Token ids of each window.
        mask: 1 on tokens and 0 on padding; a row of padding alone is no window.
        text: Which text each window is of.
        tokens: Number of tokens of each text, in all its windows. The length of this array is the number of texts.
    """

    ids: Int[ArrayIn, "b t"]
    mask: Int[ArrayIn, "b t"]
    text: Int[ArrayIn, " b"]
    tokens: Int[ArrayIn, " n"]


def padded_length(tokens: int, most: int) -> int:
    """The smallest of a few lengths that holds the tokens, or the model's limit if that is less.

    Twelve lengths serve up to 256 tokens, with about a seventh of padding; beyond 512 they double.
    """
    length = next((length for length in LENGTHS if tokens <= length), 0)
    return min(length or 1 << (tokens - 1).bit_length(), most)


def batches(
    ids: Sequence[Sequence[int]], *, budget: int, most_rows: int, most_tokens: int, pad_id: int
) -> Iterator[tuple[list[int], Tokens | Windows]]:
    """Texts of like length, the longest first, with their padded tokens.

    Args:
        ids: Token ids of each text.
        budget: Tokens of a batch, padding included; a longer text is a batch of its own.
        most_rows: Texts of a batch at the most.
        most_tokens: The most tokens of a row. A text of more is read in windows of as many, all in one batch.
        pad_id: What fills the padding.

    Yields:
        Indices of `ids`, and their tokens. A batch has fewer rows than its length's other batches only where all texts
        fit into it: then it is padded to a power of two.
    """
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    short = next((i for i, row in enumerate(order) if len(ids[row]) <= most_tokens), len(order))
    yield from _window_batches(ids, order[:short], max(1, budget // most_tokens), most_rows, most_tokens, pad_id)
    order, start = order[short:], 0
    while start < len(order):
        length = padded_length(max(len(ids[order[start]]), 1), most_tokens)
        full = max(1, min(budget // length, most_rows))
        rows = order[start : start + full]
        count = min(full, _power_of_two(len(rows))) if len(order) < full else full
        yield rows, _padded([ids[row] for row in rows], count, length, pad_id)
        start += full


def one_batch(ids: Sequence[Sequence[int]], most_tokens: int, pad_id: int) -> Tokens | Windows:
    """Tokens of all texts, in the order given; in windows where one has more than `most_tokens`."""
    longest = max(map(len, ids), default=0)
    if longest > most_tokens:
        count = sum(map(len, (_split(row, most_tokens) for row in ids)))
        return _padded_windows(ids, count, len(ids), most_tokens, pad_id)
    return _padded(ids, len(ids), padded_length(max(longest, 1), most_tokens), pad_id)


def _window_batches(
    ids: Sequence[Sequence[int]], order: list[int], full: int, most_rows: int, length: int, pad_id: int
) -> Iterator[tuple[list[int], Windows]]:
    """Texts of more than one window: as many as fit into `full` rows, or one that has more windows than that."""
    start = 0
    while start < len(order):
        rows, count = [], 0
        for row in order[start : start + most_rows]:
            more = -(-len(ids[row]) // length)
            if rows and count + more > full:
                break
            rows, count = [*rows, row], count + more
        padded = max(count, min(full, _power_of_two(count)))
        yield rows, _padded_windows([ids[row] for row in rows], padded, padded // 2, length, pad_id)
        start += len(rows)


def _padded(ids: Sequence[Sequence[int]], count: int, length: int, pad_id: int) -> Tokens:
    tokens = Tokens(np.full((count, length), pad_id, np.int32), np.zeros((count, length), np.int32))
    for i, row in enumerate(ids):
        tokens.ids[i, : len(row)] = row
        tokens.mask[i, : len(row)] = 1
    return tokens


def _padded_windows(ids: Sequence[Sequence[int]], count: int, texts: int, length: int, pad_id: int) -> Windows:
    """Windows of texts, in `count` rows, with room for `texts` of them."""
    pieces = [(i, piece) for i, row in enumerate(ids) for piece in _split(row, length)]
    rows = _padded([piece for _, piece in pieces], count, length, pad_id)
    text, tokens = np.zeros(count, np.int32), np.zeros(texts, np.int32)
    text[: len(pieces)] = [i for i, _ in pieces]
    tokens[: len(ids)] = list(map(len, ids))
    return Windows(*rows, text, tokens)


def _split(row: Sequence[int], length: int) -> list[Sequence[int]]:
    """The windows of a text: one even of a text without tokens."""
    return [row[start : start + length] for start in range(0, max(len(row), 1), length)]


def _power_of_two(count: int) -> int:
    """The smallest power of two that is no less."""
    return 1 << (count - 1).bit_length()
