"""The files of a job and their parts: what is read, in which ranges of rows, and how a changed file shows.

A reader knows one family of files: `describe(path, ...)` gives schema and cuts, `blocks(path, ...)` the rows.
"""

import glob
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ea_jax.batch.readers import arrow_files as tables
from ea_jax.batch.readers import numpy_files as arrays
from ea_jax.batch.readers import text_files as lines
from ea_jax.batch.readers.blocks import Block, Cut
from ea_jax.data import provenance
from ea_jax.errors import BadInput

READERS = {
    ".parquet": tables,
    ".arrow": tables,
    ".feather": tables,
    ".ipc": tables,
    ".npy": arrays,
    ".npz": arrays,
    ".jsonl": lines,
    ".ndjson": lines,
    ".csv": lines,
}
KINDS = ", ".join(READERS)


class Part(NamedTuple):
    """A range of rows of one input file, that is mapped and written as one.

    Attributes:
        number: Among the parts of the job.
        file: The input.
        cut: Its rows, and where they lie.
    """

    number: int
    file: Path
    cut: Cut


class Inputs(NamedTuple):
    """All that a job reads.

    Attributes:
        files: In the order of their names.
        facts: How long each file is.
        stamps: What changes whenever a file does, and sometimes else.
        schema: Of every batch.
        parts: In order of files and rows.
        column: The one to map, where it is known.
    """

    files: list[Path]
    facts: dict[str, str]
    stamps: dict[str, list[int]]
    schema: pa.Schema
    parts: list[Part]
    column: str | None

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(part.cut.stop - part.cut.start for part in self.parts)


def find_files(given: Sequence[str]) -> list[Path]:
    """The files that paths, globs and folders name, sorted; names that start with a dot or underscore are passed over.

    Raises:
        BadInput: There are none, or they are of several kinds or an unknown one.
    """
    found: list[Path] = []
    for name in given:
        path = Path(name)
        if path.is_dir():
            inside = (file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
            files = [file for file in inside if not any(p[0] in "._" for p in file.relative_to(path).parts)]
        elif path.is_file():
            files = [path]
        else:
            files = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]
        if not files:
            raise BadInput(f"{name} is no file, no glob that matches one and no folder of files ({KINDS}).")
        found += sorted(files)
    kinds = {file.suffix for file in found}
    unknown = sorted(kinds - READERS.keys())
    if unknown:
        raise BadInput(f"{next(f for f in found if f.suffix in unknown)} is of an unknown kind; {KINDS} are read.")
    if len(kinds) > 1:
        raise BadInput(f"The input has files of several kinds ({', '.join(sorted(kinds))}). Name those of one.")
    twice = [str(file) for file, same in groupby(sorted(found)) if len(list(same)) > 1]
    if twice:
        raise BadInput(f"{twice[0]} is named twice, and its rows would be too. Name it once.")
    return found


def read_inputs(given: Sequence[str], column: str | None, part_rows: int) -> Inputs:
    """Look at all files: their rows, their columns, and what they are.

    Lines are read through once for that, to know where rows start; of other files, little is read.

    Args:
        given: Paths, globs and folders.
        column: The one to map, where it is known; for arrays without names, what to call it.
        part_rows: Rows of a part.

    Raises:
        BadInput: A file is unreadable, or has other columns than the first.
    """
    files, parts, schema = find_files(given), [], None
    for file in files:
        found, cuts = READERS[file.suffix].describe(file, column, part_rows)
        schema = found if schema is None else _same(schema, found, file, files[0])
        parts += [(file, cut) for cut in cuts]
    assert schema is not None
    numbered = [Part(number, file, cut) for number, (file, cut) in enumerate(parts)]
    facts = {str(file): f"{file.stat().st_size:,} bytes" for file in files}
    return Inputs(files, facts, {str(file): file_stamp(file) for file in files}, schema, numbered, column)


def file_stamp(file: Path) -> list[int]:
    """Times of the last change, of the content and of anything (which nobody can set), and the number of the inode."""
    told = file.stat()
    return [told.st_mtime_ns, told.st_ctime_ns, told.st_ino]


def read_parts(inputs: Inputs, parts: Sequence[Part], size: int) -> Iterator[tuple[Part, Block]]:
    """The rows of parts in order, at most `size` at a time, and at least one block a part.

    Blocks begin and end alike wherever reading starts, so that a job that goes on computes what it would have.

    Raises:
        BadInput: A file is damaged, or has not the rows it had.
    """
    for file, of_file in groupby(parts, lambda part: part.file):
        for run in _runs(list(of_file)):
            yield from _whole(
                READERS[file.suffix].blocks(file, inputs.schema, inputs.column, [p.cut for p in run], size), run
            )


def _runs(parts: list[Part]) -> Iterator[list[Part]]:
    """Parts that follow each other without a gap: they are read as one stream."""
    for _, group in groupby(enumerate(parts), lambda item: item[1].number - item[0]):
        yield [part for _, part in group]


def _whole(blocks: Iterator[tuple[int, Block]], run: list[Part]) -> Iterator[tuple[Part, Block]]:
    """The blocks, as long as each part has as many rows as were counted."""
    seen, last = [0] * len(run), 0
    for at, block in blocks:
        seen[at] += len(block.rows) + len(block.bad)
        for number in range(last, at):
            _check_rows(run[number], seen[number])
        if seen[at] > run[at].cut.stop - run[at].cut.start:
            _check_rows(run[at], seen[at])
        last = at
        yield run[at], block
    for part, rows in zip(run, seen, strict=True):
        _check_rows(part, rows)


def _check_rows(part: Part, rows: int) -> None:
    wanted = part.cut.stop - part.cut.start
    if rows != wanted:
        raise BadInput(
            f"{part.file} has {rows:,} rows from row {part.cut.start:,} on, where {wanted:,} were counted. "
            "Was it changed, or are its quotes or lines broken?"
        )


def _same(schema: pa.Schema, other: pa.Schema, file: Path, first: Path) -> pa.Schema:
    if provenance.encoder_of(other) != provenance.encoder_of(schema):
        raise BadInput(f"{file} does not say of its vectors' encoder what {first} says of it. Map them one by one.")
    if other.remove_metadata().equals(schema.remove_metadata()):
        return schema
    if file.suffix in (".jsonl", ".ndjson"):
        return lines.unified([schema, other], file)
    told = [f"{name} {kind}" for name, kind in zip(other.names, other.types, strict=True)]
    had = [f"{name} {kind}" for name, kind in zip(schema.names, schema.types, strict=True)]
    raise BadInput(f"{file} has the columns {', '.join(told)}; {first} has {', '.join(had)}. Map them one by one.")
