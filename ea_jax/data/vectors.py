"""Vectors alone in a file: `.npy`, or a column of parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float32
from pyarrow import parquet

from ea_jax.data import provenance
from ea_jax.errors import BadInput

KINDS = (".npy", ".parquet")


def read_vectors(path: Path, column: str = "x") -> Float32[np.ndarray, "n d"]:
    """All vectors of a file, in float32.

    Args:
        path: A `.npy` file of floats in two dimensions, or a parquet file.
        column: Of a parquet file: fixed-size or variable lists of floats.

    Raises:
        BadInput: The file is missing, unreadable or of another kind, or a vector is null, not finite or of another
            width than the first. The message names the file and the row.
    """
    if path.suffix not in KINDS:
        raise BadInput(f"{path} is no file of vectors: {' or '.join(KINDS)} is.")
    try:
        found = np.load(path, allow_pickle=False) if path.suffix == ".npy" else _column(path, column)
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error
    if found.ndim != 2 or found.dtype.kind != "f" or not len(found):
        raise BadInput(f"{path} holds {found.dtype} of shape {found.shape}; vectors are floats, a row a vector.")
    found = found.astype(np.float32, copy=False)
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        raise BadInput(f"{path}, row {int(bad.argmax())}: the vector is not finite.")
    return found


def encoder_facts(path: Path, column: str = "x") -> dict[str, Any] | None:
    """What a parquet file says of the encoder of its vectors (`provenance.encoder_of`); None where it says nothing.

    Args:
        path: A file of any kind, or a folder.
        column: Where the vectors are; a file without it says nothing.

    Raises:
        BadInput: The file is unreadable, or says what are no facts.
    """
    if path.suffix != ".parquet":
        return None
    try:
        schema = parquet.read_schema(path)
        return provenance.encoder_of(schema) if column in schema.names else None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path} cannot be read: {error}.") from error


def _column(path: Path, name: str) -> np.ndarray:
    table = parquet.read_table(path)
    if name not in table.schema.names:
        raise BadInput(f"{path} has no column {name!r}; it has {', '.join(table.schema.names)}.")
    lists = table.column(name).combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks)
    if not isinstance(lists, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        raise BadInput(f"{path}, column {name}: {lists.type} where lists of floats are wanted.")
    if lists.null_count:
        raise BadInput(f"{path}, column {name}, row {lists.is_null().to_pylist().index(True)}: the value is null.")
    widths = lists.value_lengths().to_numpy(zero_copy_only=False)
    if len(widths) and (widths != widths[0]).any():
        row = int((widths != widths[0]).argmax())
        raise BadInput(f"{path}, column {name}, row {row}: width {widths[row]}, where row 0 has {widths[0]}.")
    return lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
