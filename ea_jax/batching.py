"""Token lists into a few padded shapes: batches of like lengths, of about as many tokens each."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from ea_jax.arrays import ArrayIn

LENGTHS = (12, 16, 24, 32, 40, 48, 64, 80, 96, 128, 192, 256, 384, 512)


class Tokens(NamedTuple):
    """Token ids, and a mask that is 1 on tokens and 0 on padding, which may be on either side."""

    ids: Int[ArrayIn, "b t"]
    mask: Int[ArrayIn, "b t"]


def padded_length(tokens: int, most: int) -> int:
    """The smallest of a few lengths that holds the tokens, or the model's limit if that is less.

    Twelve lengths serve up to 256 tokens, with about a seventh of padding; beyond 512 they double.
    """
    length = next((length for length in LENGTHS if tokens <= length), 0)
    return min(length or 1 << (tokens - 1).bit_length(), most)


def batches(
    ids: Sequence[Sequence[int]], *, budget: int, most_rows: int, most_tokens: int, pad_id: int
) -> Iterator[tuple[list[int], Tokens]]:
    """Rows of like length, the longest first, with their padded tokens.

    Args:
        ids: Token ids of each text.
        budget: Tokens of a batch, padding included; a longer text is a batch of its own.
        most_rows: Rows of a batch at the most.
        most_tokens: The longest that a row may be padded to.
        pad_id: What fills the padding.

    Yields:
        Indices of `ids`, and their tokens. A batch has fewer rows than its length's other batches only where all texts
        fit into it: then it is padded to a power of two.
    """
    order = sorted(range(len(ids)), key=lambda row: -len(ids[row]))
    start = 0
    while start < len(order):
        length = padded_length(max(len(ids[order[start]]), 1), most_tokens)
        full = max(1, min(budget // length, most_rows))
        rows = order[start : start + full]
        shape = (min(full, 1 << (len(rows) - 1).bit_length()) if len(order) < full else full, length)
        tokens = Tokens(np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32))
        for i, row in enumerate(rows):
            tokens.ids[i, : len(ids[row])] = ids[row]
            tokens.mask[i, : len(ids[row])] = 1
        yield rows, tokens
        start += full
