"""Read pairs of source and target embeddings from files of any format, or from a folder of arrays."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Float32
from pyarrow import parquet

from ea_jax.data.blocks import Hints
from ea_jax.data.columns import (
    NULL,
    TEXT_NAMES,
    Columns,
    check_vectors,
    get_column,
    is_vectors,
    scale_column,
    to_flags,
    to_labels,
    to_strings,
)
from ea_jax.data.tables import Tables, open_tables, read_rows
from ea_jax.embeddings import VectorRule, require_rows
from ea_jax.errors import BadInput

COLUMNS = ("text", "x", "y", "group", "domain", "query")
VECTORS, NAMES = ("x", "y"), ("group", "domain")
BATCH = 1024  # rows
ARRAYS = {  # of a folder: kinds of dtype, dimensions, description
    **dict.fromkeys(VECTORS, ("f", 2, "floats, a row a vector")),
    **dict.fromkeys(NAMES, ("Uiu", 1, "strings or integers, one a row")),
    "query": ("b", 1, "booleans, one a row"),
}


@dataclass(frozen=True)
class Pairs:
    """Row-aligned columns; a column that the files lack is None.

    Attributes:
        y: Target embeddings.
        x: Source embeddings.
        text: The texts that were embedded.
        group: What must not straddle a split: a document, a repository, a customer.
        domain: Origin of each pair, which a split may share: a collection, a website.
        query: In a test set, true for queries and false for the corpus.
    """

    y: Float[np.ndarray, "n d_out"]
    x: Float[np.ndarray, "n d_in"] | None = None
    text: list[str] | None = None
    group: list[str] | None = None
    domain: list[str] | None = None
    query: Bool[np.ndarray, " n"] | None = None


class _Stack:
    """Collects vectors in memory, or in a file of a scratch folder that is then memory-mapped."""

    def __init__(self, scratch: Path | None) -> None:
        self.file = None if scratch is None else scratch / f"{uuid4().hex}.f32"
        self.parts, self.shape = [], (0, 0)

    def extend(self, part: Float32[np.ndarray, "b d"]) -> None:
        """Append rows. They are written rather than mapped: mapped pages would stay in memory."""
        if self.file is None:
            self.parts.append(part)
        else:
            with self.file.open("ab") as file:
                file.write(np.ascontiguousarray(part).data)
        self.shape = (self.shape[0] + len(part), part.shape[1])

    def array(self) -> Float32[np.ndarray, "n d"]:
        """Return all rows."""
        if self.file is None or not self.shape[0]:
            return np.concatenate([np.zeros((0, self.shape[1]), np.float32), *self.parts])
        return np.memmap(self.file, np.float32, "r", shape=self.shape)


def stacked(parts: Iterable[Float32[np.ndarray, "b d"]], scratch: Path | None) -> Float32[np.ndarray, "n d"]:
    """Concatenate parts: in memory, or memory-mapped from a new file in the folder `scratch`."""
    stack = _Stack(scratch)
    for part in parts:
        stack.extend(part)
    return stack.array()


def read_pairs(
    paths: Sequence[Path],
    scratch: Path | None = None,
    columns: Columns | None = None,
    rules: Mapping[str, VectorRule] | None = None,
) -> Pairs:
    """Read pairs from files of the same columns, in the order given, or from one folder of arrays.

    The columns are y and (x or text), and optionally group, domain and query. Without a column y, the only column of
    vectors is y, or the one with a common name such as `embedding`; the text may be called `content` or `document`.

    A folder of arrays holds `y.npy` and `x.npy` (a row a vector; memory-mapped) or `text.txt` (a text a line), all
    row-aligned, and may hold `group.npy` and `domain.npy` (strings or integers) and `query.npy` (booleans).

    Args:
        paths: Files of any format or folders of them, or one folder of arrays.
        scratch: Folder for files that x and y are written to and memory-mapped from, for pairs larger than memory.
            The caller removes it. Vectors are read into memory if None.
        columns: Names of the columns; those that are None are found.
        rules: What the vectors of x and y must be: by default of one width, finite and not zero.

    Raises:
        BadInput: A file is missing, unreadable or of an unknown format; a column is missing or has another type; a
            value is null; a vector cannot be used. The message names the file, column and row.
    """
    rules = {name: (rules or {}).get(name) or VectorRule() for name in VECTORS}
    if not any((path / "y.npy").is_file() or (path / "text.txt").is_file() for path in paths if path.is_dir()):
        return _read_files(paths, scratch, columns or Columns(), rules)
    if len(paths) > 1:
        raise BadInput(f"A folder of arrays is read alone, not as one of {len(paths)} paths.")
    return _read_folder(paths[0], scratch, rules)


def write_pairs(path: Path, pairs: Pairs) -> None:
    """Write pairs as parquet with the columns that `read_pairs` reads."""
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(column.ravel(), column.shape[1]) if name in VECTORS else column
        for name in COLUMNS
        if (column := getattr(pairs, name)) is not None
    }
    parquet.write_table(pa.table(arrays), path)


def _read_files(paths: Sequence[Path], scratch: Path | None, columns: Columns, rules: dict[str, VectorRule]) -> Pairs:
    opened = [open_tables([path], hints=Hints(delimiter=columns.delimiter)) for path in paths]
    roles = [_pair_roles(tables, columns) for tables in opened]
    for path, role in zip(paths, roles, strict=True):
        if role.keys() != roles[0].keys():
            first = ", ".join(roles[0].values())
            raise BadInput(f"{path} has the columns {', '.join(role.values())}, but {paths[0]} has {first}.")
    return Pairs(**read_roles(opened, roles, rules, scratch))


def read_roles(
    opened: Sequence[Tables],
    roles: Sequence[Mapping[str, str]],
    rules: Mapping[str, VectorRule],
    scratch: Path | None = None,
) -> dict[str, Any]:
    """Read the columns of files by their roles.

    Args:
        opened: The files.
        roles: For each, the columns of the same roles: x and y are vectors, query booleans, text strings; group, domain
            and id are strings or integers.
        rules: What the vectors of x and y must be.
        scratch: Folder for vectors, as `read_pairs` takes it.

    Raises:
        BadInput: A value is null or of another type, a vector cannot be used, or a file has no rows.
    """
    values: dict[str, Any] = {name: _Stack(scratch) if name in VECTORS else [] for name in roles[0]}
    rules = dict(rules)
    for tables, role in zip(opened, roles, strict=True):
        scales = {name: scale_column(tables.schema, role[name]) for name in VECTORS if name in role}
        if not tables.rows:
            raise BadInput(f"{tables.files[0]} cannot be read: it has no rows.")
        for file, block in read_rows(tables.select([*role.values(), *filter(None, scales.values())]), BATCH):
            for name, column in role.items():
                where, array = f"{file}, column {column}", get_column(block.batch, column)
                if name in VECTORS:
                    scale = scales[name]
                    checked = check_vectors(array, rules[name], block.batch.column(scale) if scale else None)
                    part, reasons = checked.values, checked.reasons
                    rules[name] = rules[name].of_width(part.shape[1]) if len(part) else rules[name]
                else:
                    part = (to_flags if name == "query" else to_strings if name == "text" else to_labels)(array, where)
                    reasons = {part.index(None): NULL} if None in part else {}
                for row, why in reasons.items():
                    raise BadInput(f"{where}, row {block.rows[row]}: {why}.")
                if len(part):
                    values[name].extend(part)
    for name in set(VECTORS) & values.keys():
        values[name] = values[name].array()
    if "query" in values:
        values["query"] = np.asarray(values["query"], bool)
    return values


def _pair_roles(tables: Tables, columns: Columns) -> dict[str, str]:
    """Return the column of each role, known before any row is read."""
    schema = tables.schema
    text, x, y = find_named_columns(schema, columns)
    if y is None:
        others = [name for name in schema.names if name != x and is_vectors(schema.field(name).type)]
        y = tables.select(others).find(None, texts=False, argument="target_column") if others else None
    if y is None or (x is None and text is None):
        raise BadInput(f"{tables.files[0]} needs the columns y and (x or text); it has {', '.join(schema.names)}.")
    return find_roles(tables, {"text": text, "x": x, "y": y}, (*NAMES, "query"))


def find_named_columns(schema: pa.Schema, columns: Columns) -> tuple[str | None, str | None, str | None]:
    """Return the columns of text, x and y that are named by the user or by their usual names, without a search."""
    text = columns.text or next((name for name in TEXT_NAMES if name in schema.names), None)
    x = columns.source or ("x" if "x" in schema.names else None)
    return text, x, columns.target or ("y" if "y" in schema.names else None)


def find_roles(tables: Tables, named: Mapping[str, str | None], others: Sequence[str]) -> dict[str, str]:
    """Check the types of named columns, and add those of `others` that the file has."""
    arguments = {"text": "text_column", "x": "column", "y": "target_column"}
    roles = {
        role: tables.find(name, texts=role == "text", argument=arguments[role])
        for role, name in named.items()
        if name is not None
    }
    return roles | {name: name for name in others if name in tables.schema.names}


def _read_folder(folder: Path, scratch: Path | None, rules: Mapping[str, VectorRule]) -> Pairs:
    files = {name: folder / f"{name}.npy" for name in ARRAYS} | {"text": folder / "text.txt"}
    present = {name: file for name, file in files.items() if file.is_file()}
    if "y" not in present or not {"x", "text"} & present.keys():
        raise BadInput(f"{folder} needs y.npy and (x.npy or text.txt), to be a folder of pairs.")
    columns: dict[str, Any] = {}
    for name, file in present.items():
        columns[name] = _read_lines(file) if name == "text" else _array(file, *ARRAYS[name])
    if len({len(column) for column in columns.values()}) > 1:
        rows = ", ".join(f"{present[name].name} {len(column):,}" for name, column in columns.items())
        raise BadInput(f"{folder} holds columns of unequal length, which must be row-aligned: {rows}.")
    if not len(columns["y"]):
        raise BadInput(f"{folder} cannot be read: it has no rows.")
    for name in set(VECTORS) & columns.keys():
        columns[name] = _as_float32(columns[name], str(present[name]), scratch, rules[name])
    for name in set(NAMES) & columns.keys():
        columns[name] = [str(value) for value in columns[name].tolist()]
    return Pairs(**columns)


def _array(file: Path, kinds: str, dimensions: int, content: str) -> np.ndarray:
    """Memory-map the array of a .npy file. Pickled objects are refused."""
    try:
        array = np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read (pickled objects never are): {error}") from error
    if array.dtype.kind not in kinds or array.ndim != dimensions:
        raise BadInput(f"{file} holds {array.dtype} of shape {array.shape}; it must hold {content}.")
    return array


def _read_lines(file: Path) -> list[str]:
    return [text for _, block in read_rows(open_tables([file])) for text in block.batch.column(0).to_pylist()]


def _as_float32(
    array: Float[np.ndarray, "n d"], where: str, scratch: Path | None, rule: VectorRule
) -> Float32[np.ndarray, "n d"]:
    """Return the array itself if it can be used as it is, which takes no memory; else a converted copy."""
    blocks = [slice(row, row + BATCH) for row in range(0, len(array), BATCH)]
    converted = (require_rows(array[block], rule, where, block.start) for block in blocks)
    if array.dtype == np.float32 and array.flags.c_contiguous:
        if all(np.shares_memory(part, array) for part in converted):
            return array
        converted = (require_rows(array[block], rule, where, block.start) for block in blocks)
    return stacked(converted, scratch)
