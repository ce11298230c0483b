"""Read evaluation files: queries, corpora and relevance judgments."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ea_jax.data.vectors import read_vectors
from ea_jax.errors import BadInput

VECTOR_COLUMNS, STRING_COLUMNS = ("x", "y"), ("text", "group", "id")
BEIR_HEADERS = ("query-id", "query_id", "qid")


def read_columns(path: Path, vectors: str) -> dict[str, Any]:
    """Read those of the columns x, y, text, group and id that a file of queries or of a corpus has.

    Args:
        path: A parquet file, or a `.npy` file of vectors.
        vectors: Name for the vectors of a `.npy` file, x or y.

    Raises:
        BadInput: The file is unreadable, empty, of another format or without any of x, y and text; a value is null;
            or an id occurs twice.
    """
    if path.suffix == ".npy":
        return {vectors: read_vectors(path)}
    if path.suffix != ".parquet" or not path.is_file():
        raise BadInput(f"{path} is not a .parquet or .npy file.")
    try:
        names = parquet.read_schema(path).names
        table = parquet.read_table(path, columns=[name for name in STRING_COLUMNS if name in names])
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    if not table.num_rows or not {*VECTOR_COLUMNS, "text"} & {*names}:
        raise BadInput(f"{path} has {table.num_rows} rows and the columns {', '.join(names)}; it needs x, y or text.")
    columns: dict[str, Any] = {name: read_vectors(path, name) for name in VECTOR_COLUMNS if name in names}
    for name in table.schema.names:
        columns[name] = _as_strings(path, name, table.column(name).to_pylist())
    repeated = [name for name, count in Counter(columns.get("id", [])).items() if count > 1]
    if repeated:
        raise BadInput(f"{path}: the id {repeated[0]!r} occurs more than once. Give each row its own id.")
    return columns


def _as_strings(path: Path, name: str, values: list[Any]) -> list[str]:
    if None in values:
        row = values.index(None)
        raise BadInput(f"{path}, column {name}, row {row}: the value is null. Correct the row or leave it out.")
    return [str(value) for value in values]


def read_qrels(path: Path, queries: Sequence[str], corpus: Sequence[str]) -> dict[int, dict[int, float]]:
    """Read relevance judgments in TREC format (query 0 row grade) or BEIR format (query row grade, with a header).

    Args:
        path: A text file whose columns are separated by spaces or tabs.
        queries: Ids of the queries, in order.
        corpus: Ids of the corpus rows, in order.

    Returns:
        Query number -> corpus row number -> grade.

    Raises:
        BadInput: The file is unreadable or has no grade above 0; or a line is malformed, has an unknown id or
            contradicts an earlier line.
    """
    query_rows, corpus_rows = ({name: row for row, name in enumerate(ids)} for ids in (queries, corpus))
    judgments: dict[int, dict[int, float]] = {}
    for number, line in enumerate(_read_lines(path), 1):
        cells = line.split()
        if not cells or (number == 1 and cells[0] in BEIR_HEADERS):
            continue
        judgment = _parse_judgment(cells)
        if judgment is None:
            raise BadInput(f"{path}, line {number}: expected `query row grade` or `query 0 row grade`.")
        query, row, grade = judgment
        for name, rows, kind in ((query, query_rows, "queries"), (row, corpus_rows, "corpus")):
            if name not in rows:
                raise BadInput(
                    f"{path}, line {number}: the id {name!r} is not among the {kind}. "
                    "Do the judgments belong to another file?"
                )
        if judgments.setdefault(query_rows[query], {}).setdefault(corpus_rows[row], grade) != grade:
            raise BadInput(f"{path}, line {number}: {row!r} has another grade for {query!r} above. Keep one of them.")
    if not any(grade > 0 for grades in judgments.values() for grade in grades.values()):
        raise BadInput(f"{path} has no judgments with a grade above 0. Each line is `query row grade`.")
    return judgments


def _parse_judgment(cells: list[str]) -> tuple[str, str, float] | None:
    """Query id, corpus id and grade of a line; None if it is malformed."""
    try:
        grade = float(cells[-1])
    except ValueError:
        return None
    return (cells[0], cells[-2], grade) if len(cells) in (3, 4) and math.isfinite(grade) else None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as judgments: {error}.") from error
