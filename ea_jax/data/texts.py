"""Read texts to embed from files of any format, each text once."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from ea_jax.data.blocks import Hints
from ea_jax.data.columns import get_column, to_labels, to_strings
from ea_jax.data.tables import open_tables, read_rows, row_name
from ea_jax.errors import BadInput

STDIN = Path("-")
GROUP = "group"


@dataclass(frozen=True)
class Texts:
    """Distinct texts, in the order of their first appearance.

    Attributes:
        text: The texts.
        group: Group of each text's first appearance, which must not straddle a split; None if there are no groups.
        duplicates: Number of repeated texts that were left out.
    """

    text: list[str]
    group: list[str] | None = None
    duplicates: int = 0


def read_texts(
    paths: Sequence[Path], column: str | None = None, delimiter: str | None = None, skip_empty: bool = False
) -> Texts:
    """Read the texts of files in order. Repeated texts are left out.

    Args:
        paths: Files and folders; `-` is stdin, one text a line.
        column: Column of the texts; found if None.
        delimiter: Delimiter of CSV files; detected if None.
        skip_empty: Leave out empty texts and blank lines, which are errors otherwise.

    Raises:
        BadInput: A file is missing or unreadable, a text is empty, only some rows have a group, or there are no texts.
            The message names the file and the row.
    """
    texts: list[Any] = []
    groups: list[str] = []
    grouped: bool | None = None
    for path in paths:
        rows = _stdin_rows() if path == STDIN else _file_rows(path, column, delimiter)
        for has_group, where, text, group in rows:
            if grouped is None:
                grouped = has_group
            elif grouped != has_group:
                with_group, without = (path, paths[0]) if has_group else (paths[0], path)
                raise BadInput(
                    f"{with_group} has the column {GROUP}, but {without} has not. Give all files groups, or none."
                )
            if skip_empty and text is not None and not text.strip():
                continue
            _check(where, "text", text)
            texts.append(text)
            if has_group:
                _check(where, GROUP, group)
                groups.append(group)
    if not texts:
        raise BadInput(f"There are no texts in {', '.join('stdin' if p == STDIN else str(p) for p in paths)}.")
    return distinct(texts, groups if grouped else None)


def distinct(texts: Sequence[str], groups: Sequence[str] | None = None) -> Texts:
    """Keep each text once, with the group of its first appearance."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        first.setdefault(text, row)
    kept = None if groups is None else [groups[row] for row in first.values()]
    return Texts(list(first), kept, len(texts) - len(first))


def quoted(text: str, width: int = 40) -> str:
    """Return a text in quotes on one line, shortened to a width."""
    return repr(text if len(text) <= width else text[: width - 1] + "…")


def _check(where: str, name: str, value: Any) -> None:
    fault = "null" if value is None else "empty" if not value.strip() else ""
    if fault:
        raise BadInput(f"{where}: the {name} is {fault}. Correct the row or remove it.")


def _file_rows(path: Path, column: str | None, delimiter: str | None) -> Iterator[tuple[bool, str, Any, Any]]:
    tables = open_tables([path], hints=Hints(texts=column or "text", delimiter=delimiter))
    column, has_group = tables.find(column, texts=True), GROUP in tables.schema.names
    tables = tables.select([column, *[GROUP] * has_group])
    for file, block in read_rows(tables):
        texts = to_strings(get_column(block.batch, column))
        groups = to_labels(block.batch.column(GROUP), f"{file}, column {GROUP}") if has_group else [None] * len(texts)
        for row, text, group in zip(block.rows.tolist(), texts, groups, strict=True):
            yield has_group, row_name(file, row), text, group


def _stdin_rows() -> Iterator[tuple[bool, str, Any, Any]]:
    for number, line in enumerate(read_lines(sys.stdin), 1):
        yield False, f"stdin, line {number}", line, None


def read_lines(stream: Iterable[str]) -> Iterator[str]:
    """Yield the lines of stdin without their ends.

    Raises:
        BadInput: A line is not UTF-8.
    """
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="strict")
    try:
        for line in stream:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"stdin is not UTF-8 text ({error.reason}). Convert it, for instance with iconv.") from error
