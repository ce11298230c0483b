"""Parquet and Arrow IPC files as blocks of rows; row groups that end before the first row are skipped."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from ea_jax.batch.readers.blocks import Block, Cut, even_cuts, readable, recut

READ = 4096  # rows decoded together


def describe(path: Path, column: str | None, part_rows: int) -> tuple[pa.Schema, list[Cut]]:
    """Columns and cuts of a file, from its footer."""
    with readable(path):
        if path.suffix == ".parquet":
            with _parquet(path) as file:
                return file.schema_arrow, even_cuts(file.metadata.num_rows, part_rows)
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
            rows = sum(file.get_batch(i).num_rows for i in range(file.num_record_batches))
            return file.schema, even_cuts(rows, part_rows)


def blocks(
    path: Path, schema: pa.Schema, column: str | None, cuts: Sequence[Cut], size: int
) -> Iterator[tuple[int, Block]]:
    """Rows of cuts that follow each other, with the number of their cut."""
    with readable(path):
        read = _read_parquet if path.suffix == ".parquet" else _read_ipc
        yield from recut(read(path, cuts[0].start, cuts[-1].stop), schema, cuts, size)


def _parquet(path: Path) -> parquet.ParquetFile:
    return parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _read_parquet(path: Path, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    with _parquet(path) as file:
        groups, skip, row = [], 0, 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row + rows > start and row < stop:
                skip = skip if groups else start - row
                groups.append(group)
            row += rows
        if groups:
            yield from _after(file.iter_batches(READ, row_groups=groups), skip)


def _read_ipc(path: Path, start: int, stop: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        row = 0
        for number in range(file.num_record_batches):
            batch = file.get_batch(number)
            if row + len(batch) > start and row < stop:
                yield batch.slice(max(0, start - row))
            row += len(batch)


def _after(batches: Iterator[pa.RecordBatch], skip: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if skip < len(batch):
            yield batch.slice(skip)
        skip = max(0, skip - len(batch))
