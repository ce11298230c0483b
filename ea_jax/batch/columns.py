"""Convert Arrow columns to arrays and back. Each row that cannot be used gets a reason; no value is changed.

Shapes: `n` rows, `m` of them good, `d` width.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Shaped

from ea_jax.errors import BadInput

NULL = "the value is null"
NOT_FINITE = "a number of the vector is null, not finite or too large for float32"
ZERO = "the vector is zero"
MAX_CHARACTERS = 1_000_000  # the encoder takes no more


class Checked(NamedTuple):
    """The usable values of a column.

    Attributes:
        values: Vectors [m, d], or m texts, of the good rows.
        good: [n], true for the good rows.
        reasons: Why each other row cannot be used, by row number.
    """

    values: Float32[np.ndarray, "m d"] | list[str]
    good: Bool[np.ndarray, " n"]
    reasons: dict[int, str]


def is_vectors(kind: pa.DataType) -> bool:
    """Return whether a type can hold vectors: any list of numbers."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def is_texts(kind: pa.DataType) -> bool:
    """Return whether a type holds strings."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def check_vectors(column: pa.Array, width: int) -> Checked:
    """Check that each vector has the width, is finite and is not zero. Good rows become float32."""
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
        reasons |= {int(at[i]): ZERO if squares[i] == 0 else NOT_FINITE for i in np.flatnonzero(~fine)}
        good[at[~fine]] = False
        x = x[fine]
    return Checked(x, good, dict(sorted(reasons.items())))


def check_texts(column: pa.Array) -> Checked:
    """Check that each text is not null and not too long for an encoder."""
    texts = column.to_pylist()
    reasons = {}
    for row, text in enumerate(texts):
        if text is None:
            reasons[row] = NULL
        elif len(text) > MAX_CHARACTERS:
            reasons[row] = f"the text has {len(text):,} characters; split those of more than {MAX_CHARACTERS:,}"
    good = np.ones(len(texts), bool)
    good[list(reasons)] = False
    return Checked([text for row, text in enumerate(texts) if row not in reasons], good, reasons)


def vector_type(dtype: str, width: int) -> pa.DataType:
    """Return the type of a column of vectors: fixed-size lists of float32, float16 or int8."""
    return pa.list_(pa.field("element", pa.type_for_alias(dtype if dtype != "float16" else "halffloat")), width)


def vectors_to_column(y: Shaped[np.ndarray, "m d"], has_value: Bool[np.ndarray, " n"], kind: pa.DataType) -> pa.Array:
    """Make a column of vectors, null where a row has no value."""
    if has_value.all():
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(y).ravel()), type=kind)
    full = np.zeros((len(has_value), y.shape[1]), y.dtype)
    full[has_value] = y
    return pa.FixedSizeListArray.from_arrays(pa.array(full.ravel()), type=kind, mask=pa.array(~has_value))


def floats_to_column(values: Float32[np.ndarray, " m"], has_value: Bool[np.ndarray, " n"]) -> pa.Array:
    """Make a float32 column, null where a row has no value."""
    full = np.zeros(len(has_value), np.float32)
    full[has_value] = values
    return pa.array(full, mask=~has_value)


def find_column(schema: pa.Schema, name: str | None, texts: bool) -> str:
    """Return the column to map: the named one, or the only one of a suitable type.

    Raises:
        BadInput: The column does not exist or has the wrong type, or several columns are suitable.
    """
    is_suitable, content = (is_texts, "strings") if texts else (is_vectors, "lists of numbers")
    suitable = [field.name for field in schema if is_suitable(field.type)]
    if texts and name is None and "text" in suitable:
        name = "text"
    if name is None and len(suitable) == 1:
        name = suitable[0]
    if name is None:
        if suitable:
            raise BadInput(f"Several columns hold {content}: {', '.join(suitable)}. Name one with `column`.")
        raise BadInput(f"No column holds {content}; the columns are {', '.join(schema.names)}.")
    if schema.names.count(name) != 1:
        raise BadInput(f"There is not exactly one column {name!r}; the columns are {', '.join(schema.names)}.")
    if not is_suitable(schema.field(name).type):
        raise BadInput(f"Column {name} holds {schema.field(name).type}, not {content}. Name another with `column`.")
    return name
