"""Read one column of vectors from files of any format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from ea_jax.data import arrow_files, provenance
from ea_jax.data.blocks import Hints
from ea_jax.data.columns import Columns, check_vectors, get_column, scale_column
from ea_jax.data.tables import READERS, file_format, find_files, open_tables, read_rows
from ea_jax.embeddings import VectorRule
from ea_jax.errors import BadInput


def read_vectors(
    path: Path,
    column: str | None = None,
    rule: VectorRule | None = None,
    *,
    names: Sequence[str] = ("x",),
    delimiter: str | None = None,
) -> Float32[np.ndarray, "n d"]:
    """Read all vectors of a file or folder, in float32.

    Args:
        path: A file of any format, or a folder of such files.
        column: Column of the vectors; found if None.
        rule: What the vectors must be: if None, of one width, finite and not zero.
        names: Column names to prefer to the common ones.
        delimiter: Delimiter of CSV files; detected if None.

    Raises:
        BadInput: The file is missing or unreadable, or a vector cannot be used. The message names the file and the row.
    """
    tables = open_tables([path], hints=Hints(column or "embedding", delimiter=delimiter))
    column = tables.find(column, texts=False, names=names)
    scale, rule, parts = scale_column(tables.schema, column), rule or VectorRule(), []
    tables = tables.select([column, *filter(None, [scale])])
    for file, block in read_rows(tables):
        batch = block.batch
        checked = check_vectors(get_column(batch, column), rule, batch.column(scale) if scale else None)
        for row, why in checked.reasons.items():
            raise BadInput(f"{file}, column {column}, row {block.rows[row]}: {why}.")
        parts.append(checked.values)
        if len(batch):
            rule = rule.of_width(parts[-1].shape[1])
    x = np.concatenate([part for part in parts if len(part)] or [np.zeros((0, 0), np.float32)])
    if not len(x):
        raise BadInput(f"{path} cannot be read: it has no rows.")
    return x


def has_vectors(path: Path, columns: Columns | None = None) -> bool:
    """Return whether a file is read as vectors, rather than as texts.

    Raises:
        BadInput: The file is unreadable, or has neither vectors nor texts.
    """
    columns = columns or Columns()
    if columns.source or columns.text:
        return columns.source is not None
    tables = open_tables([path], hints=Hints(delimiter=columns.delimiter))
    try:
        tables.find(None, texts=False, names=("x",))
    except BadInput as error:
        try:
            tables.find(None, texts=True)
        except BadInput:
            raise error from None
        return False
    return True


def encoder_facts(path: Path, column: str = "x") -> dict[str, Any] | None:
    """Return the facts that a parquet or Arrow file records of the encoder of its vectors, or None.

    Args:
        path: A file of any format, or a folder.
        column: Column of the vectors. A file without it records nothing.

    Raises:
        BadInput: The file is unreadable, or its record is not an object of facts.
    """
    if READERS.get(file_format(path)) is arrow_files and path.is_file():
        files = [path]
    elif (path / "state.json").is_file():
        files = find_files([path])
    else:
        return None
    schema, _ = arrow_files.describe(files[0], 1 << 62, Hints())
    try:
        return provenance.encoder_of(schema) if column.split(".")[0] in schema.names else None
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error
