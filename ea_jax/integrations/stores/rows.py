"""Rows between an engine and Arrow: field names, payloads, and the checks that every engine makes."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Float32

from ea_jax.errors import BadInput, UnknownName, suggest_names
from ea_jax.integrations.stores.protocol import Column, IdType

# What clients, LangChain and LlamaIndex write, the most telling names first.
ID_FIELDS = ("id", "langchain_id", "pk", "_id", "node_id", "uuid")
TEXT_FIELDS = ("text", "page_content", "document", "content", "chunk", "body", "_node_content")
VECTOR_FIELDS = ("vector", "embedding", "text_embedding", "embeddings", "dense", "")
PAYLOAD_FIELDS = ("metadata", "payload", "cmetadata", "langchain_metadata", "metadata_")
NODE = "_node_content"  # LlamaIndex keeps a node as JSON, its text inside

_UUID = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")


def pick_field(kind: str, given: str | None, usual: Iterable[str], available: Sequence[str], where: str) -> str | None:
    """The field that is given, or the first usual one there is; None if there is none.

    Raises:
        BadInput: The given field is not there.
    """
    if given is None:
        return next((name for name in usual if name in available), None)
    if given not in available:
        raise BadInput(f"{where} has no {kind} field {given!r}. {suggest_names(given, filter(None, available))}")
    return given


def pick_vector(given: str | None, available: Sequence[str], where: str) -> str:
    """The vector field that is given, the only one, or the first with a usual name.

    Raises:
        BadInput: There is none, or several and none with a usual name.
    """
    if given is None and len(available) == 1:
        return available[0]
    name = pick_field("vector", given, VECTOR_FIELDS, available, where)
    if name is None:
        several = f"several vector fields: {', '.join(available)}. Name one: ?vector=" if available else "no vectors."
        raise BadInput(f"{where} has {several}")
    return name


def no_collection(kind: str, name: str, known: Iterable[str], where: str) -> UnknownName:
    """The error for a collection or table that is not there."""
    return UnknownName(f"{where} has no {kind} {name!r}. {suggest_names(name, known)}")


def payload_json(payload: dict[str, Any]) -> str | None:
    """A payload as JSON; None for an empty one. What JSON has no type for becomes a string."""
    return json.dumps(payload, ensure_ascii=False, default=str) if payload else None


def parse_payload(text: Any) -> dict[str, Any]:
    """The inverse of `payload_json`; a JSON value that is no object is kept under `payload`."""
    if text is None or text == "":
        return {}
    value = json.loads(text) if isinstance(text, str | bytes) else text
    return value if isinstance(value, dict) else {"payload": value}


def split_text(payload: dict[str, Any], field: str | None) -> tuple[str | None, dict[str, Any]]:
    """A row's text, and the payload without it. A LlamaIndex node stays in the payload whole."""
    if field is None or payload.get(field) is None:
        return None, payload
    if field == NODE:
        return json.loads(payload[NODE]).get("text") or None, payload
    return str(payload[field]), {key: value for key, value in payload.items() if key != field}


def join_text(payload: dict[str, Any], field: str, text: str | None) -> dict[str, Any]:
    """The inverse of `split_text`."""
    return payload if field == NODE or text is None else {**payload, field: text}


def record_batch(
    columns: Sequence[Column],
    ids: Sequence[Any],
    texts: Sequence[str | None] = (),
    vectors: Any = (),
    payloads: Sequence[str | None] = (),
    *,
    where: str,
) -> pa.RecordBatch:
    """A record batch of the protocol.

    Args:
        columns: Which of the other arguments are meant.
        vectors: An array [n, d], or n arrays [d] of which some may be None.
        where: The store, for errors.

    Raises:
        BadInput: Vectors of several widths.
    """
    ids = [str(i) for i in ids]
    made: dict[str, pa.Array] = {"id": pa.array(ids, pa.string())}
    if "text" in columns:
        made["text"] = pa.array(texts, pa.string())
    if "vector" in columns:
        made["vector"] = _vector_array(ids, vectors, where)
    if "payload" in columns:
        made["payload"] = pa.array(payloads, pa.string())
    return pa.RecordBatch.from_pydict(made)


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
                "Several models wrote here; keep one model's vectors in a field."
            )
    missing = np.array([v is None for v in rows], bool)
    values = np.zeros((len(rows), width), np.float32)
    for k, v in enumerate(rows):
        if v is not None:
            values[k] = v
    mask = pa.array(missing) if missing.any() else None
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width, mask=mask)


def vectors_of(rows: pa.RecordBatch) -> Float32[np.ndarray, "n d"]:
    """The vectors of a batch in which none is missing, without a copy where Arrow allows."""
    column = rows.column("vector")
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), column.type.list_size)


def check_rows(rows: pa.RecordBatch, needs: Sequence[Column], width: int | None, where: str) -> None:
    """Check what a store is about to write.

    Raises:
        BadInput: A column or an id is missing, an id occurs twice, or a vector is missing, not finite or of
            another width than the store's.
    """
    absent = [name for name in needs if name not in rows.schema.names]
    if absent:
        raise BadInput(f"Rows for {where} have no column {absent[0]!r}. They need {', '.join(needs)}.")
    ids = rows.column("id").to_pylist()
    if None in ids:
        raise BadInput(f"A row for {where} has no id.")
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise BadInput(f"Rows for {where} have the id {twice!r} twice. Give each row its own id.")
    column = rows.column("vector")
    if not pa.types.is_fixed_size_list(column.type) or column.type.value_type != pa.float32():
        raise BadInput(f"Vectors for {where} are {column.type}; they must be fixed-size lists of float32.")
    if column.null_count:
        lone = ids[column.is_null().to_pylist().index(True)]
        raise BadInput(f"Row {lone!r} for {where} has no vector.")
    if width is not None and column.type.list_size != width:
        raise BadInput(f"Vectors for {where} have width {column.type.list_size}, but the store's have {width}.")
    finite = np.isfinite(vectors_of(rows)).all(1)
    if not finite.all():
        raise BadInput(f"Row {ids[int(finite.argmin())]!r} for {where} has a vector that is not finite.")


def integer_ids(ids: Iterable[str], where: str) -> list[int]:
    """Ids of an engine that has integers only.

    Raises:
        BadInput: An id is no integer.
    """
    try:
        return [int(i) for i in ids]
    except ValueError as error:
        raise BadInput(f"{where} has integer ids: {error}. Write to a store whose ids are strings.") from error


def id_type_of(ids: Sequence[str]) -> IdType:
    """The narrowest kind of id that all of some ids are."""
    if ids and all(i.isdecimal() for i in ids):
        return "integer"
    if ids and all(_UUID.fullmatch(i) for i in ids):
        return "uuid"
    return "integer or uuid" if ids and all(i.isdecimal() or _UUID.fullmatch(i) for i in ids) else "string"


def check_columns(columns: Sequence[str], batch_rows: int) -> None:
    """Check what `read` is asked for.

    Raises:
        BadInput: There is no such column, or there are no rows in a batch.
    """
    wrong = [name for name in columns if name not in get_args(Column)]
    if wrong:
        raise BadInput(f"There is no column {wrong[0]!r}. {suggest_names(wrong[0], get_args(Column))}")
    if batch_rows < 1:
        raise BadInput(f"There are {batch_rows} rows a batch; it must be 1 or more.")


def check_width(given: int, width: int | None, where: str) -> None:
    """Check a store that is there already against the layout it was to be created with.

    Raises:
        BadInput: Its vectors have another width.
    """
    if width is not None and given != width:
        raise BadInput(f"{where} is there and holds vectors of width {width}, not {given}. Choose another name.")


def slices(n: int, most: int) -> Iterator[slice]:
    """Cut n rows into slices of `most` rows."""
    return (slice(start, start + most) for start in range(0, n, most))
