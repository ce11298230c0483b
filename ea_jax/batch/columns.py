"""Make the columns of a job's output.

Shapes: `n` rows, `m` of them with a value, `d` width.
"""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Shaped


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
