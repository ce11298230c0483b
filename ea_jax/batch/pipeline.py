"""Read, compute and write concurrently, each stage a bounded number of batches ahead of the next."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from threading import Event, Thread
from typing import Any

import pyarrow as pa

from ea_jax.batch.batch_map import BadRow, BatchMap
from ea_jax.batch.part_writer import MappedBlock, write_parts
from ea_jax.batch.prefetch import AHEAD, Stopped, prefetch, put, timed
from ea_jax.batch.row_digests import DigestedBlock, read_with_digests
from ea_jax.batch.state import OutputPaths, Totals
from ea_jax.data.blocks import Block
from ea_jax.data.columns import get_column
from ea_jax.data.tables import Part, Tables, row_name


def run_parts(
    inputs: Tables,
    parts: list[Part],
    run: BatchMap,
    schema: pa.Schema,
    output: OutputPaths,
    advance: Callable[[int], None],
) -> dict[str, float]:
    """Map parts, and move each into place once it is complete.

    Args:
        inputs: All files of the job.
        parts: The parts to map.
        run: Maps a batch.
        schema: Schema of the output.
        output: Where to write.
        advance: Called with the number of rows written.

    Returns:
        Seconds that each stage was busy: read, compute, write.

    Raises:
        BadRow: A row cannot be mapped, and such rows are not skipped. Complete parts remain.
        BadInput: A file is damaged or has changed. Complete parts remain.
    """
    busy, stop = {"read": 0.0, "compute": 0.0, "write": 0.0}, Event()
    read = prefetch(timed(read_with_digests(inputs, parts, run.options.rows), busy, "read"), stop)
    blocks: Queue[Any] = Queue(AHEAD)
    errors: list[BaseException] = []
    writer = Thread(target=write_parts, args=(blocks, schema, output, advance, busy, stop, errors), daemon=True)
    writer.start()
    try:
        for block in _compute(read, run, busy):
            put(blocks, block, stop)
        put(blocks, None, stop)
    except Exception as error:
        if not isinstance(error, Stopped):
            errors.append(error)
            with suppress(Stopped):
                put(blocks, None, stop)  # parts that are already computed are still written
    except BaseException:
        stop.set()
        raise
    finally:
        writer.join()
        stop.set()
    if errors:
        raise errors[0]
    return busy


def start_block(read: DigestedBlock, run: BatchMap) -> Callable[[], MappedBlock]:
    """Start mapping a block. The returned callable waits for the devices."""
    part, block, digest = read

    def where(row: int) -> str:
        return row_name(part.file, int(block.rows[row]))

    if block.bad and not run.options.skip:
        row, why = min(block.bad.items())
        run.start(block.batch.slice(0, int((block.rows < row).sum())), where)  # raises for an earlier bad row
        raise BadRow(f"{row_name(part.file, row)}: {why}.")
    finish = run.start(block.batch, where)

    def result() -> MappedBlock:
        mapped = finish()
        bad = {int(block.rows[at]): (at, why) for at, why in mapped.rejected.items()}
        bad |= {row: (None, why) for row, why in block.bad.items()}
        rejects = [_reject(part, block, row, at, why, run.options.id_column) for row, (at, why) in sorted(bad.items())]
        totals = Totals(
            len(block.rows) + len(block.bad), len(mapped.batch), len(rejects), mapped.dropped, mapped.truncated
        )
        return MappedBlock(part, mapped.batch, totals, rejects, digest)

    return result


def _compute(read: Iterator[DigestedBlock], run: BatchMap, busy: dict[str, float]) -> Iterator[MappedBlock]:
    """Yield mapped blocks in order. Blocks started before an error are yielded before it is raised."""
    started: deque[Callable[[], MappedBlock]] = deque()

    def finish() -> MappedBlock:
        start = time.perf_counter()
        block = started.popleft()()
        busy["compute"] += time.perf_counter() - start
        return block

    try:
        for block in read:
            start = time.perf_counter()
            started.append(start_block(block, run))
            busy["compute"] += time.perf_counter() - start
            if len(started) >= AHEAD:
                yield finish()
    except Exception:
        while started:
            yield finish()
        raise
    while started:
        yield finish()


def _reject(part: Part, block: Block, row: int, at: int | None, why: str, id_column: str | None) -> dict[str, Any]:
    """Return the line that lists a rejected row; `at` is its number in the batch, if it could be parsed."""
    line: dict[str, Any] = {"file": str(part.file), "row": row}
    if id_column is not None and at is not None:
        value = get_column(block.batch, id_column)[at].as_py()
        line["id"] = value if isinstance(value, int | float | str | None) else str(value)
    return line | {"reason": why}
