"""Pairs in files: parquet or (gzipped) NDJSON with the columns text, x, y, group and query."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float
from pyarrow import json, parquet

from ea_jax.errors import BadInput

COLUMNS = ("text", "x", "y", "group", "query")


@dataclass(frozen=True)
class Pairs:
    """Row-aligned columns; one that the files do not have is None.

    Attributes:
        y: Target embeddings.
        x: Source embeddings.
        text: What was embedded.
        group: What must not straddle a split: a document, a repository, a customer.
        query: Of a test set: the rows that ask. The others are the corpus.
    """

    y: Float[np.ndarray, "n d_out"]
    x: Float[np.ndarray, "n d_in"] | None = None
    text: list[str] | None = None
    group: list[str] | None = None
    query: Bool[np.ndarray, " n"] | None = None


def read_pairs(paths: Sequence[Path]) -> Pairs:
    """Read pairs from files of the same columns, in the order given.

    Raises:
        BadInput: A file is missing, unreadable or of an unknown kind; a column is missing or of another type; a value
            is null; a vector is of another width, not finite or zero. The message names the file, column and row.
    """
    tables = [_read_table(path) for path in paths]
    names = [name for name in COLUMNS if name in tables[0].column_names]
    for path, table in zip(paths, tables, strict=True):
        found = [name for name in COLUMNS if name in table.column_names]
        if "y" not in found or not {"x", "text"} & set(found):
            raise BadInput(f"{path} needs the columns y and (x or text); it has {', '.join(table.column_names)}.")
        if found != names:
            raise BadInput(f"{path} has the columns {', '.join(found)}, but {paths[0]} has {', '.join(names)}.")
    columns = {
        name: [_column(table.column(name), name, path) for path, table in zip(paths, tables, strict=True)]
        for name in names
    }
    for name in {"x", "y"} & set(names):
        widths = {part.shape[1] for part in columns[name]}
        if len(widths) > 1:
            raise BadInput(f"Column {name} has vectors of widths {sorted(widths)} in different files.")
    joined: dict[str, Any] = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Pairs(**joined | {name: joined[name].tolist() for name in {"text", "group"} & joined.keys()})


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs as parquet with the columns that `read_pairs` reads."""
    columns = {name: getattr(pairs, name) for name in COLUMNS}
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(column.ravel(), column.shape[1]) if name in ("x", "y") else column
        for name, column in columns.items()
        if column is not None
    }
    parquet.write_table(pa.table(arrays), path)


def _read_table(path: Path) -> pa.Table:
    name = path.name.removesuffix(".gz")
    if not path.is_file():
        raise BadInput(f"{path} is not a file.")
    try:
        if name.endswith(".parquet"):
            return parquet.read_table(path)
        if name.endswith((".jsonl", ".ndjson")):
            return json.read_json(pa.input_stream(str(path)))
    except (OSError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    raise BadInput(f"{path} is of an unknown kind; pairs are read from .parquet, .jsonl, .ndjson and .jsonl.gz files.")


def _column(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    if column.null_count:
        row = column.is_null().to_numpy().argmax()
        raise BadInput(f"{path}, column {name}, row {row}: the value is null.")
    if name in ("x", "y"):
        return _vectors(column, f"{path}, column {name}")
    wanted = {"text": pa.types.is_string, "group": pa.types.is_string, "query": pa.types.is_boolean}[name]
    if not wanted(column.type):
        raise BadInput(
            f"{path}, column {name} holds {column.type}; it must hold {wanted.__name__.removeprefix('is_')}s."
        )
    return column.to_numpy()


def _vectors(column: pa.ChunkedArray, where: str) -> np.ndarray:
    kind = column.type
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not listed or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise BadInput(f"{where} holds {kind}; it must hold lists of numbers.")
    flat = column.combine_chunks()
    lengths = flat.value_lengths().to_numpy()
    odd = lengths != lengths[0]
    if odd.any():
        row = odd.argmax()
        raise BadInput(f"{where}, row {row}: the vector has width {lengths[row]}, the first has {lengths[0]}.")
    vectors = flat.flatten().to_numpy(zero_copy_only=False).astype(np.float32).reshape(len(lengths), -1)
    norms = np.linalg.norm(vectors, axis=1)
    bad = ~np.isfinite(norms) | (norms == 0)
    if bad.any():
        raise BadInput(f"{where}, row {bad.argmax()}: the vector is zero or has a value that is not finite.")
    return vectors
