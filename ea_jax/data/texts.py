"""Texts to be embedded: lines of text files, or a column of NDJSON or parquet files, each text once."""

import gzip
import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from ea_jax.errors import BadInput

STDIN = Path("-")
GROUP = "group"
KINDS = ".txt, .jsonl, .ndjson (these also with .gz) or .parquet files, or - for stdin"


@dataclass(frozen=True)
class Texts:
    """Different texts, in the order of their first appearance.

    Attributes:
        text: The texts.
        group: What must not straddle a split, of each text's first appearance; None where the files have no groups.
        duplicates: How many later appearances were left out.
    """

    text: list[str]
    group: list[str] | None = None
    duplicates: int = 0


class _Rows(NamedTuple):
    """One file's rows before they are checked, with what to call each in an error."""

    names: Sequence[str]
    text: list[Any]
    group: list[Any] | None


def read_texts(paths: Sequence[Path], column: str = "text") -> Texts:
    """Read the texts of files, in the order given; one that comes again is left out.

    Args:
        paths: Files; `-` is stdin, a text a line.
        column: Which column of parquet and NDJSON files holds the texts.

    Raises:
        BadInput: A file is missing, unreadable or of an unknown kind; a text is empty or no string; only some rows have
            a group; there are no texts. The message names the file and the row.
    """
    found = [_read(path, column) for path in paths]
    for path, rows in zip(paths, found, strict=True):
        _check(rows, rows.text, column)
        if (rows.group is None) != (found[0].group is None):
            with_group, without = (paths[0], path) if rows.group is None else (path, paths[0])
            raise BadInput(
                f"{with_group} has the column {GROUP}, but {without} has not. Give all files groups, or none."
            )
        if rows.group is not None:
            _check(rows, rows.group, GROUP)
    texts = [text for rows in found for text in rows.text]
    if not texts:
        raise BadInput(f"There are no texts in {', '.join(map(_name, paths))}.")
    return distinct(texts, None if found[0].group is None else [group for rows in found for group in rows.group or ()])


def distinct(texts: Sequence[str], groups: Sequence[str] | None = None) -> Texts:
    """Each text once, with the group of its first appearance."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    kept = None if groups is None else [groups[row] for row in first.values()]
    return Texts(list(first), kept, len(texts) - len(first))


def _check(rows: _Rows, values: list[Any], column: str) -> None:
    for name, value in zip(rows.names, values, strict=True):
        if fault := _fault(value):
            raise BadInput(f"{name}: the {column} {fault}. Mend the row or leave it out.")


def _fault(value: Any) -> str | None:
    if value is None:
        return "is null"
    if not isinstance(value, str):
        return f"is {type(value).__name__}, not a string"
    if not value.strip():
        return "is empty"
    try:
        value.encode()
    except UnicodeEncodeError:
        return "holds a lone surrogate, which is no character"
    return None


def _name(path: Path) -> str:
    return "stdin" if path == STDIN else str(path)


def _read(path: Path, column: str) -> _Rows:
    if path == STDIN:
        return _lines(path, sys.stdin)
    if not path.is_file():
        raise BadInput(f"{path} is not a file. Texts are read from {KINDS}.")
    plain = path.name.removesuffix(".gz")
    try:
        if path.name.endswith(".parquet"):
            return _parquet(path, column)
        if plain.endswith((".txt", ".jsonl", ".ndjson")):
            opener = gzip.open if path.name.endswith(".gz") else open
            with opener(path, "rt", encoding="utf-8-sig") as stream:
                return _lines(path, stream) if plain.endswith(".txt") else _ndjson(path, stream, column)
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    raise BadInput(f"{path} is of an unknown kind; texts are read from {KINDS}.")


def _decoded(path: Path, stream: Iterable[str]) -> Iterator[str]:
    if isinstance(stream, TextIOWrapper) and path == STDIN:
        stream.reconfigure(encoding="utf-8", errors="strict")
    try:
        for line in stream:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        why = f"{_name(path)} is not UTF-8 text ({error.reason}). Convert it first, for instance with iconv."
        raise BadInput(why) from error


def _lines(path: Path, stream: Iterable[str]) -> _Rows:
    text = list(_decoded(path, stream))
    return _Rows([f"{_name(path)}, line {number}" for number in range(1, len(text) + 1)], text, None)


def _ndjson(path: Path, stream: Iterable[str], column: str) -> _Rows:
    """Rows of NDJSON; blank lines hold none."""
    names, rows = [], []
    for number, line in enumerate(_decoded(path, stream), 1):
        if not line.strip():
            continue
        names.append(f"{path}, line {number}")
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BadInput(f"{names[-1]} is no JSON: {error}.") from error
        if not isinstance(row, dict) or column not in row:
            raise BadInput(f"{names[-1]} is no object with the key {column}. --column names another.")
        rows.append(row)
    grouped = any(GROUP in row for row in rows)
    return _Rows(names, [row[column] for row in rows], [row.get(GROUP) for row in rows] if grouped else None)


def _parquet(path: Path, column: str) -> _Rows:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        known = parquet.read_schema(path).names
        if column not in known:
            raise BadInput(f"{path} has no column {column}; it has {', '.join(known)}. --column names another.")
        table = parquet.read_table(path, columns=[name for name in (column, GROUP) if name in known])
    except pa.ArrowException as error:
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    group = table.column(GROUP).to_pylist() if GROUP in known else None
    return _Rows([f"{path}, row {row}" for row in range(len(table))], table.column(column).to_pylist(), group)
