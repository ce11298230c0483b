"""NDJSON and CSV files as blocks of rows. They are read through once, to know where the rows of a part start."""

import json as plain
from collections.abc import Iterator, Sequence
from csv import reader
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, json

from ea_jax.batch.columns import NOT_FINITE, is_vectors
from ea_jax.batch.readers.blocks import Block, Cut, readable
from ea_jax.errors import BadInput

READ = 1 << 22  # bytes
NEWLINE, RETURN, QUOTE = b'\n\r"'
TEXTS = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)


def describe(path: Path, column: str | None, part_rows: int) -> tuple[pa.Schema, list[Cut]]:
    """Columns and cuts of a file. Those of CSV are strings as they stand there, those of NDJSON fit all rows."""
    with readable(path):
        if path.suffix == ".csv":
            names, at = _header(path)
            return pa.schema(dict.fromkeys(names, pa.string())), _cuts(path, part_rows, at, quoted=True)
        cuts, schemas = _cuts(path, part_rows, 0, quoted=False), []
        for cut in cuts:
            for text in _chunks(path, cut, quoted=False):
                table, _ = _parsed(text, None, column)
                schemas = [unified([*schemas, table.schema], path)] if len(table) else schemas
        if not schemas:
            raise BadInput(f"{path} has no JSON object in any line.")
        return _vectors_wide(schemas[0], column), cuts


def blocks(
    path: Path, schema: pa.Schema, column: str | None, cuts: Sequence[Cut], size: int
) -> Iterator[tuple[int, Block]]:
    """Rows of cuts, with the number of their cut."""
    with readable(path):
        for number, cut in enumerate(cuts):
            if cut.start == cut.stop:
                yield number, _block(schema.empty_table(), schema, cut.start, {})
                continue
            for block in _csv(path, schema, cut) if path.suffix == ".csv" else _ndjson(path, schema, cut, column):
                for start in range(0, max(len(block.rows), 1), size):
                    rows = slice(start, start + size)
                    bad = block.bad if not start else {}
                    yield number, Block(block.batch.slice(start, size), block.rows[rows], bad)


def unified(schemas: list[pa.Schema], path: Path) -> pa.Schema:
    """The columns of all, each of a type that holds what any of them has.

    Raises:
        BadInput: A column holds what no one type can.
    """
    try:
        return pa.unify_schemas([_as_written(schema) for schema in schemas], promote_options="permissive")
    except pa.ArrowException as error:
        raise BadInput(f"{path} has a column of several types: {str(error).splitlines()[0]}.") from error


def _as_written(schema: pa.Schema) -> pa.Schema:
    """Without the dates that Arrow finds in strings: they stay strings."""
    return pa.schema([field.with_type(_stringy(field.type)) for field in schema])


def _stringy(kind: pa.DataType) -> pa.DataType:
    if any(is_one(kind) for is_one in TEXTS):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_stringy(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_stringy(field.type)) for field in kind])
    return kind


def _vectors_wide(schema: pa.Schema, column: str | None) -> pa.Schema:
    """Lists of whole numbers are read as of any, where they are the vectors."""
    if column in schema.names and pa.types.is_list(schema.field(column).type):
        place = schema.names.index(column)
        return schema.set(place, pa.field(column, pa.list_(pa.float64())))
    return schema


def _cuts(path: Path, part_rows: int, at: int, quoted: bool) -> list[Cut]:
    """Where each part's rows start, by their line ends; those within quotes, and of blank lines, end no row."""
    starts, row, base, solid, inside = [at], 0, at, 0, 0
    with path.open("rb") as file:
        file.seek(at)
        while read := file.read(READ):
            block = np.frombuffer(read, np.uint8)
            ends, inside = _line_ends(block, quoted, inside)
            written = (block != NEWLINE) & (block != RETURN) if quoted else block > ord(" ")
            seen = np.cumsum(written) + solid  # since the last line's end, at first
            rows = row + np.cumsum(np.diff(seen[ends], prepend=0) > 0)
            full = (rows % part_rows == 0) & (np.diff(rows, prepend=row) > 0)
            starts += (base + ends[full] + 1).tolist()
            row = int(rows[-1]) if len(rows) else row
            solid = int(seen[-1] - (seen[ends[-1]] if len(ends) else 0))
            base += len(block)
    row += solid > 0
    starts = starts[: -(-row // part_rows) or 1]
    return [
        Cut(number * part_rows, min(row, (number + 1) * part_rows), start, end)
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], base], strict=True))
    ]


def _line_ends(block: np.ndarray, quoted: bool, inside: int) -> tuple[np.ndarray, int]:
    """Places of the line ends outside of quotes, and whether the block's end is inside (1) or not (0)."""
    ends = block == NEWLINE
    if not quoted:
        return np.flatnonzero(ends), 0
    parity = (np.cumsum(block == QUOTE) + inside) & 1
    return np.flatnonzero(ends & (parity == 0)), int(parity[-1])


def _chunks(path: Path, cut: Cut, quoted: bool) -> Iterator[bytes]:
    """The bytes of a cut, a few MiB of whole rows at a time."""
    with path.open("rb") as file:
        file.seek(cut.at)
        left, rest = cut.end - cut.at, b""
        while left:
            read = file.read(min(READ, left))
            if not read:
                raise BadInput(f"{path} is shorter than it was. Was it changed?")
            left -= len(read)
            rest += read
            ends, _ = _line_ends(np.frombuffer(rest, np.uint8), quoted, 0)
            at = len(rest) if not left else int(ends[-1]) + 1 if len(ends) else 0
            if at:
                yield rest[:at]
            rest = rest[at:]


def _ndjson(path: Path, schema: pa.Schema, cut: Cut, column: str | None) -> Iterator[Block]:
    row = cut.start
    for text in _chunks(path, cut, quoted=False):
        table, bad = _parsed(text, schema, column)
        yield _block(table, schema, row, bad)
        row += len(table) + len(bad)


def _csv(path: Path, schema: pa.Schema, cut: Cut) -> Iterator[Block]:
    row = cut.start
    for text in _chunks(path, cut, quoted=True):
        if not text.strip(b"\r\n"):
            continue
        bad: dict[int, str] = {}

        def skip(found: Any, bad: dict[int, str] = bad) -> str:
            bad[found.number - 1] = f"the row has {found.actual_columns} fields, the header {found.expected_columns}"
            return "skip"

        table = csv.read_csv(
            pa.BufferReader(text),
            csv.ReadOptions(use_threads=False, column_names=schema.names, block_size=len(text) + 1),
            csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            csv.ConvertOptions(column_types=schema, strings_can_be_null=False),
        )
        yield _block(table, schema, row, bad)
        row += len(table) + len(bad)


def _block(table: pa.Table, schema: pa.Schema, row: int, bad: dict[int, str]) -> Block:
    """A block whose first row, good or bad, is `row` of the file."""
    rows = np.delete(np.arange(len(table) + len(bad)), list(bad)) + row
    batches = table.cast(schema).combine_chunks().to_batches()
    batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=schema)
    return Block(batch, rows, {row + at: why for at, why in bad.items()})


def _parsed(text: bytes, schema: pa.Schema | None, column: str | None) -> tuple[pa.Table, dict[int, str]]:
    """Lines as a table, and what is wrong with those that are not in it."""
    lines = text
    try:
        return _table(text, schema), {}
    except pa.ArrowInvalid:
        rows = [(line, *_value(line, column)) for line in text.split(b"\n") if line.strip()]
        listed = (
            is_vectors(schema.field(column).type) if schema and column else any(type(v) is list for _, v, _ in rows)
        )
        bad = {row: told for row, (_, value, why) in enumerate(rows) if (told := why or _wrong(value, listed))}
        if not bad:
            raise
        lines = b"\n".join(line for row, (line, _, _) in enumerate(rows) if row not in bad)
    return _table(lines, schema), bad


def _table(text: bytes, schema: pa.Schema | None) -> pa.Table:
    if not text.strip():
        return (schema or pa.schema([])).empty_table()
    how = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error" if schema else "infer")
    return json.read_json(pa.BufferReader(text), json.ReadOptions(use_threads=False, block_size=len(text) + 1), how)


def _value(line: bytes, column: str | None) -> tuple[Any, str]:
    """What a line has in the column that is mapped, or why it is no row."""
    try:
        found = plain.loads(line)
    except ValueError as error:
        return None, f"the line is no JSON: {error}"
    return (found.get(column), "") if isinstance(found, dict) else (None, "the line is no JSON object")


def _wrong(value: Any, listed: bool) -> str:
    """Why a value is no vector, or no text where none are `listed`; empty where it is one, or null."""
    if value is None:
        return ""
    if not listed:
        return "" if isinstance(value, str) else "the value is no string"
    if not isinstance(value, list) or any(type(number) not in (int, float, type(None)) for number in value):
        return "the value is no list of numbers"
    finite = np.isfinite(np.array([0 if number is None else number for number in value], float)).all()
    return "" if finite else NOT_FINITE


def _header(path: Path) -> tuple[list[str], int]:
    """MapConfig of the columns, and where the first row starts."""
    with path.open("rb") as file:
        line = file.readline()
        at = file.tell()
    names = next(reader([line.decode("utf-8-sig").rstrip("\r\n")]), [])
    if not names or len(set(names)) < len(names):
        raise BadInput(f"{path} needs a first line that names each column once; it has {line[:60]!r}.")
    return names, at
