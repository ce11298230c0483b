"""Read `.npy` and `.npz` files as blocks of rows: memory-mapped, or streamed from the archive."""

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.data.blocks import Block, Cut, Hints, cut_evenly, readable, recut
from ea_jax.errors import BadInput

READ = 4096  # rows converted together


class _Member(NamedTuple):
    """An array of an archive: its shape, dtype and file name."""

    shape: tuple[int, ...]
    dtype: np.dtype
    file: str

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))


def describe(path: Path, part_rows: int, hints: Hints) -> tuple[pa.Schema, list[Cut]]:
    """Return the columns and cuts of a file, from the headers of its arrays."""
    with readable(path):
        if path.suffix == ".npy":
            array = _open_npy(path)
            schema = pa.schema({hints.vectors: _arrow_type(array.dtype, array.shape, path)})
            return schema, cut_evenly(len(array), part_rows)
        members = _members(path)
    lengths = {name: member.shape[0] for name, member in members.items()}
    if len(set(lengths.values())) != 1:
        rows = ", ".join(f"{name} {length:,}" for name, length in lengths.items()) or "none"
        raise BadInput(f"{path} holds arrays of unequal length, which must be row-aligned: {rows}.")
    schema = pa.schema({name: _arrow_type(member.dtype, member.shape, path) for name, member in members.items()})
    return schema, cut_evenly(next(iter(lengths.values())), part_rows)


def blocks(path: Path, schema: pa.Schema, cuts: Sequence[Cut], size: int, hints: Hints) -> Iterator[tuple[int, Block]]:
    """Yield the rows of adjacent cuts, each block with the number of its cut."""
    with readable(path):
        read = _read_npy if path.suffix == ".npy" else _read_npz
        yield from recut(read(path, schema, cuts[0].start, cuts[-1].stop), schema, cuts, size)


def _open_npy(path: Path) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2:
        raise BadInput(f"{path} holds {array.dtype} of shape {array.shape}; it must hold one vector a row.")
    return array


def _read_npy(path: Path, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    array = _open_npy(path)
    for row in range(start, stop, READ):
        yield pa.RecordBatch.from_arrays([_column(array[row : min(stop, row + READ)])], names=schema.names)


def _read_npz(path: Path, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    members = _members(path)
    with ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        streams: dict[str, IO[bytes]] = {}
        for name, member in members.items():
            streams[name] = stack.enter_context(archive.open(member.file))
            _read_header(streams[name], path)
            streams[name].seek(start * member.row_bytes, 1)
        for row in range(start, stop, READ):
            rows, columns = min(stop, row + READ) - row, []
            for name, member in members.items():
                content = streams[name].read(rows * member.row_bytes)
                columns.append(_column(np.frombuffer(content, member.dtype).reshape(-1, *member.shape[1:])))
            yield pa.RecordBatch.from_arrays(columns, names=list(members))


def _members(path: Path) -> dict[str, _Member]:
    members = {}
    with zipfile.ZipFile(path) as archive:
        for file in archive.namelist():
            with archive.open(file) as stream:
                members[file.removesuffix(".npy")] = _Member(*_read_header(stream, path), file)
    return members


def _read_header(stream: Any, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream)
    if dtype.hasobject or (by_columns and len(shape) > 1) or not shape:
        raise BadInput(f"{path} holds pickled objects, scalars or arrays in column order, which cannot be read.")
    return shape, dtype


def _arrow_type(dtype: np.dtype, shape: tuple[int, ...], path: Path) -> pa.DataType:
    if dtype.kind not in "fiubU" or len(shape) > 2 or (len(shape) == 2 and dtype.kind == "U"):
        raise BadInput(f"{path} holds {dtype} of shape {shape}; it must hold strings, or numbers in 1 or 2 dimensions.")
    kind = pa.string() if dtype.kind == "U" else pa.from_numpy_dtype(dtype)
    return pa.list_(kind, shape[1]) if len(shape) == 2 else kind


def _column(array: np.ndarray) -> pa.Array:
    native = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(native.ravel()), native.shape[1])
    return pa.array(native.tolist() if array.dtype.kind == "U" else native)
