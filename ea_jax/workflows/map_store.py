"""Map the vectors or texts of a store into another store. Jobs are resumable: rerun them after any interruption."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.errors import BadInput, Conflict, describe_differences
from ea_jax.integrations.stores.protocol import Column, Store
from ea_jax.integrations.stores.rows import vectors_to_numpy
from ea_jax.io.atomic import write_atomically

MapFunction = Callable[[Any], Any]


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

    The cursor is saved after each batch. If the process ends between the two, a rerun writes that batch again, which
    changes nothing.

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
        for rows, cursor in source.read(columns, batch_rows, state["cursor"]):
            complete = _select_complete(rows, column, str(source.url), incomplete)
            if len(complete):
                target.write(_map_rows(complete, function, column, target.needs))
            state |= {
                "cursor": cursor,
                "rows": state["rows"] + len(complete),
                "skipped": state["skipped"] + len(rows) - len(complete),
            }
            _save_state(job, state)
            advance(len(rows))
        if not state["rows"]:
            raise BadInput(f"{source.url} has no rows to map.")
        target.flush()
        _save_state(job, state | {"done": True})
    return MapReport(state["rows"], state["skipped"], resumed_at, time.perf_counter() - start)


def _load_state(job: Path, source: Store, target: Store, column: str, label: str) -> dict[str, Any]:
    """Load the state of an earlier run of the job, or make that of a new one."""
    if source.address() == target.address():
        raise BadInput(
            f"{source.url} is both source and target. A resumed job would map rows twice: write to a sibling."
        )
    description = source.describe()
    if description.other_widths:
        widths = ", ".join(map(str, [description.width, *description.other_widths]))
        raise BadInput(f"{source.url} holds vectors of the widths {widths}. Keep one model's vectors in a field.")
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
    inputs = rows.column("text").to_pylist() if column == "text" else vectors_to_numpy(rows)
    vectors = np.asarray(function(inputs), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(rows):
        raise BadInput(f"The function returned an array of shape {vectors.shape} for {len(rows)} rows, not [n, d].")
    column_of_vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1]
    )
    columns = {name: column_of_vectors if name == "vector" else rows.column(name) for name in needs}
    return pa.RecordBatch.from_pydict(columns)
