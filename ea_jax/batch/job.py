"""Map files of any size in parts.

Jobs are resumable: rerun the command after any interruption, and the output is byte-identical.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa

from ea_jax.batch.batch_map import BadRow, BatchMap
from ea_jax.batch.device import local_devices
from ea_jax.batch.pipeline import run_parts
from ea_jax.batch.row_digests import part_digests
from ea_jax.batch.state import (
    OutputPaths,
    Totals,
    begin_job,
    check_output,
    finished_part,
    other_job,
    output_paths,
    recorded_digest,
    save_stamps,
    write_json,
)
from ea_jax.batch.writers import check_format, join_parts
from ea_jax.data.blocks import Hints
from ea_jax.data.tables import Part, Tables, open_tables, read_parts
from ea_jax.errors import BadInput, Conflict
from ea_jax.io.atomic import hold_lock, hold_shared_lock, write_atomically
from ea_jax.progress import progress_bar
from ea_jax.quality.scores import Quality
from ea_jax.quality.source_check import SAMPLE_ROWS, check_source_sample

PART_ROWS = 32_768
SAMPLE_PARTS = 8


class JobReport(NamedTuple):
    """What a job did.

    Attributes:
        totals: Row counts of all complete parts, including those of earlier runs.
        parts: Number of complete parts.
        of_parts: Number of all parts.
        busy: Seconds that each stage was busy in this run.
    """

    totals: Totals
    parts: int
    of_parts: int
    busy: dict[str, float]


class Job(NamedTuple):
    """A planned job: its inputs, its output, the output's schema, and all facts that determine the output.

    Attributes:
        inputs: The input files and their parts.
        output: The paths to write.
        schema: Schema of the output.
        facts: All facts that determine the output.
        stamps: Stamp of each input file (`file_stamp`).
    """

    inputs: Tables
    output: OutputPaths
    schema: pa.Schema
    facts: dict[str, Any]
    stamps: dict[str, list[int]]


def plan(
    inputs: Sequence[str],
    out: str | Path,
    run: BatchMap,
    *,
    format: str | None = None,
    part_rows: int = PART_ROWS,
    delimiter: str | None = None,
    domain: Quality | None = None,
) -> Job:
    """Check inputs and output without writing anything.

    Args:
        inputs: Files, globs and folders.
        out: A file, recognized by its suffix, or a folder of parts.
        run: Maps a batch.
        format: Format of the parts in a folder: parquet, arrow, npy, npz or jsonl; parquet if None.
        part_rows: Rows of a part.
        delimiter: Delimiter of CSV files; detected if None.
        domain: Quality part of the adapter, to notice vectors of another model in a sample; they are not checked if
            None.

    Raises:
        FingerprintMismatch: The vectors are of another model, by their metadata or by the sample.
        BadInput: The input cannot be read or mapped, or the output cannot be written.
    """
    if part_rows < 1:
        raise BadInput(f"part_rows is {part_rows}; it must be at least 1.")
    column = run.options.column
    hints = Hints(texts=column or "text") if run.encode else Hints(column or "embedding")
    tables = open_tables(inputs, part_rows=part_rows, hints=hints._replace(delimiter=delimiter))
    output = output_paths(out, format)
    _check_separate(inputs, tables, output.out)
    schema = run.out_schema(tables.schema)
    check_format(output.format, schema)
    if domain:
        check_source_sample(domain, _sample(tables, run), str(tables.files[0]), run.options.assume_source)
    devices = local_devices()
    facts = {
        **run.facts,
        "reads": "texts" if run.encode else "vectors",
        "confidence": run.quality_digest(),
        "options": {name: value for name, value in asdict(run.options).items() if name != "skip"},
        "format": output.format,
        "part_rows": part_rows,
        "columns": ", ".join(f"{field.name} {field.type}" for field in schema),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "versions": {name: version(name) for name in ("ea_jax", "jax", "pyarrow")},
        "input": {str(file): f"{file.stat().st_size:,} bytes" for file in tables.files},
    }
    return Job(tables, output, schema, facts, {str(file): file_stamp(file) for file in tables.files})


def run_job(
    job: Job,
    run: BatchMap,
    *,
    rejects: Path | None = None,
    show_progress: bool = False,
    process: tuple[int, int] | None = None,
    work: Callable[[list[Part], Callable[[int], None]], dict[str, float]] | None = None,
) -> JobReport:
    """Map the parts that are not complete yet. The process that completes the last part assembles the output.

    Args:
        rejects: File for the rejected rows, one JSON object a line.
        show_progress: Show a progress bar on stderr, with rows per second and the time left.
        process: Index of this process and number of processes; JAX's own if None. Each maps its own range of parts.
        work: Maps parts elsewhere; this process maps them if None.

    Raises:
        BadRow: A row cannot be mapped, and such rows are not skipped. Complete parts remain, and a rerun continues.
        Conflict: The output belongs to another job, or another process is writing it.
    """
    if run.options.skip and rejects is None:
        raise BadInput("Skipped rows must be listed in a file. Name it with `rejects`.")
    if rejects is not None and not rejects.parent.is_dir():
        raise BadInput(f"{rejects} cannot be written: {rejects.parent} is not a folder. Create it first.")
    index, count = process or (jax.process_index(), jax.process_count())
    inputs, output = job.inputs, job.output
    check_output(output)  # before anything is written beside it
    try:
        output.state.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{output.state} cannot be created: {error.strerror}. Choose another output.") from error
    busy: dict[str, float] = {}
    with ExitStack() as stack:
        stack.enter_context(hold_shared_lock(output.state / "lock", str(output.out), exclusive=count == 1))
        stack.enter_context(hold_lock(output.state / f"lock-{index}", str(output.out)))
        with hold_lock(output.state / "lock-begin", str(output.out), wait=True):
            before = begin_job(output, job.facts, len(inputs.parts), inputs.rows, job.stamps)
            _check_unchanged(job, run, before, job.stamps)
        missing = [part for part in _share(inputs.parts, index, count) if finished_part(output, part.number) is None]
        if missing:
            output.manifest.unlink(missing_ok=True)  # if the joined output was removed since
            output.parts.mkdir(exist_ok=True)
            rows = sum(part.cut.stop - part.cut.start for part in missing)
            with progress_bar("Mapping", rows, show_progress, unit="rows") as advance:
                try:
                    busy = (
                        work(missing, advance) if work else run_parts(inputs, missing, run, job.schema, output, advance)
                    )
                except BadRow:
                    if count == 1 and not any(finished_part(output, part.number) for part in inputs.parts):
                        _discard(output)
                    raise
        done = [finished_part(output, part.number) for part in inputs.parts]
        totals = Totals()
        for part in done:
            totals = totals.plus(part or Totals())
        if totals.rejected and not run.options.skip:
            raise Conflict(
                f"An earlier run of {output.out} skipped {totals.rejected:,} bad rows. Skip bad rows again, or remove "
                "the output to start over."
            )
        if all(done):
            with hold_lock(output.state / "lock-end", str(output.out), wait=True):
                _check_unchanged(job, run, job.stamps, {str(file): file_stamp(file) for file in inputs.files})
                _finish(job, totals)
                _list_rejects(job, rejects)
    return JobReport(totals, sum(part is not None for part in done), len(done), busy)


def _discard(output: OutputPaths) -> None:
    """Remove the state of a job without a complete part, so that nothing is left of it."""
    shutil.rmtree(output.state)
    if not output.is_file and not any(output.out.iterdir()):
        output.out.rmdir()


def _check_separate(names: Sequence[str], inputs: Tables, out: Path) -> None:
    """Raise BadInput if the output would be read as input, now or by a rerun."""
    inside = [file for file in inputs.files if out.resolve() in (file.resolve(), *file.resolve().parents)]
    if inside:
        raise BadInput(f"{inside[0]} is both input and output. Choose another output.")
    around = [name for name in names if Path(name).is_dir() and Path(name).resolve() in out.resolve().parents]
    if around:
        raise BadInput(f"The output {out} is inside the input folder {around[0]}. Choose an output elsewhere.")


def _sample(tables: Tables, run: BatchMap) -> np.ndarray:
    """Return vectors of the first blocks of some parts; of gzipped files, of the first part alone."""
    last = 0 if tables.files[0].suffix == ".gz" else len(tables.parts) - 1
    numbers = sorted({round(number) for number in np.linspace(0, last, SAMPLE_PARTS)})
    size = SAMPLE_ROWS // len(numbers) + 1
    blocks = (next(read_parts(tables, [tables.parts[number]], size))[1] for number in numbers)
    return np.concatenate([np.zeros((0, run.spec.d_in), np.float32), *(run.check(b.batch).values for b in blocks)])


def file_stamp(file: Path) -> list[int]:
    """Return the times of the last changes of content and metadata, and the inode; they change with every edit."""
    stat = file.stat()
    return [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _share(parts: list[Part], index: int, count: int) -> list[Part]:
    """Return a contiguous range of parts for each process, so that each reads sequentially."""
    return parts[index * len(parts) // count : (index + 1) * len(parts) // count]


def _check_unchanged(job: Job, run: BatchMap, before: Mapping[str, list[int]], now: Mapping[str, list[int]]) -> None:
    """Read the input of complete parts again where a file's stamp has changed.

    Raises:
        Conflict: The rows of a complete part have changed.
    """
    touched = {file for file, stamp in now.items() if before[file] != stamp}
    if not touched:
        return
    parts = [part for part in job.inputs.parts if str(part.file) in touched and finished_part(job.output, part.number)]
    for part, digest in part_digests(job.inputs, parts, run.options.rows):
        if digest != recorded_digest(job.output, part.number):
            rows = f"rows {part.cut.start:,} to {part.cut.stop - 1:,}"
            raise other_job(job.output, f"{rows} of {part.file} have changed since they were mapped")
    save_stamps(job.output, now)


def _finish(job: Job, totals: Totals) -> None:
    """Join the parts if the output is a file, and write the manifest."""
    output, parts = job.output, job.inputs.parts
    if output.manifest.exists():
        if output.is_file:
            shutil.rmtree(output.parts, ignore_errors=True)
        return
    if totals.read != totals.written + totals.rejected + totals.dropped or totals.read != job.inputs.rows:
        raise BadInput(f"{output.out}: the input has {job.inputs.rows:,} rows, the parts have {totals}. Start over.")
    records = [json.loads(output.record(part.number).read_text()) for part in parts]
    files = [output.part(part.number) for part in parts]
    if output.is_file:
        with write_atomically(output.out, output.state / "tmp" / output.out.name) as stream:
            join_parts(output.format, files, stream, job.schema)
    listed = [
        {"input": str(part.file), "start": part.cut.start, "stop": part.cut.stop, **record}
        for part, record in zip(parts, records, strict=True)
    ]
    write_json(output.manifest, {**job.facts, "totals": totals._asdict(), "parts": listed})
    if output.is_file:
        shutil.rmtree(output.parts)


def _list_rejects(job: Job, rejects: Path | None) -> None:
    if rejects is None:
        return
    with write_atomically(rejects) as stream:
        for part in job.inputs.parts:
            file = job.output.rejects(part.number)
            if file.is_file():
                stream.write(file.read_bytes())
