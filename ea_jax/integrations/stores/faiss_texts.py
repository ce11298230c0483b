"""Read the texts of a FAISS index: Parquet, JSON lines, CSV, or LlamaIndex's files. Pickles are never opened."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from jaxtyping import Int64

from ea_jax.errors import BadInput
from ea_jax.integrations.stores.rows import (
    ID_FIELDS,
    PAYLOAD_FIELDS,
    TEXT_FIELDS,
    dump_payload,
    normalize_payload,
    parse_payload,
    pick_field,
)
from ea_jax.integrations.stores.urls import StoreUrl

KEY = "faiss_id"  # column of FAISS's integer ids, for rows whose own ids are strings
_SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".csv")


class Texts(NamedTuple):
    """The texts and payloads of an index, row by row.

    Attributes:
        keys: FAISS's integer ids of the rows; None if they are the row numbers.
        ids: The rows' own ids; None if they are FAISS's.
        texts: Text of each row, or None.
        payloads: JSON object of each row, or None.
        id: Name of the id column, if the file has one.
        text: Name of the text column, if the file has one.
    """

    keys: Int64[np.ndarray, " n"] | None
    ids: list[str] | None
    texts: list[str | None]
    payloads: list[str | None]
    id: str | None
    text: str | None


def find_texts(url: StoreUrl) -> Path | None:
    """Return the file of texts that the URL names, or the file next to the index with the same stem.

    Raises:
        BadInput: The file is a pickle.
    """
    if url.texts is None:
        candidates = [url.path.with_suffix(suffix) for suffix in _SUFFIXES]
        if url.path.name == "default__vector_store.json":
            candidates = [url.path.with_name("docstore.json")]
        return next((path for path in candidates if path.exists()), None)
    path = Path(url.texts).expanduser()
    if path.suffix in (".pkl", ".pickle"):
        raise BadInput(
            f"{path} is a pickle, which can run any code when it is opened. Write its texts to a JSON lines file with "
            'LangChain, one {"id": ..., "text": ...} per line in the order of index_to_docstore_id, and name that '
            "file: ?texts="
        )
    return path


def read_texts(path: Path, url: StoreUrl, has_ids: bool) -> Texts:
    """Read a file of texts.

    Args:
        path: File of texts.
        url: URL of the index, with the names of the fields.
        has_ids: Whether the index stores ids, so that an integer id column refers to them.

    Raises:
        BadInput: The file does not exist or has an unknown format, or a field is missing.
    """
    if not path.exists():
        raise BadInput(f"{path}, the texts of {url.location}, does not exist.")
    if path.name == "docstore.json":
        return _llama_index(path)
    readers: dict[str, Any] = {
        ".parquet": pq.read_table,
        ".jsonl": pyarrow.json.read_json,
        ".ndjson": pyarrow.json.read_json,
        ".csv": pyarrow.csv.read_csv,
    }
    if path.suffix not in readers:
        raise BadInput(f"{path} has an unknown format. Texts can be {', '.join(readers)}.")
    try:
        table: pa.Table = readers[path.suffix](path)
    except pa.ArrowException as error:
        raise BadInput(f"{path} cannot be read as {path.suffix}: {error}") from error
    names = [name for name in table.column_names if name != KEY]
    i = pick_field("id", url.id, ID_FIELDS, names, str(path))
    text = pick_field("text", url.text, TEXT_FIELDS, names, str(path))
    keys = None
    if KEY in table.column_names:
        keys = table.column(KEY).to_numpy().astype(np.int64)
    elif has_ids and i and pa.types.is_integer(table.schema.field(i).type):
        keys = table.column(i).to_numpy().astype(np.int64)
    payload = pick_field("payload", None, PAYLOAD_FIELDS, names, str(path))
    others = [name for name in names if name not in (i, text, payload)]
    return Texts(
        keys,
        [str(value) for value in table.column(i).to_pylist()] if i else None,
        table.column(text).to_pylist() if text else [None] * len(table),
        _payloads(table, payload, others),
        i,
        text,
    )


def _payloads(table: pa.Table, payload: str | None, others: list[str]) -> list[str | None]:
    if payload and not others and pa.types.is_string(table.schema.field(payload).type):
        return [normalize_payload(value) for value in table.column(payload).to_pylist()]
    objects = [parse_payload(value) for value in table.column(payload).to_pylist()] if payload else [{}] * len(table)
    rest = table.select(others).to_pylist() if others else [{}] * len(table)
    return [dump_payload({**a, **b}) for a, b in zip(objects, rest, strict=True)]


def _llama_index(path: Path) -> Texts:
    """Read LlamaIndex's nodes; `index_store.json` next to them maps rows of the index to nodes."""
    nodes = json.loads(path.read_text())["docstore/data"]
    order: dict[str, str] = {}
    for index in json.loads(path.with_name("index_store.json").read_text())["index_store/data"].values():
        data = index["__data__"]
        order |= (json.loads(data) if isinstance(data, str) else data).get("nodes_dict", {})
    ids = list(order.values())
    contents = [nodes[i]["__data__"] for i in ids]
    texts = [content.get("text") for content in contents]
    payloads = [dump_payload(content.get("metadata") or {}) for content in contents]
    return Texts(np.array([int(key) for key in order], np.int64), ids, texts, payloads, "id_", "text")
