"""Map one store to another, resumably: killed anywhere and run again, it ends with the same content."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from ea_jax.errors import BadInput, describe_differences
from ea_jax.integrations.stores.files import replace_file
from ea_jax.integrations.stores.protocol import Column, Store
from ea_jax.integrations.stores.rows import vectors_of

MapFunction = Callable[[Any], Any]


class MapReport(NamedTuple):
    """What a job did, earlier runs included.

    Attributes:
        rows: Rows written.
        skipped: Rows without the text or vector to map.
        resumed_at: Rows that earlier runs had read.
        seconds: Duration of this run.
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
    incomplete: Literal["refuse", "skip"] = "refuse",
    advance: Callable[[int], None] = lambda n: None,
) -> MapReport:
    """Write each row of a store to another with a new vector.

    After every batch the cursor is saved. A batch that was written when the process ended, and whose cursor was not
    saved, is written again, which changes nothing.

    Args:
        source: Where rows are read; they must not change meanwhile.
        target: Where they are written, for instance `source.create_sibling(...)`.
        function: From vectors [n, d_in], or n texts, to vectors [n, d_out].
        job: A small JSON file for the cursor. Keep it until the job is done, then delete it.
        column: What the function takes.
        batch_rows: Rows that are read, mapped and written at a time.
        label: What the function is, such as its model's name. A job is not resumed with another one.
        incomplete: What to do with rows that lack the text or vector.
        advance: Called with the number of rows of each batch, and first with that of earlier runs.

    Raises:
        BadInput: Source and target are one, a row is incomplete, the function returns the wrong shape, or the job
            file belongs to another job.
    """
    start = time.perf_counter()
    state = _begin(job, source, target, column, label)
    resumed_at = state["rows"] + state["skipped"]
    advance(resumed_at)
    columns: list[Column] = list(dict.fromkeys(["id", column, *(name for name in target.needs if name != "vector")]))
    if not state["done"]:
        for rows, cursor in source.read(columns, batch_rows, state["cursor"]):
            whole = _complete(rows, column, str(source.url), incomplete)
            if len(whole):
                target.write(_mapped(whole, function, column, target.needs))
            state |= {
                "cursor": cursor,
                "rows": state["rows"] + len(whole),
                "skipped": state["skipped"] + len(rows) - len(whole),
            }
            _save(job, state)
            advance(len(rows))
        if not state["rows"]:
            raise BadInput(f"{source.url} has no rows to map.")
        target.flush()
        _save(job, state | {"done": True})
    return MapReport(state["rows"], state["skipped"], resumed_at, time.perf_counter() - start)


def _begin(job: Path, source: Store, target: Store, column: str, label: str) -> dict[str, Any]:
    """The state of an earlier run of the same job, or that of a new one."""
    if str(source.url) == str(target.url):
        raise BadInput(
            f"{source.url} is source and target. A job that is cut off would map rows twice: write a sibling."
        )
    described = source.describe()
    if described.other_widths:
        widths = ", ".join(map(str, [described.width, *described.other_widths]))
        raise BadInput(f"{source.url} holds vectors of the widths {widths}. Keep one model's vectors in a field.")
    facts = {"source": str(source.url), "target": str(target.url), "column": column, "label": label}
    if not job.exists():
        return {"facts": facts, "cursor": None, "rows": 0, "skipped": 0, "done": False}
    try:
        state = json.loads(job.read_text())
        changed = describe_differences(state["facts"], facts)
    except (ValueError, KeyError) as error:
        raise BadInput(f"{job} is not the file of a job of stores. Give another name.") from error
    if changed:
        raise BadInput(f"{job} belongs to another job: {'; '.join(changed)}. Delete it, or give another name.")
    return state


def _save(job: Path, state: dict[str, Any]) -> None:
    replace_file(job, lambda path: path.write_text(json.dumps(state)))


def _complete(rows: pa.RecordBatch, column: str, where: str, incomplete: str) -> pa.RecordBatch:
    """The rows that have what is to be mapped."""
    if column == "text":
        there = [bool(text and text.strip()) for text in rows.column("text").to_pylist()]
    else:
        there = rows.column(column).is_valid().to_pylist()
    if not all(there) and incomplete == "refuse":
        lacking = rows.column("id")[there.index(False)].as_py()
        raise BadInput(f"{where}: row {lacking!r} has no {column}. Complete or delete it, or skip such rows.")
    return rows.filter(pa.array(there, pa.bool_()))


def _mapped(rows: pa.RecordBatch, function: MapFunction, column: str, needs: tuple[Column, ...]) -> pa.RecordBatch:
    given = rows.column("text").to_pylist() if column == "text" else vectors_of(rows)
    vectors = np.asarray(function(given), np.float32)
    if vectors.ndim != 2 or len(vectors) != len(rows):
        raise BadInput(f"The function returned an array of shape {vectors.shape} for {len(rows)} rows, not [n, d].")
    made = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(vectors).ravel()), vectors.shape[1])
    kept = {name: made if name == "vector" else rows.column(name) for name in needs}
    return pa.RecordBatch.from_pydict(kept)
