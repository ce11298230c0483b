"""Rows on their way: where they are cut, and what a reader hands on."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from ea_jax.errors import BadInput


class Cut(NamedTuple):
    """The rows from `start` to before `stop` of a file; of lines, the bytes from `at` to before `end`."""

    start: int
    stop: int
    at: int = 0
    end: int = 0


class Block(NamedTuple):
    """Some rows of a file.

    Attributes:
        batch: Those that could be read.
        rows: Their numbers in the file.
        bad: Why others could not be, by their number.
    """

    batch: pa.RecordBatch
    rows: Int[np.ndarray, " n"]
    bad: dict[int, str]


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Errors of reading a file, as one sentence."""
    try:
        yield
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        if isinstance(error, BadInput):
            raise
        told = str(error).splitlines()[0].rstrip(".")
        raise BadInput(f"{path} cannot be read: {told}.") from error


def even_cuts(rows: int, part_rows: int) -> list[Cut]:
    """Ranges of equal length; one without rows where there are none, so that every file has a part."""
    return [Cut(start, min(rows, start + part_rows)) for start in range(0, max(rows, 1), part_rows)]


def recut(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, cuts: Sequence[Cut], size: int
) -> Iterator[tuple[int, Block]]:
    """A stream of batches that starts with the first cut's first row, as blocks of `size` rows at the most."""
    stream, held, have = iter(batches), [], 0
    for number, cut in enumerate(cuts):
        start = cut.start
        while start < cut.stop or start == cut.start == cut.stop:
            want = min(size, cut.stop - start)
            while have < want:
                batch = next(stream, None)
                if batch is None:  # fewer rows than were counted: the caller tells
                    return
                held.append(batch)
                have += len(batch)
            table = pa.Table.from_batches(held, schema)
            rest, have = table.slice(want), have - want
            held = rest.to_batches()
            yield number, Block(_one(table.slice(0, want), schema), np.arange(start, start + want), {})
            start += want
            if not want:
                break


def _one(table: pa.Table, schema: pa.Schema) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if len(batches) == 1:
        return batches[0]
    arrays = [pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type) for column in table]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
