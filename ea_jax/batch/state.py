"""The files of a job: its description, the record of each complete part, and a manifest once all are complete.

OUT is a folder                  OUT is a file
OUT/part-00000.parquet           OUT.job/parts/part-00000.parquet, until they are joined into OUT
OUT/_ea_jax/                     OUT.job/
  job.json                         everything that determines the output
  done/00000.json                  record of a complete part: its rows, its size, a digest of its input
  done/00000.rejects.jsonl         rows of the part that were rejected
  manifest.json                    all parts, once the last is complete
  lock, tmp/
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ea_jax.batch.writers import FORMATS
from ea_jax.errors import BadInput, Conflict, describe_differences
from ea_jax.io.atomic import is_locked, write_atomically

STATE = "_ea_jax"


class Totals(NamedTuple):
    """Row counts of a job or a part; `read` is the sum of the next three.

    Attributes:
        read: Rows of the input.
        written: Rows of the output.
        rejected: Bad rows that were set aside.
        dropped: Rows without a vector or text, dropped with `where_null="drop"`.
        truncated: Texts that were cut at the encoder's limit.
    """

    read: int = 0
    written: int = 0
    rejected: int = 0
    dropped: int = 0
    truncated: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Add two counts field by field."""
        return Totals(*(a + b for a, b in zip(self, other, strict=True)))


class OutputPaths(NamedTuple):
    """The paths that a job writes to.

    Attributes:
        out: The output: a folder of parts, or a file.
        state: Folder of the job's state.
        parts: Folder of the parts.
        format: Suffix of the parts.
    """

    out: Path
    state: Path
    parts: Path
    format: str

    @property
    def is_file(self) -> bool:
        """Whether the parts are joined into one file."""
        return self.parts != self.out

    def part(self, number: int) -> Path:
        """Path of a part."""
        return self.parts / f"part-{number:05d}{self.format}"

    def temporary(self, number: int) -> Path:
        """Path of a part while it is being written."""
        return self.state / "tmp" / self.part(number).name

    def record(self, number: int) -> Path:
        """Path of the record that a part is complete."""
        return self.state / "done" / f"{number:05d}.json"

    def rejects(self, number: int) -> Path:
        """Path of the list of a part's rejected rows, one JSON object a line."""
        return self.state / "done" / f"{number:05d}.rejects.jsonl"

    @property
    def manifest(self) -> Path:
        """Path of the record that the job is complete."""
        return self.state / "manifest.json"


def output_paths(name: str | Path, format: str | None) -> OutputPaths:
    """Return the paths for an output: a file by its suffix, or a folder, which exists, ends in `/` or has no suffix.

    Raises:
        BadInput: The suffix is not that of a format that can be written.
    """
    out = Path(name)
    is_folder = out.is_dir() or not out.suffix or str(name).endswith(("/", os.sep))
    if not is_folder and out.suffix not in FORMATS:
        raise BadInput(
            f"{out.suffix} files cannot be written. Write {', '.join(FORMATS)}, or a folder of parts, whose name ends "
            "in /."
        )
    if not is_folder:
        state = out.with_name(f"{out.name}.job")
        return OutputPaths(out, state, state / "parts", out.suffix)
    return OutputPaths(out, out / STATE, out, f".{format.removeprefix('.')}" if format else ".parquet")


def check_output(output: OutputPaths) -> None:
    """Check that the output does not exist, or belongs to a job.

    Raises:
        Conflict: The output exists, and no job made it.
    """
    if (output.state / "job.json").exists():
        return
    if output.is_file and output.out.exists():
        raise Conflict(f"{output.out} exists, and no job of ea_jax made it. Remove it, or choose another output.")
    if not output.is_file and output.out.is_dir() and any(path.name != STATE for path in output.out.iterdir()):
        raise Conflict(f"{output.out} contains other files. Choose a new or empty folder.")


def begin_job(
    output: OutputPaths, facts: Mapping[str, Any], parts: int, rows: int, stamps: Mapping[str, list[int]]
) -> Mapping[str, list[int]]:
    """Write the job's description, or compare it with the one on disk.

    Returns:
        The stamp of each input file (`job.file_stamp`) when the job last ran.

    Raises:
        Conflict: The output belongs to another job, or to none; the message names the differences.
    """
    check_output(output)
    file = output.state / "job.json"
    if not file.exists():
        for folder in (output.state / "done", output.state / "tmp", output.parts):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {"facts": dict(facts), "parts": parts, "rows": rows, "stamps": dict(stamps)})
    job = _read_json(file)
    changes = describe_differences(job["facts"], json.loads(json.dumps(facts)))
    if changes:
        raise other_job(output, "; ".join(changes))
    return job["stamps"]


def other_job(output: OutputPaths, difference: str) -> Conflict:
    """Return the error that the output belongs to another job, with the difference."""
    content = "the output" if output.manifest.exists() else "partial output"
    return Conflict(
        f"{output.out} holds {content} of another job: {difference}. Rerun that job unchanged, remove "
        f"{output.state if output.is_file else output.out} to start over, or choose another output."
    )


def save_stamps(output: OutputPaths, stamps: Mapping[str, list[int]]) -> None:
    """Record new stamps of the input files, once their rows have been compared."""
    write_json(output.state / "job.json", {**_read_json(output.state / "job.json"), "stamps": dict(stamps)})


def recorded_digest(output: OutputPaths, number: int) -> str:
    """Return the digest of the input rows of a complete part."""
    return _read_json(output.record(number))["input"]


def finished_part(output: OutputPaths, number: int) -> Totals | None:
    """Return the row counts of a part if it is complete, else None."""
    record, file = output.record(number), output.part(number)
    if not record.is_file():
        return None
    content = _read_json(record)
    joined = output.is_file and output.manifest.exists() and output.out.exists()
    complete = joined or (file.is_file() and file.stat().st_size == content["bytes"])
    return Totals(*(content[name] for name in Totals._fields)) if complete else None


def status(out: str | Path) -> dict[str, Any]:
    """Return the progress of a job: its complete parts and rows, and whether it is running.

    Raises:
        BadInput: The output belongs to no job.
    """
    output = output_paths(out, None)
    if not (output.state / "job.json").is_file():
        raise BadInput(f"{out} is not the output of a job: {output.state / 'job.json'} does not exist.")
    job = _read_json(output.state / "job.json")
    output = output._replace(format=job["facts"]["format"])
    done = [totals for number in range(job["parts"]) if (totals := finished_part(output, number))]
    total = Totals()
    for part in done:
        total = total.plus(part)
    return {
        "out": str(out),
        "state": "done" if output.manifest.exists() else "running" if is_locked(output.state / "lock") else "stopped",
        "parts": len(done),
        "of_parts": job["parts"],
        "rows": total.read,
        "of_rows": job["rows"],
        **{name: getattr(total, name) for name in Totals._fields[1:]},
        "source": job["facts"].get("source"),
        "target": job["facts"].get("target"),
    }


def write_json(file: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    with write_atomically(file) as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}. Remove the output, and start over.") from error
