"""Read parquet files, and Arrow IPC files and streams, as blocks of rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from ea_jax.data.blocks import Block, Cut, Hints, cut_evenly, readable, recut

READ = 4096  # rows decoded together
MAGIC = b"ARROW1"  # at the start of IPC files; streams lack it


def describe(path: Path, part_rows: int, hints: Hints) -> tuple[pa.Schema, list[Cut]]:
    """Return the columns and cuts of a file, from its footer or its batch headers."""
    with readable(path):
        if path.suffix == ".parquet":
            with _open_parquet(path) as file:
                return file.schema_arrow, cut_evenly(file.metadata.num_rows, part_rows)
        with _open_ipc(path) as (schema, batches):
            return schema, cut_evenly(sum(map(len, batches)), part_rows)


def blocks(path: Path, schema: pa.Schema, cuts: Sequence[Cut], size: int, hints: Hints) -> Iterator[tuple[int, Block]]:
    """Yield the rows of adjacent cuts, each block with the number of its cut."""
    with readable(path):
        read = _read_parquet if path.suffix == ".parquet" else _read_ipc
        yield from recut(read(path, schema, cuts[0].start, cuts[-1].stop), schema, cuts, size)


def _open_parquet(path: Path) -> parquet.ParquetFile:
    return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _read_parquet(path: Path, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Read from `start` on. Row groups outside the range are skipped."""
    with _open_parquet(path) as file:
        groups, skip, row = [], 0, 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows > start and row < stop:
                skip = skip if groups else start - row
                groups.append(group)
            row += rows
        if groups:
            yield from _skip_rows(file.iter_batches(READ, row_groups=groups, columns=schema.names), skip)


@contextmanager
def _open_ipc(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open an IPC file or stream, memory-mapped."""
    with pa.memory_map(str(path)) as source:
        is_file = source.read(len(MAGIC)) == MAGIC
        source.seek(0)
        with (pa.ipc.open_file if is_file else pa.ipc.open_stream)(source) as reader:
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else iter(reader)
            yield reader.schema, batches


def _read_ipc(path: Path, schema: pa.Schema, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    with _open_ipc(path) as (_, batches):
        yield from _skip_rows(batches, start)


def _skip_rows(batches: Iterator[pa.RecordBatch], skip: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if skip < len(batch):
            yield batch.slice(skip)
        skip = max(0, skip - len(batch))
