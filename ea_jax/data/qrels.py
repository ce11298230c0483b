"""Read evaluation files: queries, corpora and relevance judgments."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ea_jax.data.blocks import Hints
from ea_jax.data.columns import Columns, is_vectors
from ea_jax.data.pairs import find_named_columns, find_roles, read_roles
from ea_jax.data.tables import open_tables
from ea_jax.embeddings import VectorRule
from ea_jax.errors import BadInput

BEIR_HEADERS = ("query-id", "query_id", "qid")


def read_columns(
    path: Path, vectors: str, columns: Columns | None = None, rules: Mapping[str, VectorRule] | None = None
) -> dict[str, Any]:
    """Read those of the columns x, y, text, group and id that a file of queries or of a corpus has.

    Args:
        path: A file of any format, or a folder of such files.
        vectors: Role of vectors whose column is neither x nor y, and of those in a `.npy` file: x or y.
        columns: Names of the columns; those that are None are found.
        rules: What the vectors of x and y must be: by default of one width, finite and not zero.

    Raises:
        BadInput: The file is unreadable, empty or without any of x, y and text; a value is null; a vector cannot be
            used; or an id occurs twice.
    """
    columns = columns or Columns()
    tables = open_tables([path], hints=Hints(vectors, delimiter=columns.delimiter))
    text, x, y = find_named_columns(tables.schema, columns)
    named = {"text": text, "x": x, "y": y}
    if named[vectors] is None and any(is_vectors(field.type) for field in tables.schema if field.name not in (x, y)):
        named[vectors] = tables.find(None, texts=False)
    if not any(named.values()):
        raise BadInput(f"{path} has the columns {', '.join(tables.schema.names)}; it needs x, y or text.")
    roles = find_roles(tables, named, ("group",)) | ({"id": columns.id} if columns.id else {})
    if "id" in tables.schema.names:
        roles.setdefault("id", "id")
    values = read_roles([tables], [roles], {name: (rules or {}).get(name) or VectorRule() for name in ("x", "y")})
    repeated = [name for name, count in Counter(values.get("id", [])).items() if count > 1]
    if repeated:
        raise BadInput(f"{path}: the id {repeated[0]!r} occurs more than once. Give each row its own id.")
    return values


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
