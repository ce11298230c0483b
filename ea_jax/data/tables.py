"""Read files of any format as blocks of rows of one schema: parquet, Arrow, JSON, CSV, text and NumPy files.

Each format has a module with two functions: `describe` returns the columns and cuts of a file, `blocks` its rows.
"""

import glob
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from ea_jax.data import arrow_files, numpy_files, provenance, text_files
from ea_jax.data.blocks import Block, Cut, Hints, ordinary_type
from ea_jax.data.columns import find_column
from ea_jax.errors import BadInput

READERS = {
    **dict.fromkeys((".parquet", ".arrow", ".feather", ".ipc"), arrow_files),
    **dict.fromkeys((".npy", ".npz"), numpy_files),
    **dict.fromkeys((".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt"), text_files),
    **dict.fromkeys((".jsonl.gz", ".ndjson.gz", ".json.gz", ".csv.gz", ".tsv.gz", ".txt.gz"), text_files),
}
FORMATS = ", ".join(name for name in READERS if not name.endswith(".gz")) + " (text formats also with .gz)"
WHOLE = 1 << 62  # rows of a part: all of a file
ROWS = 4096  # rows of a block


class Part(NamedTuple):
    """A range of rows of one input file.

    Attributes:
        number: Its number among all parts.
        file: The input file.
        cut: Its rows, and their bytes in a text file.
    """

    number: int
    file: Path
    cut: Cut


class Tables(NamedTuple):
    """Files of the same columns.

    Attributes:
        files: The files in order.
        schema: Columns of every block.
        parts: Parts in the order of files and rows.
        hints: What the files do not record.
    """

    files: list[Path]
    schema: pa.Schema
    parts: list[Part]
    hints: Hints

    @property
    def rows(self) -> int:
        """Number of rows of all files."""
        return sum(part.cut.stop - part.cut.start for part in self.parts)

    def find(self, name: str | None, *, texts: bool, names: Sequence[str] = (), argument: str = "column") -> str:
        """Return the column of vectors or texts, as `find_column` does; messages name the file."""
        try:
            return find_column(self.schema, name, texts, tuple(names), argument)
        except BadInput as error:
            raise BadInput(f"{self.files[0]}: {error}") from error

    def select(self, names: Sequence[str]) -> "Tables":
        """Keep some of the columns. A field `a.b` keeps the column `a`."""
        kept = dict.fromkeys(name if name in self.schema.names else name.split(".")[0] for name in names)
        return self._replace(schema=pa.schema([self.schema.field(name) for name in kept], self.schema.metadata))


def file_format(path: Path) -> str:
    """Return the suffix that decides how a file is read, such as `.csv` or `.jsonl.gz`."""
    return "".join(path.suffixes[-2:]).lower() if path.suffix == ".gz" else path.suffix


def row_name(file: Path, row: int) -> str:
    """Name a row in a message: by its line in plain text, else by its number from 0."""
    return f"{file}, line {row + 1}" if file_format(file).startswith(".txt") else f"{file}, row {row}"


def find_files(names: Sequence[str | Path]) -> list[Path]:
    """Find the files for paths, globs and folders, each sorted. Names that start with `.` or `_` are ignored.

    A folder of `datasets.save_to_disk` gives the files that it lists.

    Raises:
        BadInput: There are none, or their formats are unknown or differ, or a file is named twice.
    """
    files: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            matches = _dataset_files(path) or _files_below(path)
        elif path.is_file():
            matches = [path]
        else:
            matches = sorted(Path(file) for file in glob.glob(str(name), recursive=True) if Path(file).is_file())
        if not matches:
            raise BadInput(f"{name} is not a file, a glob that matches one, or a folder of files ({FORMATS}).")
        files += matches
    formats = {file_format(file) for file in files}
    unknown = sorted(formats - READERS.keys())
    if unknown:
        file = next(file for file in files if file_format(file) in unknown)
        raise BadInput(f"{file} has an unknown format. Readable formats: {FORMATS}.")
    if len(formats) > 1:
        raise BadInput(f"The input has files of several formats ({', '.join(sorted(formats))}). Name those of one.")
    twice = [str(file) for file, same in groupby(sorted(files)) if len(list(same)) > 1]
    if twice:
        raise BadInput(f"{twice[0]} is named twice. Name each file once.")
    return files


def _files_below(folder: Path) -> list[Path]:
    files = (file for file in folder.rglob("*") if file_format(file) in READERS and file.is_file())
    return sorted(file for file in files if not any(part[0] in "._" for part in file.relative_to(folder).parts))


def _dataset_files(folder: Path) -> list[Path]:
    """Return the files of a folder of `datasets.save_to_disk`, in its order; none of another folder."""
    splits = folder / "dataset_dict.json"
    if splits.is_file():
        names = json.loads(splits.read_bytes()).get("splits", [])
        if len(names) != 1:
            raise BadInput(
                f"{folder} holds the splits {', '.join(names)}. Name one of them, such as {folder / names[0]}."
            )
        folder = folder / names[0]
    state = folder / "state.json"
    if not state.is_file() or not (folder / "dataset_info.json").is_file():
        return []
    return [folder / file["filename"] for file in json.loads(state.read_bytes()).get("_data_files", [])]


def open_tables(names: Sequence[str | Path], *, part_rows: int = WHOLE, hints: Hints | None = None) -> Tables:
    """Find files, and read their schemas and row counts. Text files are scanned once for that.

    Args:
        names: Paths, globs and folders.
        part_rows: Rows of a part.
        hints: What the files do not record.

    Raises:
        BadInput: A file is unreadable, or its columns differ from those of the first.
    """
    files, parts, schema, hints = find_files(names), [], None, hints or Hints()
    for file in files:
        described, cuts = READERS[file_format(file)].describe(file, part_rows, hints)
        stored = pa.schema([field.with_type(ordinary_type(field.type)) for field in described], described.metadata)
        schema = stored if schema is None else _unify(schema, stored, file, files[0])
        parts += [(file, cut) for cut in cuts]
    assert schema is not None
    return Tables(files, schema, [Part(number, file, cut) for number, (file, cut) in enumerate(parts)], hints)


def read_parts(tables: Tables, parts: Sequence[Part], size: int = ROWS) -> Iterator[tuple[Part, Block]]:
    """Yield the rows of parts in order: blocks of at most `size` rows, at least one for each part.

    Blocks do not depend on where reading starts, so that a resumed job computes the same.

    Raises:
        BadInput: A file is damaged, or the number of its rows has changed.
    """
    for file, of_file in groupby(parts, lambda part: part.file):
        for run in _runs(list(of_file)):
            cuts = [part.cut for part in run]
            yield from _check_counts(
                READERS[file_format(file)].blocks(file, tables.schema, cuts, size, tables.hints), run
            )


def read_rows(tables: Tables, size: int = ROWS) -> Iterator[tuple[Path, Block]]:
    """Yield all rows in order, with their file.

    Raises:
        BadInput: A file is damaged, or a row cannot be parsed.
    """
    for part, block in read_parts(tables, tables.parts, size):
        for row, why in sorted(block.bad.items()):
            raise BadInput(f"{row_name(part.file, row)}: {why}. Correct the row or remove it.")
        yield part.file, block


def _runs(parts: list[Part]) -> Iterator[list[Part]]:
    """Group adjacent parts, which are read as one stream."""
    for _, group in groupby(enumerate(parts), lambda item: item[1].number - item[0]):
        yield [part for _, part in group]


def _check_counts(blocks: Iterator[tuple[int, Block]], run: list[Part]) -> Iterator[tuple[Part, Block]]:
    """Yield the blocks, and check that each part has as many rows as were counted."""
    counts, last = [0] * len(run), 0
    for at, block in blocks:
        counts[at] += len(block.rows) + len(block.bad)
        for number in range(last, at):
            _check_count(run[number], counts[number])
        if counts[at] > run[at].cut.stop - run[at].cut.start:
            _check_count(run[at], counts[at])
        last = at
        yield run[at], block
    for part, rows in zip(run, counts, strict=True):
        _check_count(part, rows)


def _check_count(part: Part, rows: int) -> None:
    counted = part.cut.stop - part.cut.start
    if rows != counted:
        raise BadInput(
            f"{part.file} has {rows:,} rows from row {part.cut.start:,} on, but {counted:,} were counted. "
            "Was it changed, or are its quotes or lines broken?"
        )


def _unify(schema: pa.Schema, other: pa.Schema, file: Path, first: Path) -> pa.Schema:
    """Unify the columns of two files by name: nulls take the other type, narrow floats the wider one."""
    if provenance.encoder_of(other) != provenance.encoder_of(schema):
        raise BadInput(f"{file} and {first} record different encoders of their vectors. Read them separately.")
    if other.equals(schema):
        return schema
    names = set(schema.names) ^ set(other.names)
    if names and file_format(file).removesuffix(".gz") not in text_files.JSON:
        columns = f"{', '.join(other.names)}, but {first} has {', '.join(schema.names)}"
        raise BadInput(f"{file} has the columns {columns}. Read them separately.")
    try:
        return pa.unify_schemas([_decoded(schema), _decoded(other)], promote_options="permissive")
    except pa.ArrowException as error:
        raise BadInput(f"The types of a column in {file} and {first} differ: {str(error).splitlines()[0]}.") from error


def _decoded(schema: pa.Schema) -> pa.Schema:
    """Replace dictionaries by the type of their values, which unifies with that of other files."""
    kinds = ((field, field.type) for field in schema)
    return pa.schema(
        [field.with_type(kind.value_type) if pa.types.is_dictionary(kind) else field for field, kind in kinds],
        schema.metadata,
    )
