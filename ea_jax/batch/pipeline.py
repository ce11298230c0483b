"""Reading, computing and writing at the same time, each a few batches ahead of the next and no more."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import Queue
from threading import Event, Thread
from typing import Any

from ea_jax.batch.batch_map import GO_ON, BatchMap
from ea_jax.batch.inputs import Inputs, Part
from ea_jax.batch.part_writer import Result, write_all
from ea_jax.batch.prefetch import AHEAD, Stopped, ahead, put, timed
from ea_jax.batch.readers.blocks import Block
from ea_jax.batch.row_digests import Read, read_digested
from ea_jax.batch.state import Place, Totals
from ea_jax.errors import BadInput


def run_parts(
    inputs: Inputs, parts: list[Part], run: BatchMap, place: Place, advance: Callable[[int], None]
) -> dict[str, float]:
    """Map parts and put each in its place once it is whole.

    Returns:
        Seconds that each stage was busy: read, compute, write.

    Raises:
        BadInput: A row is bad, unless such rows are skipped, or a file is. Parts that are whole stay.
    """
    busy, stop = {"read": 0.0, "compute": 0.0, "write": 0.0}, Event()
    schema = run.out_schema(inputs.schema)
    read = ahead(timed(read_digested(inputs, parts, run.options.rows), busy, "read"), stop)
    results: Queue[Any] = Queue(AHEAD)
    failed: list[BaseException] = []
    writer = Thread(target=write_all, args=(results, schema, place, advance, busy, stop, failed), daemon=True)
    writer.start()
    try:
        for result in _compute(read, run, busy):
            put(results, result, stop)
        put(results, None, stop)
    except Exception as error:
        if not isinstance(error, Stopped):
            failed.append(error)
            with suppress(Stopped):
                put(results, None, stop)  # parts that are computed whole are written
    except BaseException:
        stop.set()
        raise
    finally:
        writer.join()
        stop.set()
    if failed:
        raise failed[0]
    return busy


def map_block(read: Read, run: BatchMap) -> Callable[[], Result]:
    """Begin with a block; the callable that comes back waits for the device."""
    part, block, digest = read
    if block.bad and not run.options.skip:
        row, why = min(block.bad.items())
        before = block.batch.slice(0, int((block.rows < row).sum()))
        run.start(before, lambda at: f"{part.file}, row {block.rows[at]}")  # an earlier bad row is the one to name
        raise BadInput(f"{part.file}, row {row}: {why}. {GO_ON}.")
    finish = run.start(block.batch, lambda at: f"{part.file}, row {block.rows[at]}")

    def result() -> Result:
        done = finish()
        bad = {int(block.rows[at]): (at, why) for at, why in done.rejected.items()}
        bad |= {row: (None, why) for row, why in block.bad.items()}
        rejects = [_reject(part, block, row, at, why, run.options.id_column) for row, (at, why) in sorted(bad.items())]
        totals = Totals(len(block.rows) + len(block.bad), len(done.batch), len(rejects), done.dropped)
        return Result(part, done.batch, totals, rejects, digest)

    return result


def _compute(read: Iterator[Read], run: BatchMap, busy: dict[str, float]) -> Iterator[Result]:
    """Results in order; those that were begun before an error come before it."""
    waiting: deque[Callable[[], Result]] = deque()

    def finish() -> Result:
        start = time.perf_counter()
        result = waiting.popleft()()
        busy["compute"] += time.perf_counter() - start
        return result

    try:
        for one in read:
            start = time.perf_counter()
            waiting.append(map_block(one, run))
            busy["compute"] += time.perf_counter() - start
            if len(waiting) >= AHEAD:
                yield finish()
    except Exception:
        while waiting:
            yield finish()
        raise
    while waiting:
        yield finish()


def _reject(part: Part, block: Block, row: int, at: int | None, why: str, ids: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"file": str(part.file), "row": row}
    if ids is not None and at is not None:
        value = block.batch.column(ids)[at].as_py()
        told["id"] = value if isinstance(value, int | float | str | None) else str(value)
    return told | {"reason": why}
