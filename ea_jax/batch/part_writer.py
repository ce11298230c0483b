"""Write parts durably: to a temporary file, then into place, then a record that the part is complete.

A second thread syncs each part to disk while the next is being written.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from queue import Queue
from threading import Event
from typing import Any, NamedTuple

import pyarrow as pa

from ea_jax.batch.prefetch import Stopped, get
from ea_jax.batch.row_digests import combine_digests
from ea_jax.batch.state import OutputPaths, Totals, write_json
from ea_jax.batch.writers import Writer, open_writer
from ea_jax.data.tables import Part
from ea_jax.io.atomic import move_into_place, write_atomically


class MappedBlock(NamedTuple):
    """A mapped block to be written, with the digest of its input rows."""

    part: Part
    batch: pa.RecordBatch
    totals: Totals
    rejects: list[dict[str, Any]]
    digest: bytes


class WrittenPart(NamedTuple):
    """A part in its temporary file, and the content of its record."""

    number: int
    size: int
    totals: Totals
    rejects: list[dict[str, Any]]
    digest: str


def write_parts(
    blocks: Queue[Any],
    schema: pa.Schema,
    output: OutputPaths,
    advance: Callable[[int], None],
    busy: dict[str, float],
    stop: Event,
    errors: list[BaseException],
) -> None:
    """Write parts one after the other until the queue gives None. Runs in the writer's thread."""

    def of_part(first: MappedBlock) -> Iterator[MappedBlock]:
        """Yield all blocks of a part; raise Stopped if the queue ends before the part does."""
        left, block = first.part.cut.stop - first.part.cut.start, first
        while True:
            left -= block.totals.read
            yield block
            if not left:
                return
            waiting_since = time.perf_counter()
            block = get(blocks, stop)
            busy["write"] -= time.perf_counter() - waiting_since
            if block is None:
                raise Stopped

    try:
        with ThreadPoolExecutor(1) as pool:
            commit: Future[None] | None = None
            while (first := get(blocks, stop)) is not None:
                start = time.perf_counter()
                written = write_part(of_part(first), schema, output, advance)
                if commit:
                    commit.result()
                commit = pool.submit(commit_part, output, written)
                busy["write"] += time.perf_counter() - start
            if commit:
                commit.result()
    except BaseException as error:
        if not isinstance(error, Stopped):
            errors.append(error)
        stop.set()


def write_part(
    blocks: Iterable[MappedBlock], schema: pa.Schema, output: OutputPaths, advance: Callable[[int], None]
) -> WrittenPart:
    """Write the blocks of one part, at least one, to its temporary file."""
    totals, rejects, digests, number = Totals(), [], [], -1
    with ExitStack() as stack:
        writer: Writer | None = None
        for block in blocks:
            number = block.part.number
            if writer is None:
                stream = stack.enter_context(output.temporary(number).open("wb"))
                writer = open_writer(output.format, stream, schema)
                stack.push(_close_on_error(writer))
            if len(block.batch):
                writer.write(block.batch)
            totals, rejects = totals.plus(block.totals), rejects + block.rejects
            digests.append(block.digest)
            advance(block.totals.read)
        assert writer is not None
        writer.close()
    size = output.temporary(number).stat().st_size
    return WrittenPart(number, size, totals, rejects, combine_digests(digests))


def commit_part(output: OutputPaths, written: WrittenPart) -> None:
    """Move a part into place, then write the record that it is complete."""
    final = output.part(written.number)
    move_into_place(output.temporary(written.number), final)
    if written.rejects:
        with write_atomically(output.rejects(written.number)) as lines:
            lines.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written.rejects).encode())
    record = {"file": final.name, "bytes": written.size, **written.totals._asdict(), "input": written.digest}
    write_json(output.record(written.number), record)


def _close_on_error(writer: Writer) -> Callable[..., None]:
    """Close Arrow's writer before its file is closed if an error occurs. The content is not used."""

    def close(kind: Any, *_: Any) -> None:
        if kind is not None:
            with suppress(Exception):
                writer.close()

    return close
