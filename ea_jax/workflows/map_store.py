"""Map the vectors or texts of a store into another store. Jobs are resumable: rerun them after any interruption."""

import json
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.errors import BadInput, Conflict, describe_differences
from ea_jax.integrations.stores.protocol import Column, Cursor, Store
from ea_jax.integrations.stores.rows import check_widths, vectors_to_numpy
from ea_jax.io.atomic import write_atomically

MapFunction = Callable[[Any], Any]
SHARE_OF_SAVING = 0.1  # of a job's time, at most


class Mapped(NamedTuple):
    """A batch to write, the number of rows that were read for it, and the cursor behind them."""

    rows: pa.RecordBatch
    read: int
    cursor: Cursor


class MapReport(NamedTuple):
    """Figures of a job, including its earlier runs.

    Attributes:
        rows: Number of rows written.
        skipped: Number of rows skipped because they lack the text or vector to map.
        resumed_at: Number of rows that earlier runs read.
        seconds: Duration of this run, in seconds.
    """

    rows: int
    skipped: int
    resumed_at: int
    seconds: float


def map_store(
    source: Store,
    target: Store,
    function: MapFunction,
    job: Path,
    *,
    column: Literal["vector", "text"] = "vector",
    batch_rows: int = 1000,
    label: str = "",
    incomplete: Literal["stop", "skip"] = "stop",
    advance: Callable[[int], None] = lambda n: None,
) -> MapReport:
    """Write each row of a store to another with a new vector.

    A thread reads and maps a batch while the batch before it is written. The cursor is saved every few batches. If the
    process is killed, a rerun writes the batches since the last save again, which changes nothing.

    Args:
        source: Store to read. Its rows must not change during the job.
        target: Store to write, for instance `source.create_sibling(...)`.
        function: Maps vectors [n, d_in], or a list of n texts, to vectors [n, d_out].
        job: Path of a small JSON file for the cursor. Delete it when the job is done.
        column: Input of the function.
        batch_rows: Number of rows that are read, mapped and written at a time.
        label: Name of the function, such as that of its model. A job is resumed only with the same label.
        incomplete: Whether to stop at rows that lack the text or vector, or to skip them.
        advance: Called with the number of rows of earlier runs, and then of each batch.

    Raises:
        BadInput: Source and target are the same, a row is incomplete, or the function returns the wrong shape.
        Conflict: The job file belongs to another job.
    """
    start = time.perf_counter()
    state = _load_state(job, source, target, column, label)
    resumed_at = state["rows"] + state["skipped"]
    advance(resumed_at)
    columns: list[Column] = list(dict.fromkeys(["id", column, *(name for name in target.needs if name != "vector")]))
    if not state["done"]:
        saving = _Saving(job, target)

        def map_batches() -> Iterator[Mapped]:
            for rows, cursor in source.read(columns, batch_rows, state["cursor"]):
                complete = _select_complete(rows, column, str(source.url), incomplete)
                yield Mapped(_map_rows(complete, function, column, target.needs), len(rows), cursor)

        try:
            with closing(_one_ahead(map_batches())) as batches:
                for rows, read, cursor in batches:
                    if len(rows):
                        target.write(rows)
                    done = {"rows": state["rows"] + len(rows), "skipped": state["skipped"] + read - len(rows)}
                    state |= {"cursor": cursor, **done}
                    saving.save_if_due(state)
                    advance(read)
        except BaseException:
            if state["cursor"] is not None:
                saving.save(state)
            raise
        if not state["rows"]:
            raise BadInput(f"{source.url} has no rows to map.")
        target.flush()
        _save_state(job, state | {"done": True})
    return MapReport(state["rows"], state["skipped"], resumed_at, time.perf_counter() - start)


def _one_ahead(batches: Iterator[Mapped]) -> Generator[Mapped, None, None]:
    """Yield batches; a thread makes the next one in the meantime."""
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, batches, None)
        while (batch := ahead.result()) is not None:
            ahead = pool.submit(next, batches, None)
            yield batch


class _Saving:
    """Saves the state of a job when that takes a small share of the time since it was last saved."""

    def __init__(self, job: Path, target: Store) -> None:
        self.job, self.target = job, target
        self.seconds, self.last = 0.0, time.perf_counter()

    def save_if_due(self, state: dict[str, Any]) -> None:
        if time.perf_counter() - self.last > self.seconds / SHARE_OF_SAVING:
            self.save(state)

    def save(self, state: dict[str, Any]) -> None:
        """Save the state, after the rows that it counts are durable."""
        start = time.perf_counter()
        if not self.target.writes_are_durable:
            self.target.flush()
        _save_state(self.job, state)
        self.last = time.perf_counter()
        self.seconds = self.last - start


def _load_state(job: Path, source: Store, target: Store, column: str, label: str) -> dict[str, Any]:
    """Load the state of an earlier run of the job, or make that of a new one."""
    if source.address() == target.address():
        raise BadInput(
            f"{source.url} is both source and target. A resumed job would map rows twice: write to a sibling."
        )
    check_widths(source.describe())
    settings = {"source": str(source.url), "target": str(target.url), "column": column, "label": label}
    if not job.exists():
        return {"settings": settings, "cursor": None, "rows": 0, "skipped": 0, "done": False}
    try:
        state = json.loads(job.read_text())
        changed = describe_differences(state["settings"], settings)
    except (ValueError, KeyError) as error:
        raise Conflict(f"{job} exists and is not the job file of a store. Choose another name.") from error
    if changed:
        raise Conflict(f"{job} belongs to another job: {'; '.join(changed)}. Delete it, or choose another name.")
    return state


def _save_state(job: Path, state: dict[str, Any]) -> None:
    with write_atomically(job) as stream:
        stream.write(json.dumps(state).encode())


def _select_complete(rows: pa.RecordBatch, column: str, where: str, incomplete: str) -> pa.RecordBatch:
    """Select the rows that have the text or vector to map."""
    if column == "text":
        present = [bool(text and text.strip()) for text in rows.column("text").to_pylist()]
    else:
        present = rows.column(column).is_valid().to_pylist()
    if not all(present) and incomplete == "stop":
        row_id = rows.column("id")[present.index(False)].as_py()
        raise BadInput(f"{where}: row {row_id!r} has no {column}. Complete or delete it, or skip such rows.")
    return rows.filter(pa.array(present, pa.bool_()))


def _map_rows(rows: pa.RecordBatch, function: MapFunction, column: str, needs: tuple[Column, ...]) -> pa.RecordBatch:
    if not len(rows):
        return rows
    inputs = rows.column("text").to_pylist() if column == "text" else vectors_to_numpy(rows)
    vectors = np.asarray(function(inputs), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(rows):
        raise BadInput(f"The function returned an array of shape {vectors.shape} for {len(rows)} rows, not [n, d].")
    column_of_vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1]
    )
    columns = {name: column_of_vectors if name == "vector" else rows.column(name) for name in needs}
    return pa.RecordBatch.from_pydict(columns)
