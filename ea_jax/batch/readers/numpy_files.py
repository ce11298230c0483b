"""`.npy` and `.npz` files as blocks of rows: memory-mapped, or read on as a stream from inside the archive."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.batch.readers.blocks import Block, Cut, even_cuts, readable, recut
from ea_jax.errors import BadInput

COLUMN = "embedding"
READ = 4096


class _Member(NamedTuple):
    """An array of an archive: its shape and dtype, and its file's name there."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str


def describe(path: Path, column: str | None, part_rows: int) -> tuple[pa.Schema, list[Cut]]:
    """Columns and cuts of a file, from the heads of its arrays; of a `.npy` file, the column is called `embedding`."""
    with readable(path):
        if path.suffix == ".npy":
            array = _mapped(path)
            return pa.schema({column or COLUMN: _type(array.dtype, array.shape, path)}), even_cuts(
                len(array), part_rows
            )
        members = _members(path)
    lengths = {name: member.shape[0] for name, member in members.items()}
    if len(set(lengths.values())) != 1:
        told = ", ".join(f"{name} {rows:,}" for name, rows in lengths.items()) or "none"
        raise BadInput(f"{path} holds arrays of unequal length, which must be row-aligned: {told}.")
    kinds = {name: _type(member.dtype, member.shape, path) for name, member in members.items()}
    return pa.schema(kinds), even_cuts(next(iter(lengths.values())), part_rows)


def blocks(
    path: Path, schema: pa.Schema, column: str | None, cuts: Sequence[Cut], size: int
) -> Iterator[tuple[int, Block]]:
    """Rows of cuts that follow each other, with the number of their cut."""
    with readable(path):
        read = _read_npy if path.suffix == ".npy" else _read_npz
        yield from recut(read(path, schema, cuts[0].start, cuts[-1].stop), schema, cuts, size)


def _mapped(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2:
        raise BadInput(f"{path} holds {array.dtype} of shape {array.shape}; vectors are floats, a row a vector.")
    return array


def _read_npy(path: Path, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    array = _mapped(path)
    for row in range(start, stop, READ):
        yield pa.RecordBatch.from_arrays([_column(array[row : min(stop, row + READ)], schema.types[0])], schema=schema)


def _read_npz(path: Path, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    members = _members(path)
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        streams: dict[str, IO[bytes]] = {}
        for name, member in members.items():
            streams[name] = stack.enter_context(archive.open(member.file))
            _head(streams[name], path)
            streams[name].seek(start * _width(member), 1)
        for row in range(start, stop, READ):
            rows = min(stop, row + READ) - row
            made = []
            for name, kind in zip(schema.names, schema.types, strict=True):
                member = members[name]
                raw = streams[name].read(rows * _width(member))
                made.append(_column(np.frombuffer(raw, member.dtype).reshape(-1, *member.shape[1:]), kind))
            yield pa.RecordBatch.from_arrays(made, schema=schema)


def _members(path: Path) -> dict[str, _Member]:
    with zipfile.ZipFile(path) as archive:
        found = {}
        for file in archive.namelist():
            with archive.open(file) as stream:
                found[file.removesuffix(".npy")] = _Member(*_head(stream, path), file)
    return found


def _head(stream: Any, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    if dtype.hasobject or (by_columns and len(shape) > 1) or not shape:
        raise BadInput(f"{path} holds pickled objects, single values or arrays in column order, which are not read.")
    return shape, dtype


def _width(member: _Member) -> int:
    """Bytes of a row."""
    return member.dtype.itemsize * int(np.prod(member.shape[1:], dtype=np.int64))


def _type(dtype: np.dtype, shape: tuple[int, ...], path: Path) -> pa.DataType:
    if dtype.kind not in "fiubU" or len(shape) > 2 or (len(shape) == 2 and dtype.kind == "U"):
        raise BadInput(
            f"{path} holds {dtype} of shape {shape}; numbers in one or two dimensions, or strings, are read."
        )
    kind = pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)
    return pa.list_(kind, shape[1]) if len(shape) == 2 else kind


def _column(array: np.ndarray, kind: pa.DataType) -> pa.Array:
    native = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(native.ravel()), type=kind)
    return pa.array(native.tolist() if array.dtype.kind == "U" else native, kind)
