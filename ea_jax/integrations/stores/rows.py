"""Conversion between an engine's rows and Arrow: field names, payloads, and the checks that all engines share."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from ea_jax.errors import BadInput, Conflict, UnknownName, suggest_names
from ea_jax.integrations.stores.protocol import Column, Description, IdType

# Names that clients, LangChain and LlamaIndex write, the most specific first.
ID_FIELDS = ("id", "langchain_id", "pk", "_id", "node_id", "uuid")
TEXT_FIELDS = ("text", "page_content", "document", "content", "chunk", "body", "_node_content")
VECTOR_FIELDS = ("vector", "embedding", "text_embedding", "embeddings", "dense", "")
PAYLOAD_FIELDS = ("metadata", "payload", "cmetadata", "langchain_metadata", "metadata_")
NODE = "_node_content"  # LlamaIndex stores a node as JSON that includes its text

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


def pick_field(
    kind: str, requested: str | None, defaults: Iterable[str], available: Sequence[str], where: str
) -> str | None:
    """Return the requested field, or the first default that is available, or None.

    Args:
        kind: Kind of field, for the error message: id, text, vector or payload.
        requested: Name from the URL; None to try the defaults.
        defaults: Usual names of such a field, in order of preference.
        available: Fields of the store.
        where: The store, for the error message.

    Raises:
        BadInput: The requested field does not exist.
    """
    if requested is None:
        return next((name for name in defaults if name in available), None)
    if requested not in available:
        raise BadInput(
            f"{where} has no {kind} field {requested!r}. {suggest_names(requested, filter(None, available))}"
        )
    return requested


def pick_vector(requested: str | None, available: Sequence[str], where: str) -> str:
    """Return the requested vector field, the only one, or the first with a usual name.

    Raises:
        BadInput: The store has no vector field, or several without usual names.
    """
    if requested is None and len(available) == 1:
        return available[0]
    if requested and tuple(available) == ("",):
        raise BadInput(f"{where} has no vector field {requested!r}, but one vector without a name. Omit ?vector=.")
    name = pick_field("vector", requested, VECTOR_FIELDS, available, where)
    if name is None:
        problem = f"several vector fields: {', '.join(available)}. Name one: ?vector=" if available else "no vectors."
        raise BadInput(f"{where} has {problem}")
    return name


def unknown_collection(kind: str, name: str, known: Iterable[str], where: str) -> UnknownName:
    """Return the error for a collection or table that does not exist."""
    return UnknownName(f"{where} has no {kind} {name!r}. {suggest_names(name, known)}")


def dump_payload(payload: dict[str, Any]) -> str | None:
    """Write a payload as JSON; None if it is empty. Values of types that JSON lacks become strings."""
    return json.dumps(payload, ensure_ascii=False, default=str) if payload else None


def parse_payload(text: Any) -> dict[str, Any]:
    """Invert `dump_payload`. A JSON value that is not an object becomes the value of the key `payload`."""
    if text is None or text == "":
        return {}
    value = json.loads(text) if isinstance(text, str | bytes) else text
    return value if isinstance(value, dict) else {"payload": value}


def normalize_payload(text: str | None) -> str | None:
    """Return `dump_payload(parse_payload(text))`, without parsing what already is a JSON object."""
    if text is not None and text.startswith("{"):
        return text if text != "{}" else None
    return dump_payload(parse_payload(text))


def split_text(payload: dict[str, Any], field: str | None) -> tuple[str | None, dict[str, Any]]:
    """Return the text of a row, and the payload without it. A LlamaIndex node stays in the payload unchanged."""
    if field is None or payload.get(field) is None:
        return None, payload
    if field == NODE:
        return json.loads(payload[NODE]).get("text") or None, payload
    return str(payload[field]), {key: value for key, value in payload.items() if key != field}


def join_text(payload: dict[str, Any], field: str, text: str | None) -> dict[str, Any]:
    """Invert `split_text`."""
    return payload if field == NODE or text is None else {**payload, field: text}


def make_record_batch(
    columns: Sequence[Column],
    ids: Sequence[Any],
    texts: Sequence[str | None] = (),
    vectors: Any = (),
    payloads: Sequence[str | None] = (),
    *,
    where: str,
) -> pa.RecordBatch:
    """Make a record batch with the columns of `protocol.py`.

    Args:
        columns: Columns to include besides the ids; the other arguments are ignored.
        ids: Id of each row; converted to a string.
        texts: Text of each row, or None.
        vectors: An array [n, d], or a sequence of n arrays [d] or None.
        payloads: JSON object of each row, or None.
        where: The store, for the error message.

    Raises:
        BadInput: The vectors have several widths.
    """
    ids = [str(i) for i in ids]
    arrays: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
    if "text" in columns:
        arrays["text"] = pa.array(texts, pa.string())
    if "vector" in columns:
        arrays["vector"] = _vector_array(ids, vectors, where)
    if "payload" in columns:
        arrays["payload"] = pa.array(payloads, pa.string())
    return pa.RecordBatch.from_pydict(arrays)


def _vector_array(ids: Sequence[str], vectors: Any, where: str) -> pa.FixedSizeListArray:
    if isinstance(vectors, np.ndarray) and vectors.ndim == 2:
        values = np.ascontiguousarray(vectors, np.float32)
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    rows = [None if v is None else np.asarray(v, np.float32) for v in vectors]
    width = next((len(v) for v in rows if v is not None), 0)
    for i, v in zip(ids, rows, strict=True):
        if v is not None and len(v) != width:
            raise BadInput(
                f"{where}: row {i!r} has a vector of width {len(v)} among vectors of width {width}. "
                "Several models made them; keep one model's vectors in a field."
            )
    missing = np.array([v is None for v in rows], bool)
    values = np.zeros((len(rows), width), np.float32)
    for k, v in enumerate(rows):
        if v is not None:
            values[k] = v
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=mask)


def vectors_to_numpy(rows: pa.RecordBatch) -> Float32[np.ndarray, "n d"]:
    """Return the vectors of a batch without nulls, without a copy if Arrow allows."""
    column = rows.column("vector")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), column.type.list_size)


def check_rows(rows: pa.RecordBatch, needs: Sequence[Column], width: int | None, where: str) -> None:
    """Check a batch before it is written.

    Raises:
        BadInput: A column or an id is missing, an id occurs twice, or a vector is missing, not finite or of another
            width than the store.
    """
    missing = [name for name in needs if name not in rows.schema.names]
    if missing:
        raise BadInput(f"Rows for {where} have no column {missing[0]!r}. Required: {', '.join(needs)}.")
    ids = rows.column("id").to_pylist()
    if None in ids:
        raise BadInput(f"A row for {where} has no id.")
    if len(set(ids)) < len(ids):
        repeated = next(i for i in ids if ids.count(i) > 1)
        raise BadInput(f"Rows for {where} have the id {repeated!r} twice. Give each row a unique id.")
    column = rows.column("vector")
    if not pa.types.is_fixed_size_list(column.type) or column.type.value_type != pa.float32():
        raise BadInput(f"Vectors for {where} are {column.type}; they must be fixed-size lists of float32.")
    if column.null_count:
        incomplete = ids[column.is_null().to_pylist().index(True)]
        raise BadInput(f"Row {incomplete!r} for {where} has no vector.")
    if width is not None and column.type.list_size != width:
        raise BadInput(
            f"Vectors for {where} have width {column.type.list_size}, but the store's vectors have width {width}."
        )
    finite = np.isfinite(vectors_to_numpy(rows)).all(1)
    if not finite.all():
        raise BadInput(f"Row {ids[int(finite.argmin())]!r} for {where} has a vector that is not finite.")


def parse_integer_ids(ids: Iterable[str], where: str) -> list[int]:
    """Convert ids for an engine with integer ids.

    Raises:
        BadInput: An id is not an integer.
    """
    try:
        return [int(i) for i in ids]
    except ValueError as error:
        raise BadInput(f"{where} has integer ids: {error}. Write to a store whose ids are strings.") from error


def infer_id_type(ids: Sequence[str]) -> IdType:
    """Return the narrowest type that fits all ids."""
    if ids and all(i.isdecimal() for i in ids):
        return "integer"
    if ids and all(_UUID.fullmatch(i) for i in ids):
        return "uuid"
    return "integer or uuid" if ids and all(i.isdecimal() or _UUID.fullmatch(i) for i in ids) else "string"


def check_columns(columns: Sequence[str], batch_rows: int) -> None:
    """Check the arguments of `read`.

    Raises:
        BadInput: A column does not exist, or `batch_rows` is less than 1.
    """
    wrong = [name for name in columns if name not in get_args(Column)]
    if wrong:
        raise BadInput(f"{wrong[0]!r} is not a column. {suggest_names(wrong[0], get_args(Column))}")
    if batch_rows < 1:
        raise BadInput(f"batch_rows is {batch_rows}; it must be at least 1.")


def check_width(requested: int, width: int | None, where: str) -> None:
    """Check the width of a store that may have existed before.

    Raises:
        Conflict: The store holds vectors of another width than the requested one.
    """
    if width is not None and requested != width:
        raise Conflict(f"{where} exists and holds vectors of width {width}, not {requested}. Choose another name.")


def check_widths(description: Description) -> None:
    """Check that all vectors of a store have one width.

    Raises:
        BadInput: They have several.
    """
    if description.other_widths:
        widths = ", ".join(map(str, sorted({description.width, *description.other_widths} - {None})))
        raise BadInput(f"{description.url} holds vectors of the widths {widths}. Keep one model's vectors in a field.")


def split_range(n: int, size: int) -> Iterator[slice]:
    """Split n rows into slices of at most `size` rows."""
    return (slice(start, start + size) for start in range(0, n, size))
