"""Columns of Arrow to arrays and back. A row that no adapter can take gets a reason; nothing is changed or guessed.

Shapes: `n` rows, of which `m` are good, `d` width.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Shaped

from ea_jax.errors import BadInput

NULL = "the value is null"
UNFINITE = "a number of the vector is null, not finite or too large for float32"
ZERO = "the vector is zero"
LONGEST = 1_000_000  # characters, as the encoder takes them


class Checked(NamedTuple):
    """What a column holds for the device.

    Attributes:
        values: float32 [m, d], or the m texts, of the good rows.
        good: [n], which rows these are.
        reasons: Why each other row is none of them, by its number in the column.
    """

    values: Float32[np.ndarray, "m d"] | list[str]
    good: Bool[np.ndarray, " n"]
    reasons: dict[int, str]


def is_vectors(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold vectors: any list of numbers."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def is_texts(kind: pa.DataType) -> bool:
    """Whether a column of this type holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def check_vectors(column: pa.Array, width: int) -> Checked:
    """Vectors as float32: neither null, of another width, zero nor with a number that is not finite."""
    lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    good = lengths == width
    reasons = {
        int(row): NULL if lengths[row] < 0 else f"the vector has width {lengths[row]}, the adapter takes {width}"
        for row in np.flatnonzero(~good)
    }
    numbers = (column if good.all() else column.filter(pa.array(good))).flatten()
    if numbers.null_count:
        numbers = numbers.cast(pa.float64()).fill_null(float("nan"))
    with np.errstate(over="ignore", invalid="ignore"):
        x = numbers.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(-1, width)
        squares = np.einsum("nd,nd->n", x, x)
    fine = np.isfinite(squares) & (squares > 0)
    if not fine.all():
        at = np.flatnonzero(good)
        reasons |= {int(at[i]): ZERO if squares[i] == 0 else UNFINITE for i in np.flatnonzero(~fine)}
        good[at[~fine]] = False
        x = x[fine]
    return Checked(x, good, dict(sorted(reasons.items())))


def check_texts(column: pa.Array) -> Checked:
    """Texts that an encoder can take: neither null nor endless."""
    texts = column.to_pylist()
    reasons = {}
    for row, text in enumerate(texts):
        if text is None:
            reasons[row] = NULL
        elif len(text) > LONGEST:
            reasons[row] = f"the text has {len(text):,} characters; split those of more than {LONGEST:,}"
    good = np.ones(len(texts), bool)
    good[list(reasons)] = False
    return Checked([text for row, text in enumerate(texts) if row not in reasons], good, reasons)


def vector_type(dtype: str, width: int) -> pa.DataType:
    """Fixed-size lists of float32, float16 or int8."""
    return pa.list_(pa.field("element", pa.type_for_alias(dtype if dtype != "float16" else "halffloat")), width)


def to_column(y: Shaped[np.ndarray, "m d"], there: Bool[np.ndarray, " n"], kind: pa.DataType) -> pa.Array:
    """Vectors as a column in which the rows that are not there are null."""
    if there.all():
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(y).ravel()), type=kind)
    spread = np.zeros((len(there), y.shape[1]), y.dtype)
    spread[there] = y
    return pa.FixedSizeListArray.from_arrays(pa.array(spread.ravel()), type=kind, mask=pa.array(~there))


def numbers_column(values: Float32[np.ndarray, " m"], there: Bool[np.ndarray, " n"]) -> pa.Array:
    """Numbers as a float32 column in which the rows that are not there are null."""
    spread = np.zeros(len(there), np.float32)
    spread[there] = values
    return pa.array(spread, mask=~there)


def find_column(schema: pa.Schema, name: str | None, texts: bool) -> str:
    """The column to map: the named one, or the only one that could be meant.

    Raises:
        BadInput: There is none of the name or the kind, or several.
    """
    fits, wanted = (is_texts, "strings") if texts else (is_vectors, "lists of numbers")
    fitting = [field.name for field in schema if fits(field.type)]
    if texts and name is None and "text" in fitting:
        name = "text"
    if name is None and len(fitting) == 1:
        name = fitting[0]
    if name is None:
        found = f"several, {', '.join(fitting)}" if fitting else f"none among {', '.join(schema.names)}"
        raise BadInput(f"A column of {wanted} is wanted, and there is {found}. --column names the one to map.")
    if schema.names.count(name) != 1:
        raise BadInput(f"There is no one column {name!r} among {', '.join(schema.names)}. --column names another.")
    if not fits(schema.field(name).type):
        raise BadInput(f"Column {name} holds {schema.field(name).type}, not {wanted}. --column names another.")
    return name
