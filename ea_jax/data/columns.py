"""Find columns by role, and convert Arrow columns to vectors and strings. Each unusable row gets a reason.

Shapes: `n` rows, `m` of them usable, `d` width.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool

from ea_jax.data import provenance
from ea_jax.data.blocks import view_to_list
from ea_jax.data.text_files import parse_json
from ea_jax.embeddings import VectorRule, check_rows
from ea_jax.errors import BadInput

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
NULL = "the value is null"
MAX_CHARACTERS = 1_000_000  # the encoder takes no more
VECTOR_NAMES = ("embedding", "embeddings", "vector", "vectors", "emb", "dense", "values")
TEXT_NAMES = ("text", "content", "document", "texts", "contents", "documents", "page_content", "chunk", "passage")


@dataclass(frozen=True)
class Columns:
    """Names of columns that the user gives. A column that is None is found by its type and its name.

    Attributes:
        source: Column of the source vectors.
        text: Column of the texts.
        target: Column of the target vectors.
        id: Column of the ids.
        delimiter: Delimiter of CSV files; detected if None.
    """

    source: str | None = None
    text: str | None = None
    target: str | None = None
    id: str | None = None
    delimiter: str | None = None


class Checked(NamedTuple):
    """The usable values of a column.

    Attributes:
        values: Vectors [m, d], or m texts, of the usable rows.
        good: [n], true for the usable rows.
        reasons: Why each other row cannot be used, by row number.
    """

    values: Any
    good: Bool[np.ndarray, " n"]
    reasons: dict[int, str]


def find_column(
    schema: pa.Schema, name: str | None, texts: bool, names: tuple[str, ...] = (), argument: str = "column"
) -> str:
    """Return the column of vectors or texts: the named one, the only one, or the one with a common name.

    Args:
        schema: The columns.
        name: The column; `a.b` is field `b` of column `a`. Found if None.
        texts: Whether to find texts or vectors.
        names: Names to prefer to the common ones.
        argument: The argument that names the column, for messages.

    Raises:
        BadInput: The column does not exist or has the wrong type, or several columns are suitable.
    """
    suitable, content = (is_text, "strings") if texts else (is_vectors, "vectors (lists of numbers)")
    if name is None:
        common = [*names, *(TEXT_NAMES if texts else VECTOR_NAMES)]
        fields = [field.name for field in schema if suitable(field.type)]
        named = [name for name in common if name in fields]
        matches = named[:1] if texts or set(named) & set(names) else named if len(fields) > 1 else fields
        matches = matches or (fields if len(fields) == 1 else [])
        if not fields:  # no type tells: a column with a common name holds encoded vectors, or the wrong type
            matches = [name for name in common if name in schema.names][:1]
        if len(matches) != 1:
            columns = ", ".join(f"{field.name} ({field.type})" for field in schema)
            if fields:
                raise BadInput(f"Several columns hold {content}: {', '.join(fields)}. Name one with `{argument}`.")
            raise BadInput(f"No column holds {content}; the columns are {columns}.")
        name = matches[0]
    kind = column_type(schema, name)
    if not suitable(kind) and not pa.types.is_null(kind) and (texts or not is_encoded(kind)):
        raise BadInput(f"Column {name} holds {kind}, not {content}. Name another with `{argument}`.")
    if not texts and pa.types.is_uint8(_innermost(kind)):
        raise BadInput(f"Column {name} holds uint8 codes, whose scale and offset are unknown. Convert them to floats.")
    return name


def column_type(schema: pa.Schema, name: str) -> pa.DataType:
    """Return the type of a column, or of a field `a.b` of a struct column."""
    top, *path = [name] if name in schema.names else name.split(".")
    if schema.names.count(top) != 1:
        raise BadInput(f"There is not exactly one column {top!r}; the columns are {', '.join(schema.names)}.")
    kind = schema.field(top).type
    for part in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            raise BadInput(f"Column {name} does not exist: {top} is {kind}, without a field {part!r}.")
        kind = kind.field(part).type
    return kind


def get_column(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column, or a field `a.b` of a struct column."""
    top, *path = [name] if name in batch.schema.names else name.split(".")
    column = batch.column(top)
    for part in path:
        column = pc.struct_field(column, part)
    return column


def scale_column(schema: pa.Schema, name: str) -> str | None:
    """Return the column of the scales of int8 vectors that ea_jax wrote; None for other vectors."""
    scale = f"{name}_scale"
    ours = provenance.read(schema) is not None and scale in schema.names
    return scale if ours and pa.types.is_int8(_innermost(column_type(schema, name))) else None


def is_vectors(kind: pa.DataType) -> bool:
    """Return whether a type holds vectors: lists or tensors of numbers, or lists of one such list."""
    kind = _plain_type(kind)
    return _is_list(kind) and (_is_number(kind.value_type) or is_vectors(kind.value_type))


def is_number_list(kind: pa.DataType) -> bool:
    """Return whether a type is a plain list of numbers, which needs no conversion."""
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return listed and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))


def is_encoded(kind: pa.DataType) -> bool:
    """Return whether a type may hold vectors as text or bytes."""
    kind = _plain_type(kind)
    return is_text(kind) or pa.types.is_fixed_size_binary(kind) or kind in (pa.binary(), pa.large_binary(), pa.null())


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type holds strings."""
    return _plain_type(kind) in (pa.string(), pa.large_string(), pa.string_view())


def _is_list(kind: pa.DataType) -> bool:
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in (*tests, pa.types.is_list_view, pa.types.is_large_list_view))


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)


def _innermost(kind: pa.DataType) -> pa.DataType:
    kind = _plain_type(kind)
    return _innermost(kind.value_type) if _is_list(kind) else kind


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(column: pa.Array) -> pa.Array:
    """Decode dictionaries, and replace extension types by their storage and views by lists and strings."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    return column.cast(pa.string()) if column.type == pa.string_view() else view_to_list(column)


def check_vectors(column: pa.Array, rule: VectorRule, scale: pa.Array | None = None) -> Checked:
    """Convert a column to vectors of one width, finite and not zero, and of unit length if the rule says so.

    Args:
        column: Lists of numbers; lists of one such list; vectors as text, such as `[1, 2]` or `{1,2}`; or float32 or
            float16 numbers as little-endian bytes, also in base64.
        rule: What the vectors must be.
        scale: Numbers to multiply each row by.
    """
    column, reasons = _to_lists(_plain(column), rule.width)
    lengths = column.value_lengths().fill_null(-1).to_numpy(zero_copy_only=False)
    width = rule.width or int(next(iter(lengths[lengths > 0]), 0))
    good = (lengths == width) & (lengths > 0)
    for row in np.flatnonzero(~good).tolist():
        reasons.setdefault(row, NULL if lengths[row] < 0 else rule.width_error(int(lengths[row]), width))
    numbers = (column if good.all() else column.filter(pa.array(good))).flatten()
    if numbers.null_count or pa.types.is_decimal(numbers.type):
        numbers = numbers.cast(pa.float64()).fill_null(float("nan"))
    with np.errstate(over="ignore"):
        x = numbers.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(int(good.sum()), width)
    at = np.flatnonzero(good)
    if scale is not None:
        x = x * scale.fill_null(float("nan")).to_numpy(zero_copy_only=False).astype(np.float32)[at, None]
    x, unusable = check_rows(x, rule)
    if unusable:
        keep = np.ones(len(x), bool)
        keep[list(unusable)] = False
        good[at[~keep]], x = False, x[keep]
        reasons |= {int(at[row]): why for row, why in unusable.items()}
    return Checked(x, good, dict(sorted(reasons.items())))


def _to_lists(column: pa.Array, width: int | None) -> tuple[pa.Array, dict[int, str]]:
    """Convert a plain column to lists of numbers, null where a value cannot be read, with the reasons."""
    kind = column.type
    if pa.types.is_null(kind):
        return column.cast(pa.list_(pa.float32())), {}
    if is_text(kind):
        return _parse_texts(column, width)
    if not _is_list(kind):
        return _parse_bytes(column.cast(pa.large_binary()), width)
    if not _is_list(kind.value_type):
        return column, {}
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    first = np.cumsum(lengths) - lengths
    reasons = {int(row): f"the row holds {lengths[row]} vectors, not one" for row in np.flatnonzero(lengths > 1)}
    inner, more = _to_lists(_plain(column.flatten().take(pa.array(first, mask=lengths != 1))), width)
    return inner, more | reasons


def _parse_texts(column: pa.Array, width: int | None) -> tuple[pa.Array, dict[int, str]]:
    """Parse vectors as text: JSON lists (also of pgvector), arrays of Postgres, or base64."""
    texts = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
    texts = pc.replace_substring_regex(texts, r"(?s)^\{(.*)\}$", r"[\1]")
    lost = pc.match_substring(texts, "...")
    numeric = pc.match_substring_regex(texts, r'^\[[^\[\]{}"]*\]$')
    listed = pc.and_(numeric, pc.invert(lost)).fill_null(False).to_numpy(zero_copy_only=False)
    reasons = {int(row): "the text holds '...': its numbers were lost when it was written" for row in _true(lost)}
    rows, kind = np.flatnonzero(listed), pa.list_(pa.float64())
    lines = pc.replace_substring_regex(texts.filter(pa.array(listed)), r"\s", " ")
    objects = "\n".join(f'{{"v": {line}}}' for line in lines.to_pylist())
    table, bad = parse_json(objects.encode(), pa.schema({"v": kind}))
    reasons |= {int(rows[row]): "the text is not a list of numbers" for row in bad}
    vectors = pa.concat_arrays([*table.column("v").chunks, pa.array([], kind)])
    at = np.zeros(len(texts), np.int64)
    at[np.delete(rows, list(bad))] = np.arange(1, len(vectors) + 1)
    vectors = vectors.take(pa.array(at - 1, mask=at == 0))
    others = ~listed & texts.is_valid().to_numpy(zero_copy_only=False)
    others[_true(lost)] = False
    if not others.any():
        return vectors, reasons
    content = [_from_base64(text) if other else None for text, other in zip(texts.to_pylist(), others, strict=True)]
    decoded, sizes = _parse_bytes(pa.array(content, pa.large_binary()), width)
    unreadable = others & ~decoded.is_valid().to_numpy(zero_copy_only=False)
    for row in np.flatnonzero(unreadable).tolist():
        reasons[row] = sizes.get(row, "the text is neither a list of numbers nor base64 of them")
    return pc.coalesce(vectors, decoded.cast(kind)), reasons


def _true(mask: pa.Array) -> list[int]:
    return np.flatnonzero(mask.fill_null(False).to_numpy(zero_copy_only=False)).tolist()


def _from_base64(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _parse_bytes(column: pa.Array, width: int | None) -> tuple[pa.Array, dict[int, str]]:
    """Read vectors as bytes: 4 a number for little-endian float32, or 2 for float16."""
    sizes = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    d = width or int(next((size // 4 for size in sizes if size), 0))
    if not d:
        return pa.nulls(len(column), pa.list_(pa.float32())), {}
    x, valid = np.zeros((len(column), d), np.float32), np.zeros(len(column), bool)
    for dtype in ("<f4", "<f2"):
        rows = (sizes == d * np.dtype(dtype).itemsize) & (sizes > 0)
        x[rows], valid = np.frombuffer(_content(column.filter(pa.array(rows))), dtype).reshape(-1, d), valid | rows
    reasons = {
        int(row): f"the value has {sizes[row]} bytes; a vector of width {d} takes {4 * d} or {2 * d}"
        for row in np.flatnonzero(~valid & (sizes > 0))
    }
    return pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), d, mask=pa.array(~valid)), reasons


def _content(column: pa.Array) -> bytes | memoryview:
    """Return the bytes of all rows, none of which is null."""
    _, offsets, content = column.buffers()
    if not len(column):
        return b""
    ends = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return memoryview(content)[ends[0] : ends[-1]]


def check_texts(column: pa.Array) -> Checked:
    """Check that each text is not null and not too long for an encoder."""
    texts = _plain(column).to_pylist()
    reasons = {}
    for row, text in enumerate(texts):
        if text is None:
            reasons[row] = NULL
        elif len(text) > MAX_CHARACTERS:
            reasons[row] = f"the text has {len(text):,} characters; split texts of more than {MAX_CHARACTERS:,}"
    good = np.ones(len(texts), bool)
    good[list(reasons)] = False
    return Checked([text for row, text in enumerate(texts) if row not in reasons], good, reasons)


def to_strings(column: pa.Array, where: str = "The column") -> list[str | None]:
    """Convert a column to strings.

    Raises:
        BadInput: The column holds other values.
    """
    column = _plain(column)
    if not (is_text(column.type) or pa.types.is_null(column.type)):
        raise BadInput(f"{where} holds {column.type}; it must hold strings.")
    return column.to_pylist()


def to_labels(column: pa.Array, where: str) -> list[str | None]:
    """Convert strings or integers to strings.

    Raises:
        BadInput: The column holds other values.
    """
    column = _plain(column)
    if pa.types.is_null(column.type) or is_text(column.type):
        return column.to_pylist()
    if not pa.types.is_integer(column.type):
        raise BadInput(f"{where} holds {column.type}; it must hold strings or integers.")
    return column.cast(pa.string()).to_pylist()


def to_flags(column: pa.Array, where: str) -> list[bool | None]:
    """Convert booleans, or the texts `true`, `false`, `1` and `0`, to booleans.

    Raises:
        BadInput: The column holds other values.
    """
    column = _plain(column)
    if is_text(column.type):
        try:
            column = column.cast(pa.bool_())
        except pa.ArrowInvalid as error:
            raise BadInput(f"{where} holds text that is neither true nor false.") from error
    if not pa.types.is_boolean(column.type):
        raise BadInput(f"{where} holds {column.type}; it must hold booleans.")
    return column.to_pylist()
