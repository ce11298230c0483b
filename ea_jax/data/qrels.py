"""Queries, corpora and judgments in files."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ea_jax.data.vectors import read_vectors
from ea_jax.errors import BadInput

VECTORS, WORDS = ("x", "y"), ("text", "group", "id")
HEADS = ("query-id", "query_id", "qid")


def read_side(path: Path, alone: str) -> dict[str, Any]:
    """The columns x, y, text, group and id of a parquet file, as far as it has them.

    Args:
        path: A parquet file, or a `.npy` file of one column.
        alone: Which column a `.npy` file holds.

    Raises:
        BadInput: The file is of another kind, unreadable or of no rows; a value is null; an id comes again.
    """
    if path.suffix == ".npy":
        return {alone: read_vectors(path)}
    if path.suffix != ".parquet" or not path.is_file():
        raise BadInput(f"{path} is no file of vectors: .npy or .parquet is.")
    try:
        table = parquet.read_table(path, columns=[n for n in WORDS if n in parquet.read_schema(path).names])
        names = parquet.read_schema(path).names
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    if not table.num_rows or not {*VECTORS, "text"} & {*names}:
        raise BadInput(f"{path} has {table.num_rows} rows and the columns {', '.join(names)}; it needs x, y or text.")
    found: dict[str, Any] = {name: read_vectors(path, name) for name in VECTORS if name in names}
    for name in table.schema.names:
        found[name] = _words(path, name, table.column(name).to_pylist())
    again = [name for name, count in Counter(found.get("id", [])).items() if count > 1]
    if again:
        raise BadInput(f"{path}: the id {again[0]!r} comes more than once. Give each row an id of its own.")
    return found


def _words(path: Path, name: str, values: list[Any]) -> list[str]:
    if None in values:
        raise BadInput(
            f"{path}, column {name}, row {values.index(None)}: the value is null. Mend the row or leave it out."
        )
    return [str(value) for value in values]


def read_qrels(path: Path, queries: Sequence[str], corpus: Sequence[str]) -> dict[int, dict[int, float]]:
    """Judgments of a TREC file (query 0 row grade) or a BEIR one (query, row, grade, with a header).

    Args:
        path: The file; columns are separated by white space or tabs.
        queries: Ids of the queries, in order.
        corpus: Ids of the corpus rows, in order.

    Raises:
        BadInput: The file is unreadable or says nothing is relevant; a line is of another form, names an id that is not
            there, or contradicts an earlier one.
    """
    places = ({name: i for i, name in enumerate(ids)} for ids in (queries, corpus))
    (query_at, row_at), found = places, {}
    for number, line in enumerate(_lines(path), 1):
        cells = line.split()
        if not cells or (number == 1 and cells[0] in HEADS):
            continue
        told = _judgment(cells)
        if told is None:
            raise BadInput(f"{path}, line {number}: it is not `query row grade`, nor `query 0 row grade`.")
        query, row, grade = told
        for name, known, what in ((query, query_at, "queries"), (row, row_at, "corpus")):
            if name not in known:
                raise BadInput(f"{path}, line {number}: the id {name!r} is not among the {what}. Is it another file's?")
        if found.setdefault(query_at[query], {}).setdefault(row_at[row], grade) != grade:
            raise BadInput(f"{path}, line {number}: {row!r} has another grade for {query!r} above. Keep one.")
    if not any(grade > 0 for grades in found.values() for grade in grades.values()):
        raise BadInput(f"{path} holds no judgments above 0. Each line is `query row grade`.")
    return found


def _judgment(cells: list[str]) -> tuple[str, str, float] | None:
    """Query, row and grade of a line; None where it is of another form."""
    try:
        grade = float(cells[-1])
    except ValueError:
        return None
    return (cells[0], cells[-2], grade) if len(cells) in (3, 4) and math.isfinite(grade) else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as judgments: {error}.") from error
