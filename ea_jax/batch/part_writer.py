"""Parts to the disk: each is written to a temporary file, put in its place, and only then recorded as whole.

While the disk takes one part, the next is being written.
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

from ea_jax.batch.inputs import Part
from ea_jax.batch.prefetch import Stopped, get
from ea_jax.batch.row_digests import of_blocks
from ea_jax.batch.state import Place, Totals, write_json
from ea_jax.batch.writers import Writer, open_writer
from ea_jax.io.atomic import settle, whole_file


class Result(NamedTuple):
    """A mapped block on its way to the disk, with the digest of what was read."""

    part: Part
    batch: pa.RecordBatch
    totals: Totals
    rejects: list[dict[str, Any]]
    digest: bytes


class Written(NamedTuple):
    """A part in its temporary file, and what its record is going to say."""

    number: int
    size: int
    totals: Totals
    rejects: list[dict[str, Any]]
    digest: str


def write_all(
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
            result = get(results, stop)
            busy["write"] -= time.perf_counter() - waited
            if result is None:
                raise Stopped

    try:
        with ThreadPoolExecutor(1) as pool:
            settling: Future[None] | None = None
            while (first := get(results, stop)) is not None:
                start = time.perf_counter()
                written = write_part(of_part(first), schema, place, advance)
                if settling:
                    settling.result()
                settling = pool.submit(settle_part, place, written)
                busy["write"] += time.perf_counter() - start
            if settling:
                settling.result()
    except BaseException as error:
        if not isinstance(error, Stopped):
            failed.append(error)
        stop.set()


def write_part(results: Iterable[Result], schema: pa.Schema, place: Place, advance: Callable[[int], None]) -> Written:
    """Write the results of one part, of which there is one at least, to its temporary file."""
    totals, rejects, digests, number = Totals(), [], [], -1
    with ExitStack() as stack:
        writer: Writer | None = None
        for result in results:
            number = result.part.number
            if writer is None:
                stream = stack.enter_context(place.temporary(number).open("wb"))
                writer = open_writer(place.kind, stream, schema)
                stack.push(_closing(writer))
            if len(result.batch):
                writer.write(result.batch)
            totals, rejects = totals.plus(result.totals), rejects + result.rejects
            digests.append(result.digest)
            advance(result.totals.read)
        assert writer is not None
        writer.close()
    size = place.temporary(number).stat().st_size
    return Written(number, size, totals, rejects, of_blocks(digests))


def settle_part(place: Place, written: Written) -> None:
    """Put a part in its place, and then the record that says so."""
    final = place.part(written.number)
    settle(place.temporary(written.number), final)
    if written.rejects:
        with whole_file(place.rejects(written.number)) as lines:
            lines.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in written.rejects).encode())
    told = {"file": final.name, "bytes": written.size, **written.totals._asdict(), "input": written.digest}
    write_json(place.record(written.number), told)


def _closing(writer: Writer) -> Callable[..., None]:
    """On an error, close what Arrow holds before the file is closed; its content is not used."""

    def close(kind: Any, *_: Any) -> None:
        if kind is not None:
            with suppress(Exception):
                writer.close()

    return close
