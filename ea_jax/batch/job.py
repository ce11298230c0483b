"""The job: files of any number of rows to others, in parts; one that is stopped goes on where it was."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ea_jax.batch.batch_map import BatchMap
from ea_jax.batch.device import local_devices
from ea_jax.batch.inputs import Inputs, Part, read_inputs, seen
from ea_jax.batch.pipeline import run_parts
from ea_jax.batch.row_digests import part_digests
from ea_jax.batch.state import (
    Place,
    Totals,
    another,
    begin,
    done_part,
    find_place,
    rows_digest,
    saw,
    write_json,
)
from ea_jax.batch.writers import check_kind, join
from ea_jax.errors import BadInput, Conflict
from ea_jax.io.atomic import lock, whole_file
from ea_jax.progress import progress

PART_ROWS = 32_768


class Report(NamedTuple):
    """What a job did.

    Attributes:
        totals: Rows of all parts that are whole, those of earlier runs included.
        parts: How many these are, of `of_parts`.
        busy: Seconds that each stage of this run was busy.
    """

    totals: Totals
    parts: int
    of_parts: int
    busy: dict[str, float]


class Job(NamedTuple):
    """A job that has been looked at and not begun: what is read, where it goes, and what decides it."""

    inputs: Inputs
    place: Place
    facts: dict[str, Any]


def plan(given: Sequence[str], out: Path, run: BatchMap, *, kind: str | None = None, part_rows: int = PART_ROWS) -> Job:
    """Look at the input and at what can be written, and touch nothing.

    Args:
        given: Files, globs and folders.
        out: A file, by its suffix, or a folder of parts.
        run: What maps a batch.
        kind: Of the files in a folder: parquet, arrow, npy, npz, jsonl; parquet if None.
        part_rows: Rows of a part.

    Raises:
        BadInput: The input cannot be read or mapped, or not be written so.
    """
    if part_rows < 1:
        raise BadInput(f"There are {part_rows} rows a part; it must be 1 or more.")
    column = run.options.column or ("text" if run.encode else None)
    inputs, place = read_inputs(given, column, part_rows), find_place(out, kind)
    _check_apart(given, inputs, out)
    schema = run.out_schema(inputs.schema)
    check_kind(place.kind, schema)
    devices = local_devices()
    facts = {
        **run.facts,
        "reads": "texts" if run.encode else "vectors",
        "confidence": run.judge_digest(),
        "options": {name: value for name, value in asdict(run.options).items() if name != "skip"},
        "format": place.kind,
        "part_rows": part_rows,
        "columns": ", ".join(f"{field.name} {field.type}" for field in schema),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {name: version(name) for name in ("jax", "pyarrow")},
        "input": inputs.facts,
    }
    return Job(inputs, place, facts)


def run_job(
    job: Job,
    run: BatchMap,
    *,
    rejects: Path | None = None,
    show_progress: bool = False,
    process: tuple[int, int] | None = None,
    work: Callable[[list[Part], Callable[[int], None]], dict[str, float]] | None = None,
) -> Report:
    """Do what is not done yet. The last process at it puts the result together.

    Args:
        rejects: Where the bad rows that are skipped are listed, a JSON object a line.
        show_progress: Draw a bar on stderr, with rows a second and the time left.
        process: Number of this process and of all; JAX's own if None. Each takes a range of parts of its own.
        work: What maps parts, where it is not this process.

    Raises:
        BadInput: A row is bad, unless such rows are skipped.
        Conflict: The output is another job's, or another process is at it.
            Parts that are whole stay, and the same job goes on from there.
    """
    if run.options.skip and rejects is None:
        raise BadInput("Rows that are skipped have to be listed somewhere: --rejects FILE.")
    if rejects is not None and not rejects.parent.is_dir():
        raise BadInput(f"{rejects.parent} is no folder, so {rejects} cannot be written. Make it first.")
    index, count = process or (jax.process_index(), jax.process_count())
    inputs, place = job.inputs, job.place
    try:
        place.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{place.state} cannot be made: {error.strerror}. Name another OUT.") from error
    busy: dict[str, float] = {}
    with ExitStack() as stack:
        stack.enter_context(lock(place.state / "lock", str(place.out), shared=count > 1))
        stack.enter_context(lock(place.state / f"lock-{index}", str(place.out)))
        with lock(place.state / "lock-begin", str(place.out), wait=True):
            before = begin(place, job.facts, len(inputs.parts), inputs.rows, inputs.seen)
            _check_rows(job, run, before, inputs.seen)
        missing = [part for part in _share(inputs.parts, index, count) if done_part(place, part.number) is None]
        if missing:
            place.manifest.unlink(missing_ok=True)  # of an output that was removed since
            place.parts.mkdir(exist_ok=True)
            rows = sum(part.cut.stop - part.cut.start for part in missing)
            with progress("Mapping", rows, show_progress, unit="rows") as advance:
                busy = work(missing, advance) if work else run_parts(inputs, missing, run, place, advance)
        done = [done_part(place, part.number) for part in inputs.parts]
        totals = Totals()
        for part in done:
            totals = totals.plus(part or Totals())
        if totals.rejected and not run.options.skip:
            raise Conflict(
                f"{place.out} was begun with --on-error skip, and {totals.rejected:,} bad rows were put aside. "
                "Go on so, or remove it to start anew."
            )
        if all(done):
            with lock(place.state / "lock-end", str(place.out), wait=True):
                _check_rows(job, run, inputs.seen, {str(file): seen(file) for file in inputs.files})
                _finish(job, run, totals)
                _list_rejects(job, rejects)
    return Report(totals, sum(part is not None for part in done), len(done), busy)


def _check_apart(given: Sequence[str], inputs: Inputs, out: Path) -> None:
    """Raise BadInput where what is written would be read, now or by the job that goes on."""
    inside = [file for file in inputs.files if out.resolve() in (file.resolve(), *file.resolve().parents)]
    if inside:
        raise BadInput(f"{inside[0]} is both read and written. Name another OUT.")
    around = [name for name in given if Path(name).is_dir() and Path(name).resolve() in out.resolve().parents]
    if around:
        raise BadInput(f"{out} lies in {around[0]}, of which all is read. Name an OUT elsewhere.")


def _share(parts: list[Part], index: int, count: int) -> list[Part]:
    """Neighbouring parts for each process, so that each reads on."""
    return parts[index * len(parts) // count : (index + 1) * len(parts) // count]


def _check_rows(job: Job, run: BatchMap, before: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> None:
    """Read again what whole parts were made of, where a file may have changed since.

    Raises:
        Conflict: The rows of a part are others now.
    """
    touched = {file for file, told in now.items() if before[file] != told}
    if not touched:
        return
    parts = [part for part in job.inputs.parts if str(part.file) in touched and done_part(job.place, part.number)]
    for part, digest in part_digests(job.inputs, parts, run.options.rows):
        if digest != rows_digest(job.place, part.number):
            rows = f"rows {part.cut.start:,} to {part.cut.stop - 1:,}"
            raise another(job.place, f"{rows} of {part.file} are not what they were when they were mapped")
    saw(job.place, now)


def _finish(job: Job, run: BatchMap, totals: Totals) -> None:
    place, parts = job.place, job.inputs.parts
    if place.manifest.exists():
        if place.is_file:
            shutil.rmtree(place.parts, ignore_errors=True)
        return
    if totals.read != totals.written + totals.rejected + totals.dropped or totals.read != job.inputs.rows:
        raise BadInput(f"{place.out}: {job.inputs.rows:,} rows were to be mapped, and {totals} were. Start anew.")
    records = [json.loads(place.record(part.number).read_text()) for part in parts]
    files = [place.part(part.number) for part in parts]
    if place.is_file:
        with whole_file(place.out, place.state / "tmp" / place.out.name) as stream:
            join(place.kind, files, stream, run.out_schema(job.inputs.schema))
    listed = [
        {"input": str(part.file), "start": part.cut.start, "stop": part.cut.stop, **record}
        for part, record in zip(parts, records, strict=True)
    ]
    write_json(place.manifest, {**job.facts, "totals": totals._asdict(), "parts": listed})
    if place.is_file:
        shutil.rmtree(place.parts)


def _list_rejects(job: Job, rejects: Path | None) -> None:
    if rejects is None:
        return
    with whole_file(rejects) as stream:
        for part in job.inputs.parts:
            file = job.place.rejects(part.number)
            if file.is_file():
                stream.write(file.read_bytes())
