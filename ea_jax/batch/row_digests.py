"""Which rows were read, as a digest in a part's record: it tells a file that holds others from one that was touched."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.batch.inputs import Inputs, Part, read_parts
from ea_jax.batch.readers.blocks import Block


class Read(NamedTuple):
    """A block of a part, and the digest of all that its rows hold."""

    part: Part
    block: Block
    digest: bytes


def read_digested(inputs: Inputs, parts: Sequence[Part], size: int) -> Iterator[Read]:
    """What `read_parts` gives, with digests."""
    for part, block in read_parts(inputs, parts, size):
        yield Read(part, block, block_digest(block))


def part_digests(inputs: Inputs, parts: Sequence[Part], size: int) -> Iterator[tuple[Part, str]]:
    """The digest of each part, whose rows are read for that alone."""
    found: dict[int, list[bytes]] = {part.number: [] for part in parts}
    last = None
    for part, _, digest in read_digested(inputs, parts, size):
        if last is not None and part.number != last.number:
            yield last, of_blocks(found.pop(last.number))
        found[part.number].append(digest)
        last = part
    if last is not None:
        yield last, of_blocks(found.pop(last.number))


def of_blocks(digests: Sequence[bytes]) -> str:
    """One digest of those of a part's blocks, in order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def block_digest(block: Block) -> bytes:
    """Of the values alone: neither what lies under nulls nor how Arrow holds them matters."""
    found = hashlib.sha256(repr(sorted(block.bad.items())).encode())
    for column in block.batch.columns:
        _add(found, column)
    return found.digest()


def _add(found: Any, array: pa.Array) -> None:
    kind = array.type
    found.update(f"{kind} {len(array)};".encode())
    if array.null_count:
        found.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)))
        array = array.drop_null()
    if pa.types.is_fixed_size_list(kind):
        _add(found, array.flatten())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        found.update(array.value_lengths().to_numpy())
        _add(found, array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            _add(found, child)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found.update(array.to_numpy())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _, offsets, letters = array.buffers()
        width = np.int32 if pa.types.is_string(kind) else np.int64
        ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1] if offsets else np.zeros(1)
        found.update(np.diff(ends).astype(np.int64))
        found.update(memoryview(letters)[int(ends[0]) : int(ends[-1])] if letters else b"")
    else:
        found.update(repr(array.to_pylist()).encode())
