"""Blocks of rows: how a file is cut into ranges, and what a reader yields."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int

from ea_jax.errors import BadInput


class Cut(NamedTuple):
    """A range of rows, `start` to `stop`; in a text file also its range of bytes, `at` to `end`."""

    start: int
    stop: int
    at: int = 0
    end: int = 0


class Block(NamedTuple):
    """Some rows of a file.

    Attributes:
        batch: The rows that could be parsed.
        rows: Their numbers in the file.
        bad: The reason for each row that could not be parsed, by its number.
    """

    batch: pa.RecordBatch
    rows: Int[np.ndarray, " n"]
    bad: dict[int, str]


class Hints(NamedTuple):
    """What a file itself does not record.

    Attributes:
        vectors: Name of the column in files of bare vectors: `.npy`, and `.json` lists of lists.
        texts: Name of the column in files of bare texts: `.txt`, and `.json` lists of strings.
        delimiter: Delimiter of CSV files; detected if None.
    """

    vectors: str = "embedding"
    texts: str = "text"
    delimiter: str | None = None


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of reading a file into a BadInput of one line."""
    try:
        yield
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        if isinstance(error, BadInput):
            raise
        message = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadInput(f"{path} cannot be read: {message}.") from error


def cut_evenly(rows: int, part_rows: int) -> list[Cut]:
    """Cut rows into ranges of equal length. A file without rows has one empty range."""
    return [Cut(start, min(rows, start + part_rows)) for start in range(0, max(rows, 1), part_rows)]


def ordinary_type(kind: pa.DataType) -> pa.DataType:
    """Replace views, which few functions accept, by ordinary strings, bytes and lists."""
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.string() if kind == pa.string_view() else pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(ordinary_type(field.type)) for field in kind])
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(ordinary_type(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind) or pa.types.is_large_list_view(kind):
        return pa.large_list(kind.value_field.with_type(ordinary_type(kind.value_type)))
    if pa.types.is_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(kind.value_field.with_type(ordinary_type(kind.value_type)))
    return kind


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Select and cast the columns of a batch by name; a missing column is null."""
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        at = batch.schema.get_field_index(field.name)
        column = pa.nulls(len(batch), field.type) if at < 0 else view_to_list(batch.column(at))
        columns.append(column if column.type.equals(field.type) else column.cast(field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def view_to_list(column: pa.Array) -> pa.Array:
    """Convert a list view to a list. Arrow's own cast gives too short a buffer of offsets."""
    large = pa.types.is_large_list_view(column.type)
    if not large and not pa.types.is_list_view(column.type):
        return column
    sizes = pa.compute.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)  # pyright: ignore
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int64() if large else pa.int32())
    kind = pa.LargeListArray if large else pa.ListArray
    return kind.from_arrays(offsets, column.flatten(), mask=column.is_null())


def recut(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, cuts: Sequence[Cut], size: int
) -> Iterator[tuple[int, Block]]:
    """Regroup a stream of batches, which starts at the first cut, into blocks of at most `size` rows of one cut."""
    stream, pending, available = iter(batches), [], 0
    for number, cut in enumerate(cuts):
        start = cut.start
        while start < cut.stop or start == cut.start == cut.stop:
            rows = min(size, cut.stop - start)
            while available < rows:
                batch = next(stream, None)
                if batch is None:  # fewer rows than were counted: the caller raises
                    return
                pending.append(conform(batch, schema))
                available += len(batch)
            table = pa.Table.from_batches(pending, schema)
            pending, available = table.slice(rows).to_batches(), available - rows
            yield number, Block(combine_batches(table.slice(0, rows)), np.arange(start, start + rows), {})
            start += rows
            if not rows:
                break


def combine_batches(table: pa.Table) -> pa.RecordBatch:
    """Combine a table into one batch."""
    batches = table.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    arrays = [pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type) for column in table]
    return pa.RecordBatch.from_arrays(arrays, schema=table.schema)
