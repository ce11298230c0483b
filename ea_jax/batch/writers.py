"""Write parts, and join them into one file: parquet, Arrow IPC, .npy, .npz and NDJSON.

The bytes depend on the batches alone: the same rows give the same file.
"""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from ea_jax.data.columns import is_number_list
from ea_jax.errors import BadInput

ARROW = (".parquet", ".arrow", ".feather", ".ipc")
FORMATS = (*ARROW, ".npy", ".npz", ".jsonl", ".ndjson")


@runtime_checkable
class Writer(Protocol):
    """Writes the batches of a file in order."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is left. The stream stays open."""


def check_format(format: str, schema: pa.Schema) -> None:
    """Raise BadInput if files of a format cannot hold the columns."""
    if format not in FORMATS:
        raise BadInput(f"The format {format!r} cannot be written. Choose one of {', '.join(FORMATS)}.")
    if format == ".npy" and len(schema) > 1:
        raise BadInput(
            f".npy files hold vectors alone, but the output has the columns {', '.join(schema.names)}. "
            "Write .npz or .parquet, or set vectors_only."
        )
    if format == ".npz":
        odd = [field.name for field in schema if not (is_number_list(field.type) or _is_flat(field.type))]
        if odd:
            raise BadInput(f".npz files hold numbers and strings, not the columns {', '.join(odd)}. Write .parquet.")


def open_writer(format: str, stream: IO[bytes], schema: pa.Schema) -> Writer:
    """Open a writer for one file."""
    if format == ".parquet":
        return _ParquetWriter(stream, schema)
    if format in ARROW:
        return _IpcWriter(stream, schema)
    if format in (".jsonl", ".ndjson"):
        return _NdjsonWriter(stream)
    return _NpyWriter(stream, schema) if format == ".npy" else _NpzWriter(stream, schema)


def join_parts(format: str, files: list[Path], stream: IO[bytes], schema: pa.Schema) -> None:
    """Join parts in order into one file, in constant memory."""
    if format in (".jsonl", ".ndjson"):
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, stream, 1 << 20)
    elif format in ARROW:
        writer = open_writer(format, stream, schema)
        for file in files:
            for batch in _batches(format, file):
                writer.write(batch)
        writer.close()
    elif format == ".npy":
        _join_arrays([np.load(file, mmap_mode="r") for file in files], stream)
    else:
        with zipfile.ZipFile(stream, "w") as archive:
            for name in schema.names:
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    _join_arrays([_ArchiveMember(file, name) for file in files], member)


class _ParquetWriter:
    """Writes one row group a batch: vectors uncompressed, since they hardly compress, other columns with zstd."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        paths = {f.name: f"{f.name}.list.element" if is_number_list(f.type) else f.name for f in schema}
        codecs = {paths[f.name]: "NONE" if is_number_list(f.type) else "ZSTD" for f in schema}
        nested = any(pa.types.is_nested(f.type) and not is_number_list(f.type) for f in schema)
        strings = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        settings: dict[str, Any] = {
            "compression": "ZSTD" if nested else codecs,
            "use_dictionary": strings,
            "write_statistics": [f.name for f in schema if not pa.types.is_nested(f.type)],
            "write_batch_size": 1 << 16,
            "data_page_size": 1 << 18,  # fits in the cache of a core
        }
        self._file = pa.OSFile(stream.name, "wb")  # Arrow writes without Python
        self._writer = parquet.ParquetWriter(self._file, schema, **settings)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_table(pa.Table.from_batches([batch]))

    def close(self) -> None:
        self._writer.close()
        self._file.close()


class _IpcWriter:
    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._file = pa.OSFile(stream.name, "wb")
        self._writer = pa.ipc.new_file(self._file, schema)

    def write(self, batch: pa.RecordBatch) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()
        self._file.close()


class _NdjsonWriter:
    """Writes one JSON object a row, each number with the fewest digits that identify it in its dtype."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def write(self, batch: pa.RecordBatch) -> None:
        columns = [_json(batch.schema.names[i], column) for i, column in enumerate(batch.columns)]
        for row in zip(*columns, strict=True):
            self._stream.write(f"{{{', '.join(row)}}}\n".encode())

    def close(self) -> None:
        pass


class _NpyWriter:
    """Writes a `.npy` array, and rewrites its header once the number of rows is known."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._stream, self._field, self._start, self._rows = stream, schema.field(0), stream.tell(), 0
        self._dtype = np.dtype(self._field.type.value_type.to_pandas_dtype())
        self._write_header()

    def write(self, batch: pa.RecordBatch) -> None:
        array = _array(pa.chunked_array([batch.column(0)]), self._field)
        self._stream.write(np.ascontiguousarray(array).data)
        self._rows += len(array)

    def close(self) -> None:
        self._stream.seek(self._start)
        self._write_header()

    def _write_header(self) -> None:
        _write_array_header(self._stream, self._dtype, (self._rows, self._field.type.list_size))


class _NpzWriter:
    """Writes an archive of one array a column. Batches are collected until `close`."""

    def __init__(self, stream: IO[bytes], schema: pa.Schema) -> None:
        self._stream, self._schema = stream, schema
        self._batches: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)

    def close(self) -> None:
        table = pa.Table.from_batches(self._batches, self._schema)
        with zipfile.ZipFile(self._stream, "w") as archive:
            for field in self._schema:
                with archive.open(zipfile.ZipInfo(f"{field.name}.npy"), "w", force_zip64=True) as member:
                    array = _array(table.column(field.name), field)
                    np.lib.format.write_array(member, array, allow_pickle=False)


class _ArchiveMember:
    """An array of an archive, read only while it is copied."""

    def __init__(self, file: Path, name: str) -> None:
        self._file, self._name = file, name
        array = self.read()
        self.shape, self.dtype = array.shape, array.dtype

    def read(self) -> np.ndarray:
        with np.load(self._file, allow_pickle=False) as archive:
            return archive[self._name]


def _join_arrays(parts: list[Any], stream: Any) -> None:
    dtype = max((part.dtype for part in parts), key=lambda dtype: dtype.itemsize)
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    _write_array_header(stream, dtype, shape)
    for part in parts:
        array = part.read() if isinstance(part, _ArchiveMember) else part
        for row in range(0, len(array), 4096):
            stream.write(np.ascontiguousarray(array[row : row + 4096], dtype).tobytes())


def _write_array_header(stream: Any, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write the header of a `.npy` file, whose length does not depend on the number of rows."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)


def _batches(format: str, file: Path) -> Iterator[pa.RecordBatch]:
    """Read the batches of a part as they were written."""
    if format == ".parquet":
        with parquet.ParquetFile(file, pre_buffer=False) as part:
            for group in range(part.num_row_groups):
                yield from part.read_row_group(group).combine_chunks().to_batches()
    else:
        with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as part:
            yield from (part.get_batch(i) for i in range(part.num_record_batches))


def _is_flat(kind: pa.DataType) -> bool:
    return any(
        one(kind) for one in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_string)
    )


def _array(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    if column.null_count:
        raise BadInput(f"Column {field.name} has nulls, which .npz files cannot hold. Write .parquet.")
    if pa.types.is_fixed_size_list(field.type):
        flat = pa.concat_arrays([chunk.flatten() for chunk in column.chunks] or [pa.array([], field.type.value_type)])
        return flat.to_numpy(zero_copy_only=False).reshape(len(column), field.type.list_size)
    values = column.to_numpy()
    return values.astype(str) if pa.types.is_string(field.type) else values


def _json(name: str, column: pa.Array) -> list[str]:
    """Render a column as the text `"name": value` of each row."""
    key = json.dumps(name, ensure_ascii=False)
    if is_number_list(column.type):
        inner = pa.list_(pa.float32()) if pa.types.is_float16(column.type.value_type) else None
        lists = column.cast(inner) if inner else column
        texts = pc.call_function("binary_join", [lists.cast(pa.list_(pa.string())), ", "]).to_pylist()
        if not any(text is not None and "n" in text for text in texts):  # nan, inf or null
            return [f"{key}: {'null' if text is None else f'[{text}]'}" for text in texts]
    try:
        return [f"{key}: {json.dumps(value, ensure_ascii=False)}" for value in column.to_pylist()]
    except TypeError as error:
        raise BadInput(f"Column {name} of {column.type} cannot be written as JSON: {error}. Write .parquet.") from error
