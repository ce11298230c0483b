"""Read NDJSON, JSON, CSV, TSV and plain text, also gzipped, as blocks of rows.

A file is scanned once to find where each part starts, so that a resumed job starts there.
"""

import csv as plain_csv
import json as plain_json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, json

from ea_jax.data.blocks import Block, Cut, Hints, combine_batches, readable
from ea_jax.errors import BadInput

READ = 1 << 22  # bytes
NEWLINE, RETURN, QUOTE = b'\n\r"'
BOM, UTF16 = b"\xef\xbb\xbf", (b"\xff\xfe", b"\xfe\xff")
DELIMITERS = (",", ";", "\t", "|")
SNIFF = 1 << 16  # bytes from which a delimiter is detected
DATES = (pa.types.is_timestamp, pa.types.is_date, pa.types.is_time)
JSON, CSV = (".jsonl", ".ndjson", ".json"), (".csv", ".tsv")
Parse = Callable[[bytes], tuple[pa.Table, dict[int, str]]]


def describe(path: Path, part_rows: int, hints: Hints) -> tuple[pa.Schema, list[Cut]]:
    """Return the columns and cuts of a file. CSV columns are strings; types of JSON columns fit all rows."""
    kind = _suffix(path)
    with readable(path):
        start = _start(path, hints)
        if kind in CSV:
            names, _, header = _read_header(path, hints)
            schema, start = pa.schema(dict.fromkeys(names, pa.string())), start + header
        else:
            schema = pa.schema({hints.texts: pa.string()} if kind == ".txt" else {})
        with _open(path, hints, start) as stream:
            cuts = _scan(stream, part_rows, start, kind)
        if kind in JSON:
            with _open(path, hints, start) as stream:
                for lines in _chunks(stream, Cut(0, 0, start, cuts[-1].end), path, kind):
                    schema = _widen(schema, _infer(lines))
                    if not schema.names:  # not one line could be parsed
                        raise BadInput(f"{path}, row 0: {parse_json(lines, schema)[1][0]}.")
            if not schema.names:
                raise BadInput(f"{path} cannot be read: it has no rows.")
        return schema, cuts


def blocks(path: Path, schema: pa.Schema, cuts: Sequence[Cut], size: int, hints: Hints) -> Iterator[tuple[int, Block]]:
    """Yield the rows of adjacent cuts, each block with the number of its cut."""
    kind = _suffix(path)
    with readable(path):
        parse = _parser(path, kind, schema, hints)
        with _open(path, hints, cuts[0].at) as stream:
            for number, cut in enumerate(cuts):
                row = cut.start
                if cut.start == cut.stop:
                    yield number, Block(combine_batches(schema.empty_table()), np.arange(0), {})
                for lines in _chunks(stream, cut, path, kind):
                    table, bad = parse(lines)
                    rows = np.delete(np.arange(len(table) + len(bad)), list(bad)) + row
                    reasons, batch = {row + at: why for at, why in bad.items()}, combine_batches(table)
                    for start in range(0, max(len(rows), 1), size):
                        part = slice(start, start + size)
                        yield number, Block(batch.slice(start, size), rows[part], {} if start else reasons)
                    row += len(table) + len(bad)


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


@contextmanager
def _open(path: Path, hints: Hints, at: int = 0) -> Iterator[Any]:
    """Open the uncompressed bytes of a file from a position on. JSON arrays become lines."""
    with pa.input_stream(str(path), compression="gzip" if path.suffix == ".gz" else None) as stream:
        if _suffix(path) == ".json":
            stream = pa.BufferReader(_json_lines(stream.read(), hints))
        if stream.seekable():
            stream.seek(at)
        else:
            while at > 0 and (skipped := stream.read(min(at, READ))):
                at -= len(skipped)
        yield stream


def _json_lines(content: bytes, hints: Hints) -> bytes:
    """Convert to NDJSON: an array, an object of columns, or an object with an array. Other content is kept."""
    content = content.removeprefix(BOM)
    try:
        value = plain_json.loads(content)
    except ValueError:
        return content
    if isinstance(value, dict) and value and all(isinstance(item, list) for item in value.values()):
        lists = list(value.values())
        if len(value) == 1 and all(isinstance(item, dict) for item in lists[0]):
            value = lists[0]
        elif len(set(map(len, lists))) == 1:
            value = [dict(zip(value, row, strict=True)) for row in zip(*lists, strict=True)]
    elif isinstance(value, dict) and isinstance(value.get("data"), list):  # an answer of an embedding API
        value = value["data"]
    if not isinstance(value, list):
        return content.replace(b"\n", b" ") if isinstance(value, dict) else content
    named = (
        row if isinstance(row, dict) else {hints.texts if isinstance(row, str) else hints.vectors: row} for row in value
    )
    return "".join(plain_json.dumps(row) + "\n" for row in named).encode()


def _scan(stream: Any, part_rows: int, at: int, kind: str) -> list[Cut]:
    """Find where each part starts. Quoted line ends of CSV end no row. Blank lines are rows in plain text only."""
    quoted, starts, row, base, pending, inside = kind in CSV, [at], 0, at, 0, 0
    while read := stream.read(READ):
        block = np.frombuffer(read, np.uint8)
        ends, inside = _line_ends(block, quoted, inside)
        if kind == ".txt":
            solid = np.ones(len(block), bool)
        else:
            solid = (block != NEWLINE) & (block != RETURN) if quoted else block > ord(" ")
        seen = np.cumsum(solid) + pending  # characters since the last line end, at first
        rows = row + np.cumsum(np.diff(seen[ends], prepend=0) > 0)
        full = (rows % part_rows == 0) & (np.diff(rows, prepend=row) > 0)
        starts += (base + ends[full] + 1).tolist()
        row = int(rows[-1]) if len(rows) else row
        pending = int(seen[-1] - (seen[ends[-1]] if len(ends) else 0))
        base += len(block)
    row += pending > 0
    starts = starts[: -(-row // part_rows) or 1]
    return [
        Cut(number * part_rows, min(row, (number + 1) * part_rows), start, end)
        for number, (start, end) in enumerate(zip(starts, [*starts[1:], base], strict=True))
    ]


def _line_ends(block: np.ndarray, quoted: bool, inside: int) -> tuple[np.ndarray, int]:
    """Return the positions of line ends outside quotes, and whether the block ends inside quotes (1) or not (0)."""
    ends = block == NEWLINE
    if not quoted:
        return np.flatnonzero(ends), 0
    parity = (np.cumsum(block == QUOTE) + inside) & 1
    return np.flatnonzero(ends & (parity == 0)), int(parity[-1])


def _chunks(stream: Any, cut: Cut, path: Path, kind: str) -> Iterator[bytes]:
    """Yield the bytes of a cut, a few MiB of whole rows at a time."""
    left, rest = cut.end - cut.at, b""
    while left:
        read = stream.read(min(READ, left))
        if not read:
            raise BadInput(f"{path} is shorter than before. Was it changed?")
        left -= len(read)
        rest += read
        ends, _ = _line_ends(np.frombuffer(rest, np.uint8), kind in CSV, 0)
        at = len(rest) if not left else int(ends[-1]) + 1 if len(ends) else 0
        if rest[:at].strip(b"\r\n" if kind in CSV else None) or (at and kind == ".txt"):
            try:
                rest[:at].decode()
            except UnicodeDecodeError as error:
                raise BadInput(
                    f"{path} is not UTF-8 text ({error.reason}). Convert it, for instance with iconv."
                ) from error
            yield rest[:at]
        rest = rest[at:]


def _parser(path: Path, kind: str, schema: pa.Schema, hints: Hints) -> Parse:
    """Return the function that parses a chunk of lines to a table, with the reason for each bad row."""
    if kind == ".txt":
        return lambda lines: (pa.table([_split(lines)], schema=schema), {})
    if kind in CSV:
        names, delimiter, _ = _read_header(path, hints)
        return lambda lines: _parse_csv(lines, names, delimiter, schema)
    return lambda lines: parse_json(lines, schema)


def _split(lines: bytes) -> list[str]:
    rows = lines.decode().split("\n")
    return [row.removesuffix("\r") for row in (rows if rows[-1] else rows[:-1])]


def _parse_csv(lines: bytes, names: list[str], delimiter: str, schema: pa.Schema) -> tuple[pa.Table, dict[int, str]]:
    bad: dict[int, str] = {}

    def skip(row: Any) -> str:
        bad[row.number - 1] = f"the row has {row.actual_columns} fields, the header {row.expected_columns}"
        return "skip"

    table = csv.read_csv(
        pa.BufferReader(lines),
        csv.ReadOptions(use_threads=False, column_names=names, block_size=len(lines) + 1),
        csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
    )
    return table.select(schema.names).cast(schema), bad


def _start(path: Path, hints: Hints) -> int:
    """Return the position of the first byte after a byte order mark."""
    with _open(path, hints) as stream:
        first = stream.read(len(BOM))
    if first[:2] in UTF16:
        raise BadInput(f"{path} is UTF-16 text. Convert it to UTF-8, for instance with iconv.")
    return len(BOM) if first == BOM else 0


def _read_header(path: Path, hints: Hints) -> tuple[list[str], str, int]:
    """Return the names of the columns, the delimiter, and the number of bytes of the first line."""
    with _open(path, hints, _start(path, hints)) as stream:
        sample = stream.read(SNIFF)
    line, _, _ = sample.partition(b"\n")
    delimiter = hints.delimiter or (
        "\t" if _suffix(path) == ".tsv" else detect_delimiter(sample.decode(errors="replace"))
    )
    names = next(plain_csv.reader([line.decode().rstrip("\r")], delimiter=delimiter), [])
    if not names or len(set(names)) < len(names):
        raise BadInput(f"{path} needs a header line with distinct column names; its first line is {line[:60]!r}.")
    return names, delimiter, len(line) + 1


def detect_delimiter(sample: str) -> str:
    """Choose the delimiter that splits the header of a sample, and most rows into as many fields as the header."""
    lines = sample.splitlines()[:100]

    def score(delimiter: str) -> tuple[bool, float, int]:
        header, *rows = list(plain_csv.reader(lines, delimiter=delimiter)) or [[]]
        equal = sum(len(row) == len(header) for row in rows) / max(1, len(rows))
        return len(header) > 1, equal, len(header)

    return max(DELIMITERS, key=score)


def _infer(lines: bytes) -> pa.Schema:
    """Infer a schema for lines of JSON. Lines that Arrow cannot read together are halved, and their schemas unified."""
    try:
        table = _read_json(lines, None)
        return pa.schema([field.with_type(_undated(field.type)) for field in table.schema])
    except pa.ArrowInvalid:
        first, second = _halves(lines)
        return _widen(_infer(first), _infer(second)) if second else pa.schema([])


def _undated(kind: pa.DataType) -> pa.DataType:
    """Replace the dates that Arrow finds in strings: they stay strings."""
    if any(is_date(kind) for is_date in DATES):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_undated(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_undated(field.type)) for field in kind])
    return kind


def _widen(a: pa.Schema, b: pa.Schema) -> pa.Schema:
    """Unify two schemas. Of two types without a common one, keep the list, else the string, else the first."""
    for name in set(a.names) & set(b.names):
        kinds = [pa.schema({name: schema.field(name).type}) for schema in (a, b)]
        try:
            pa.unify_schemas(kinds, promote_options="permissive")
        except pa.ArrowException:
            kind = max((schema.field(name).type for schema in kinds), key=_rank)
            a, b = (schema.set(schema.names.index(name), pa.field(name, kind)) for schema in (a, b))
    return pa.unify_schemas([a, b], promote_options="permissive")


def _rank(kind: pa.DataType) -> int:
    return 2 if pa.types.is_list(kind) else 1 if pa.types.is_string(kind) else 0


def parse_json(lines: bytes, schema: pa.Schema) -> tuple[pa.Table, dict[int, str]]:
    """Parse lines of JSON, ignoring blank ones. Returns the rows of the schema, and the reason for each other row."""
    try:
        return _read_json(lines, schema), {}
    except pa.ArrowInvalid as error:
        first, second = _halves(lines)
        reason = str(error).splitlines()[0].removeprefix("JSON parse error: ").removesuffix(" in row 0").rstrip(".")
    if not second:
        return schema.empty_table(), {0: f"the line cannot be parsed: {reason}"}
    (a, bad_a), (b, bad_b) = parse_json(first, schema), parse_json(second, schema)
    return pa.concat_tables([a, b]), bad_a | {len(a) + len(bad_a) + row: why for row, why in bad_b.items()}


def _halves(lines: bytes) -> tuple[bytes, bytes]:
    rows = [line for line in lines.split(b"\n") if line.strip()]
    middle = max(1, len(rows) // 2)
    return b"\n".join(rows[:middle]), b"\n".join(rows[middle:])


def _read_json(lines: bytes, schema: pa.Schema | None) -> pa.Table:
    if not lines.strip():
        return (schema or pa.schema([])).empty_table()
    options = json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer")
    return json.read_json(
        pa.BufferReader(lines), json.ReadOptions(use_threads=False, block_size=len(lines) + 1), options
    )
