"""Digests of the rows that were read. A part's record keeps one, to tell a changed file from a touched one."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.data.blocks import Block
from ea_jax.data.tables import Part, Tables, read_parts


class DigestedBlock(NamedTuple):
    """A block of a part, and the digest of its rows."""

    part: Part
    block: Block
    digest: bytes


def read_with_digests(tables: Tables, parts: Sequence[Part], size: int) -> Iterator[DigestedBlock]:
    """Read parts as `read_parts` does, and digest each block."""
    for part, block in read_parts(tables, parts, size):
        yield DigestedBlock(part, block, block_digest(block))


def part_digests(tables: Tables, parts: Sequence[Part], size: int) -> Iterator[tuple[Part, str]]:
    """Read each part, and yield its digest."""
    digests: dict[int, list[bytes]] = {part.number: [] for part in parts}
    last = None
    for part, _, digest in read_with_digests(tables, parts, size):
        if last is not None and part.number != last.number:
            yield last, combine_digests(digests.pop(last.number))
        digests[part.number].append(digest)
        last = part
    if last is not None:
        yield last, combine_digests(digests.pop(last.number))


def combine_digests(digests: Sequence[bytes]) -> str:
    """Return one digest for a part from those of its blocks, in order."""
    return hashlib.sha256(b"".join(digests)).hexdigest()


def block_digest(block: Block) -> bytes:
    """Digest the values of a block. Arrow's memory layout and the bytes under nulls do not matter."""
    digest = hashlib.sha256(repr(sorted(block.bad.items())).encode())
    for column in block.batch.columns:
        _update(digest, column)
    return digest.digest()


def _update(digest: Any, array: pa.Array) -> None:
    kind = array.type
    digest.update(f"{kind} {len(array)};".encode())
    if array.null_count:
        digest.update(np.packbits(array.is_valid().to_numpy(zero_copy_only=False)))
        array = array.drop_null()
    if pa.types.is_fixed_size_list(kind):
        _update(digest, array.flatten())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        digest.update(array.value_lengths().to_numpy())
        _update(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for child in array.flatten():
            _update(digest, child)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        digest.update(array.to_numpy())
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _, offsets, characters = array.buffers()
        width = np.int32 if pa.types.is_string(kind) else np.int64
        ends = np.frombuffer(offsets, width)[array.offset : array.offset + len(array) + 1] if offsets else np.zeros(1)
        digest.update(np.diff(ends).astype(np.int64))
        digest.update(memoryview(characters)[int(ends[0]) : int(ends[-1])] if characters else b"")
    else:
        digest.update(repr(array.to_pylist()).encode())
