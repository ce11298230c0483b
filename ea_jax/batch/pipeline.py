"""Reading, computing and writing at the same time, each a few batches ahead of the next and no more."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from queue import Empty, Full, Queue
from threading import Event, Thread
from typing import IO, Any, NamedTuple

import pyarrow as pa

from ea_jax.batch.blocks import Block
from ea_jax.batch.core import GO_ON, BatchMap
from ea_jax.batch.inputs import Inputs, Part, read_parts
from ea_jax.batch.outputs import Writer, open_writer
from ea_jax.batch.state import Place, Totals, write_json
from ea_jax.durable import whole_file
from ea_jax.errors import BadInput

AHEAD = 2  # batches between two stages


class Result(NamedTuple):
    """A mapped block, on its way to the writer."""

    part: Part
    batch: pa.RecordBatch
    totals: Totals
    rejects: list[dict[str, Any]]


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
    read = _ahead(_timed(read_parts(inputs, parts, run.options.rows), busy, "read"), stop)
    results: Queue[Any] = Queue(AHEAD)
    failed: list[BaseException] = []
    writer = Thread(target=_write_all, args=(results, schema, place, advance, busy, stop, failed), daemon=True)
    writer.start()
    try:
        for result in _compute(read, run, busy):
            _put(results, result, stop)
        _put(results, None, stop)
    except Exception as error:
        if not isinstance(error, _Stopped):
            failed.append(error)
            with suppress(_Stopped):
                _put(results, None, stop)  # parts that are computed whole are written
    except BaseException:
        stop.set()
        raise
    finally:
        writer.join()
        stop.set()
    if failed:
        raise failed[0]
    return busy


def map_block(part: Part, block: Block, run: BatchMap) -> Callable[[], Result]:
    """Begin with a block; the callable that comes back waits for the device."""
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
        return Result(part, done.batch, totals, rejects)

    return result


def write_part(results: Iterable[Result], schema: pa.Schema, place: Place, advance: Callable[[int], None]) -> None:
    """Write one part from its results, and then the record that says so."""
    with ExitStack() as stack:
        writer, stream, totals, rejects, number = None, None, Totals(), [], -1
        for result in results:
            number = result.part.number
            if writer is None:
                stream, writer = _open(stack, place, number, schema)
                stack.push(_closing(writer))
            if len(result.batch):
                writer.write(result.batch)
            totals, rejects = totals.plus(result.totals), rejects + result.rejects
            advance(result.totals.read)
        if writer is None or stream is None:
            return
        writer.close()
        stream.seek(0, 2)
        size = stream.tell()
    if rejects:
        with whole_file(place.rejects(number)) as lines:
            lines.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rejects).encode())
    write_json(place.record(number), {"file": place.part(number).name, "bytes": size, **totals._asdict()})


def _closing(writer: Writer) -> Callable[..., None]:
    """On an error, close what Arrow holds before the file is closed; its content is not used."""

    def close(kind: Any, *_: Any) -> None:
        if kind is not None:
            with suppress(Exception):
                writer.close()

    return close


def _open(stack: ExitStack, place: Place, number: int, schema: pa.Schema) -> tuple[IO[bytes], Writer]:
    final = place.part(number)
    stream = stack.enter_context(whole_file(final, place.state / "tmp" / final.name))
    return stream, open_writer(place.kind, stream, schema)


def _compute(read: Iterator[tuple[Part, Block]], run: BatchMap, busy: dict[str, float]) -> Iterator[Result]:
    """Results in order; those that were begun before an error come before it."""
    waiting: deque[Callable[[], Result]] = deque()

    def finish() -> Result:
        start = time.perf_counter()
        result = waiting.popleft()()
        busy["compute"] += time.perf_counter() - start
        return result

    try:
        for part, block in read:
            start = time.perf_counter()
            waiting.append(map_block(part, block, run))
            busy["compute"] += time.perf_counter() - start
            if len(waiting) >= AHEAD:
                yield finish()
    except Exception:
        while waiting:
            yield finish()
        raise
    while waiting:
        yield finish()


def _write_all(
    results: Queue[Any],
    schema: pa.Schema,
    place: Place,
    advance: Callable[[int], None],
    busy: dict[str, float],
    stop: Event,
    failed: list[BaseException],
) -> None:
    """The writer's thread: parts one after the other, until there is None."""

    def of_part(first: Result) -> Iterator[Result]:
        """All results of a part, or an error where they do not come."""
        left, result = first.part.cut.stop - first.part.cut.start, first
        while True:
            left -= result.totals.read
            yield result
            if not left:
                return
            waited = time.perf_counter()
            result = _get(results, stop)
            busy["write"] -= time.perf_counter() - waited
            if result is None:
                raise _Stopped

    try:
        while (first := _get(results, stop)) is not None:
            start = time.perf_counter()
            write_part(of_part(first), schema, place, advance)
            busy["write"] += time.perf_counter() - start
    except BaseException as error:
        if not isinstance(error, _Stopped):
            failed.append(error)
        stop.set()


class _Stopped(Exception):
    """Another stage has failed."""


def _put(queue: Queue[Any], item: Any, stop: Event) -> None:
    while True:
        if stop.is_set():
            raise _Stopped
        try:
            return queue.put(item, timeout=0.1)
        except Full:
            continue


def _get(queue: Queue[Any], stop: Event) -> Any:
    while True:
        try:
            return queue.get(timeout=0.1)
        except Empty:
            if stop.is_set():
                raise _Stopped from None


def _ahead(items: Iterator[Any], stop: Event) -> Iterator[Any]:
    """Items made in a thread of their own, a few ahead."""
    queue: Queue[Any] = Queue(AHEAD)

    def make() -> None:
        try:
            for item in items:
                _put(queue, (item, None), stop)
            _put(queue, (None, None), stop)
        except _Stopped:
            pass
        except BaseException as error:
            with suppress(_Stopped):  # who would have heard of it has failed already
                _put(queue, (None, error), stop)

    Thread(target=make, daemon=True).start()
    while True:
        item, error = _get(queue, stop)
        if error:
            raise error
        if item is None:
            return
        yield item


def _timed(items: Iterator[Any], busy: dict[str, float], stage: str) -> Iterator[Any]:
    while True:
        start = time.perf_counter()
        item = next(items, None)
        busy[stage] += time.perf_counter() - start
        if item is None:
            return
        yield item


def _reject(part: Part, block: Block, row: int, at: int | None, why: str, ids: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {"file": str(part.file), "row": row}
    if ids is not None and at is not None:
        value = block.batch.column(ids)[at].as_py()
        told["id"] = value if isinstance(value, int | float | str | None) else str(value)
    return told | {"reason": why}
