"""Pairs in files: parquet or (gzipped) NDJSON with the columns text, x, y, group, domain and query, or a folder."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32, Shaped
from pyarrow import json, parquet

from ea_jax.errors import BadInput

COLUMNS = ("text", "x", "y", "group", "domain", "query")
VECTORS, NAMES = ("x", "y"), ("group", "domain")
BATCH = 1024  # rows
BLOCK = 1 << 23  # bytes
ARRAYS = {  # of a folder: kinds of dtype, dimensions, what they are called
    **dict.fromkeys(VECTORS, ("f", 2, "floats, a row a vector")),
    **dict.fromkeys(NAMES, ("Uiu", 1, "strings or integers, one a row")),
    "query": ("b", 1, "booleans, one a row"),
}


@dataclass(frozen=True)
class Pairs:
    """Row-aligned columns; one that the files do not have is None.

    Attributes:
        y: Target embeddings.
        x: Source embeddings.
        text: What was embedded.
        group: What must not straddle a split: a document, a repository, a customer.
        domain: Where each pair came from, which a split may share: a collection, a website.
        query: Of a test set: the rows that ask. The others are the corpus.
    """

    y: Float[np.ndarray, "n d_out"]
    x: Float[np.ndarray, "n d_in"] | None = None
    text: list[str] | None = None
    group: list[str] | None = None
    domain: list[str] | None = None
    query: Bool[np.ndarray, " n"] | None = None


class _Stack:
    """Vectors as they come, part after part: in memory, or in a file of a scratch folder that is then mapped."""

    def __init__(self, scratch: Path | None) -> None:
        self.file = None if scratch is None else scratch / f"{uuid4().hex}.f32"
        self.parts, self.shape = [], (0, 0)

    def extend(self, part: Float32[np.ndarray, "b d"]) -> None:
        """Add rows. They are written, not mapped: how many there will be is not known, and mapped pages are memory."""
        if self.file is None:
            self.parts.append(part)
        else:
            with self.file.open("ab") as file:
                file.write(np.ascontiguousarray(part).data)
        self.shape = (self.shape[0] + len(part), part.shape[1])

    def array(self) -> Float32[np.ndarray, "n d"]:
        """All rows."""
        if self.file is None or not self.shape[0]:
            return np.concatenate([np.zeros((0, self.shape[1]), np.float32), *self.parts])
        return np.memmap(self.file, np.float32, "r", shape=self.shape)


def stacked(parts: Iterable[Float32[np.ndarray, "b d"]], scratch: Path | None) -> Float32[np.ndarray, "n d"]:
    """Parts as one array: in memory, or memory-mapped from a new file in the folder `scratch`."""
    stack = _Stack(scratch)
    for part in parts:
        stack.extend(part)
    return stack.array()


def read_pairs(paths: Sequence[Path], scratch: Path | None = None) -> Pairs:
    """Read pairs from files of the same columns, in the order given, or from one folder of arrays.

    A folder holds `y.npy` and `x.npy` (a row a vector; memory-mapped) or `text.txt` (a text a line), all row-aligned,
    and may hold `group.npy` and `domain.npy` (strings or integers) and `query.npy` (booleans).

    Args:
        paths: .parquet, .jsonl, .ndjson and .jsonl.gz files, or one folder.
        scratch: A folder for files that x and y are put into and memory-mapped from, for pairs that exceed memory.
            The caller removes it. Vectors are read into memory if None.

    Raises:
        BadInput: A file is missing, unreadable or of an unknown kind; a column is missing or of another type; a value
            is null; a vector is of another width, not finite or zero. The message names the file, column and row.
    """
    if not any(path.is_dir() for path in paths):
        return _read_files(paths, scratch)
    if len(paths) > 1:
        raise BadInput(f"A folder of arrays is read alone, not as one of {len(paths)} paths.")
    return _read_folder(paths[0], scratch)


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs as parquet with the columns that `read_pairs` reads."""
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(column.ravel(), column.shape[1]) if name in VECTORS else column
        for name in COLUMNS
        if (column := getattr(pairs, name)) is not None
    }
    parquet.write_table(pa.table(arrays), path)


def _read_files(paths: Sequence[Path], scratch: Path | None) -> Pairs:
    names = _common_names(paths)
    columns: dict[str, Any] = {name: _Stack(scratch) if name in VECTORS else [] for name in names}
    for path in paths:
        row = 0
        for batch in _batches(path):
            _check_names(path, names, batch.schema.names, row)
            for name in names:
                width = columns[name].shape[1] if name in VECTORS else 0
                part = _column(batch.column(name), name, f"{path}, column {name}", row, width if row else 0)
                if width and width != part.shape[1]:
                    widths = sorted([width, part.shape[1]])
                    raise BadInput(f"Column {name} has vectors of widths {widths} in different files.")
                columns[name].extend(part)
            row += len(batch)
    for name in set(VECTORS) & columns.keys():
        columns[name] = columns[name].array()
    if "query" in columns:
        columns["query"] = np.asarray(columns["query"], bool)
    return Pairs(**columns)


def _common_names(paths: Sequence[Path]) -> list[str]:
    """The columns that all files have, known before any is read through."""
    names: list[str] = []
    for path in paths:
        there = _names(path)
        found = [name for name in COLUMNS if name in there]
        if "y" not in found or not {"x", "text"} & set(found):
            raise BadInput(f"{path} needs the columns y and (x or text); it has {', '.join(there)}.")
        if found != (names := names or found):
            raise BadInput(f"{path} has the columns {', '.join(found)}, but {paths[0]} has {', '.join(names)}.")
    return names


def _check_names(path: Path, names: list[str], found: list[str], row: int) -> None:
    """A key that a part of an NDJSON file lacks is null in all its rows."""
    for name in COLUMNS:
        if (name in names) != (name in found):
            raise BadInput(f"{path}, column {name}, row {row if name in names else 0}: the value is null.")


def _is_parquet(path: Path) -> bool:
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise BadInput(f"{path} is not a file.")
    if not name.endswith((".parquet", ".jsonl", ".ndjson")):
        raise BadInput(f"{path} is of an unknown kind; pairs are read from .parquet, .jsonl, .ndjson and .jsonl.gz.")
    return name.endswith(".parquet")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error


def _names(path: Path) -> list[str]:
    with _readable(path):
        return parquet.read_schema(path).names if _is_parquet(path) else next(_batches(path)).schema.names


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file in order, some thousands at a time, and at least one."""
    rows = 0
    with _readable(path):
        for batch in _parquet(path) if _is_parquet(path) else _ndjson(path):
            rows += len(batch)
            if len(batch):
                yield batch
    if not rows:
        raise BadInput(f"{path} cannot be read: it has no rows.")


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(BATCH, columns=list(COLUMNS))  # those that it has


def _ndjson(path: Path) -> Iterator[pa.RecordBatch]:
    """Batches of blocks of whole lines. Arrow's own stream would ignore keys that the first block has not."""
    rest, row = b"", 0
    with pa.input_stream(str(path)) as stream:
        while (read := stream.read(BLOCK)) or rest:
            whole, _, rest = (rest + read).rpartition(b"\n") if read else (rest, b"", b"")
            for batch in _parsed(whole, row):
                yield batch
                row += len(batch)


def _parsed(lines: bytes, row: int) -> list[pa.RecordBatch]:
    if not lines.strip():
        return []
    try:
        table = json.read_json(pa.BufferReader(lines), json.ReadOptions(block_size=len(lines) + 1))
    except pa.ArrowInvalid as error:  # it counts rows from the block's first
        told = re.sub(r"in row (\d+)", lambda found: f"in row {row + int(found[1])}", str(error))
        raise pa.ArrowInvalid(told) from error
    return table.combine_chunks().to_batches()


def _column(column: pa.Array, name: str, where: str, row: int, width: int) -> Any:
    """Values of a batch whose first row is `row` of the file; vectors have the width given or, if 0, the first's."""
    if column.null_count:
        row += column.is_null().to_numpy(zero_copy_only=False).argmax()
        raise BadInput(f"{where}, row {row}: the value is null.")
    if name in VECTORS:
        return _vectors(column, where, row, width)
    wanted = pa.types.is_boolean if name == "query" else pa.types.is_string
    if not wanted(column.type):
        raise BadInput(f"{where} holds {column.type}; it must hold {wanted.__name__.removeprefix('is_')}s.")
    return column.to_pylist()


def _vectors(column: pa.Array, where: str, row: int, width: int) -> Float32[np.ndarray, "b d"]:
    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise BadInput(f"{where} holds {kind}; it must hold lists of numbers.")
    lengths = column.value_lengths().to_numpy()
    first = width or lengths[0]
    odd = lengths != first
    if odd.any():
        at = odd.argmax()
        raise BadInput(f"{where}, row {row + at}: the vector has width {lengths[at]}, the first has {first}.")
    return _checked(column.flatten().to_numpy(zero_copy_only=False).reshape(len(lengths), first), where, row)


def _checked(vectors: Shaped[np.ndarray, "b d"], where: str, row: int) -> Float32[np.ndarray, "b d"]:
    """Vectors as float32, after a look that each is finite and not zero."""
    with np.errstate(over="ignore"):
        vectors = np.asarray(vectors, np.float32)
        norms = np.linalg.norm(vectors, axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        raise BadInput(f"{where}, row {row + bad.argmax()}: the vector is zero or has a value that is not finite.")
    return vectors


def _read_folder(folder: Path, scratch: Path | None) -> Pairs:
    files = {name: folder / f"{name}.npy" for name in ARRAYS} | {"text": folder / "text.txt"}
    there = {name: file for name, file in files.items() if file.is_file()}
    if "y" not in there or not {"x", "text"} & there.keys():
        raise BadInput(f"{folder} needs y.npy and (x.npy or text.txt), to be a folder of pairs.")
    columns: dict[str, Any] = {}
    for name, file in there.items():
        columns[name] = _lines(file) if name == "text" else _array(file, *ARRAYS[name])
    if len({len(column) for column in columns.values()}) > 1:
        rows = ", ".join(f"{there[name].name} {len(column):,}" for name, column in columns.items())
        raise BadInput(f"{folder} holds columns of unequal length, which must be row-aligned: {rows}.")
    if not len(columns["y"]):
        raise BadInput(f"{folder} cannot be read: it has no rows.")
    for name in set(VECTORS) & columns.keys():
        columns[name] = _mapped(columns[name], str(there[name]), scratch)
    for name in set(NAMES) & columns.keys():
        columns[name] = [str(value) for value in columns[name].tolist()]
    return Pairs(**columns)


def _array(file: Path, kinds: str, dimensions: int, wanted: str) -> np.ndarray:
    """The array of a .npy file, memory-mapped; this never unpickles."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read (pickled objects never are): {error}") from error
    if array.dtype.kind not in kinds or array.ndim != dimensions:
        raise BadInput(f"{file} holds {array.dtype} of shape {array.shape}; it must hold {wanted}.")
    return array


def _lines(file: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8-sig") as lines:
            return [line.rstrip("\n") for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}.") from error


def _mapped(array: Float[np.ndarray, "n d"], where: str, scratch: Path | None) -> Float32[np.ndarray, "n d"]:
    """The array itself where it is float32 in rows, which takes no memory, or what it is converted to."""
    plain, stack = array.dtype == np.float32 and array.flags.c_contiguous, _Stack(scratch)
    for row in range(0, len(array), BATCH):
        part = _checked(array[row : row + BATCH], where, row)
        if not plain:
            stack.extend(part)
    return array if plain else stack.array()
