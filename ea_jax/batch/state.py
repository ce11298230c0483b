"""What a job leaves on the disk: what it is, which parts are whole, and in the end a manifest of all.

OUT is a folder                  OUT is a file
OUT/part-00000.parquet           OUT.job/parts/part-00000.parquet, until OUT is made of them
OUT/_ea_jax/                     OUT.job/
  job.json                         the same: what decides the output
  done/00000.json                  a part that is whole: its rows in and out, its bytes
  done/00000.rejects.jsonl         rows of it that were put aside
  manifest.json                    all parts, once the last is whole
  lock, tmp/
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ea_jax.batch.writers import KINDS
from ea_jax.errors import BadInput, Conflict, differences
from ea_jax.io.atomic import is_locked, whole_file

STATE = "_ea_jax"
UNWRITTEN = (".csv", ".tsv", ".txt", ".json", ".gz", ".zst", ".zip", ".pt", ".pkl", ".h5")  # surely no folder is meant


class Totals(NamedTuple):
    """Rows of a job, or of a part: those read are those written, rejected and dropped.

    Attributes:
        read: Rows of the input.
        written: Rows of the output.
        rejected: Bad rows that were put aside.
        dropped: Rows without a vector or text, with `where_null="drop"`.
    """

    read: int = 0
    written: int = 0
    rejected: int = 0
    dropped: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Sums, one by one."""
        return Totals(*(a + b for a, b in zip(self, other, strict=True)))


class Place(NamedTuple):
    """Where a job writes.

    Attributes:
        out: The folder or file that was asked for.
        state: The folder of what is known of it.
        parts: The folder of its parts.
        kind: The suffix of its files.
    """

    out: Path
    state: Path
    parts: Path
    kind: str

    @property
    def is_file(self) -> bool:
        """Whether one file is made of the parts."""
        return self.parts != self.out

    def part(self, number: int) -> Path:
        """The file of a part."""
        return self.parts / f"part-{number:05d}{self.kind}"

    def temporary(self, number: int) -> Path:
        """The file of a part that is being written."""
        return self.state / "tmp" / self.part(number).name

    def record(self, number: int) -> Path:
        """What says that a part is whole."""
        return self.state / "done" / f"{number:05d}.json"

    def rejects(self, number: int) -> Path:
        """The rows of a part that were put aside, a JSON object a line."""
        return self.state / "done" / f"{number:05d}.rejects.jsonl"

    @property
    def manifest(self) -> Path:
        """What says that the job is done."""
        return self.state / "manifest.json"


def find_place(out: Path, kind: str | None) -> Place:
    """A file where the name has a suffix that can be written, a folder else.

    Raises:
        BadInput: The name is that of a file of another kind.
    """
    if out.suffix in UNWRITTEN and not out.is_dir():
        raise BadInput(f"{out.suffix} files cannot be written; {', '.join(KINDS)} can, or a folder of parts.")
    if out.suffix in KINDS and not out.is_dir():
        state = out.with_name(f"{out.name}.job")
        return Place(out, state, state / "parts", out.suffix)
    return Place(out, out / STATE, out, f".{kind.removeprefix('.')}" if kind else ".parquet")


def begin(
    place: Place, facts: Mapping[str, Any], parts: int, rows: int, seen: Mapping[str, list[int]]
) -> Mapping[str, list[int]]:
    """Write what the job is, or see that what is there is the same.

    Returns:
        What was seen of each input file when the job was last at it.

    Raises:
        Conflict: Another job's output is there, or something else; the message says what differs.
    """
    file = place.state / "job.json"
    if not file.exists():
        if place.is_file and place.out.exists():
            raise Conflict(f"{place.out} is there already, and no job made it. Remove it, or name another.")
        if not place.is_file and place.out.is_dir() and any(path.name != STATE for path in place.out.iterdir()):
            raise Conflict(f"{place.out} has files of something else. Name a new folder.")
        for folder in (place.state / "done", place.state / "tmp", place.parts):
            folder.mkdir(parents=True, exist_ok=True)
        write_json(file, {"facts": dict(facts), "parts": parts, "rows": rows, "seen": dict(seen)})
    told = _read(file)
    found = differences(told["facts"], json.loads(json.dumps(facts)))
    if found:
        raise another(place, "; ".join(found))
    return told["seen"]


def another(place: Place, differs: str) -> Conflict:
    """The error that says why the output there is not of this job."""
    done = "the output" if place.manifest.exists() else "the beginning"
    return Conflict(
        f"{place.out} holds {done} of another job: {differs}. Run that one as it was, remove "
        f"{place.state if place.is_file else place.out} to start anew, or name another OUT."
    )


def saw(place: Place, seen: Mapping[str, list[int]]) -> None:
    """Note what was seen of the input files, once their rows are known to be the same."""
    write_json(place.state / "job.json", {**_read(place.state / "job.json"), "seen": dict(seen)})


def rows_digest(place: Place, number: int) -> str:
    """The digest of the rows that a whole part was made of."""
    return _read(place.record(number))["input"]


def done_part(place: Place, number: int) -> Totals | None:
    """The rows of a part that is whole; None where it is not."""
    record, file = place.record(number), place.part(number)
    if not record.is_file():
        return None
    told = _read(record)
    made = place.is_file and place.manifest.exists() and place.out.exists()
    whole = made or (file.is_file() and file.stat().st_size == told["bytes"])
    return Totals(*(told[name] for name in Totals._fields)) if whole else None


def status(out: Path) -> dict[str, Any]:
    """How far a job is: its parts and rows, and whether a process is at it.

    Raises:
        BadInput: There is no job of this output.
    """
    place = find_place(out, None)
    if not (place.state / "job.json").is_file():
        raise BadInput(f"{out} is no output of a job: {place.state / 'job.json'} is not there.")
    told = _read(place.state / "job.json")
    place = place._replace(kind=told["facts"]["format"])
    done = [found for number in range(told["parts"]) if (found := done_part(place, number))]
    total = Totals()
    for part in done:
        total = total.plus(part)
    return {
        "out": str(out),
        "state": "done" if place.manifest.exists() else "running" if is_locked(place.state / "lock") else "stopped",
        "parts": len(done),
        "of_parts": told["parts"],
        "rows": total.read,
        "of_rows": told["rows"],
        **{name: getattr(total, name) for name in Totals._fields[1:]},
        "source": told["facts"].get("source"),
        "target": told["facts"].get("target"),
    }


def write_json(file: Path, content: Any) -> None:
    """Write JSON that is there whole or not at all."""
    with whole_file(file) as stream:
        stream.write(json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file} is damaged: {error}. Remove the output, and start anew.") from error
