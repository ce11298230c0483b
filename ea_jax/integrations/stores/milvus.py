"""Milvus: a server, or the `.db` file of Milvus Lite. A server's token is read from MILVUS_TOKEN.

Rows are read by id. A sibling is a new collection, published by an alias. A collection with the public name is renamed
first, so that its readers need not change.
"""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from pymilvus import DataType, MilvusClient
from pymilvus.client.cache import GlobalCache
from pymilvus.exceptions import MilvusException

from ea_jax.errors import BadInput, StoreUnavailable
from ea_jax.integrations.stores.clients import release_client, share_client
from ea_jax.integrations.stores.protocol import (
    COLUMNS,
    Chunk,
    Column,
    Cursor,
    Description,
    Fields,
    Layout,
    Metric,
    Published,
    Store,
)
from ea_jax.integrations.stores.rows import (
    NODE,
    PAYLOAD_FIELDS,
    TEXT_FIELDS,
    check_columns,
    check_rows,
    check_width,
    dump_payload,
    join_text,
    make_record_batch,
    parse_integer_ids,
    parse_payload,
    pick_field,
    pick_vector,
    split_range,
    split_text,
    unknown_collection,
    vectors_to_numpy,
)
from ea_jax.integrations.stores.urls import StoreUrl

WRITE_ROWS = 1000  # a server accepts 64 MB per request
_METRICS: dict[str, Metric] = {"COSINE": "cosine", "IP": "dot", "L2": "euclidean"}
_KINDS = {metric: kind for kind, metric in _METRICS.items()}
_VECTORS = {DataType.FLOAT_VECTOR: np.float32, DataType.FLOAT16_VECTOR: np.float16}


def open_store(url: StoreUrl, create: Layout | None = None) -> "MilvusStore":
    """Open a collection by its name or an alias; see `opening.open_store`."""
    with _translate_errors(url):
        client = _connect(url, create is not None)
        try:
            if not client.has_collection(url.name):
                if create is None:
                    raise unknown_collection("collection", url.name, _names(client), url.location)
                _create(client, url, create)
            client.load_collection(url.name)
            store = MilvusStore(url, client)
            if create:
                check_width(create.width, store.width, str(url))
        except BaseException:
            _release(url, client)
            raise
    return store


class MilvusStore(Store):
    """A collection and one of its vector fields."""

    def __init__(self, url: StoreUrl, client: Any) -> None:  # its stubs mix in the asynchronous client
        where = str(url)
        self.url, self.client = url, client
        description: dict[str, Any] = client.describe_collection(url.name)
        self.name: str = description["collection_name"]
        schema = {field["name"]: field for field in description["fields"]}
        self.vectors = tuple(name for name, field in schema.items() if field["type"] in _VECTORS)
        self.vector = pick_vector(url.vector, self.vectors, where)
        self.dtype = _VECTORS[schema[self.vector]["type"]]
        self.width = int(schema[self.vector]["params"]["dim"])
        key = next(field for field in schema.values() if field.get("is_primary"))
        self.id, self.integer = key["name"], key["type"] == DataType.INT64
        if url.id not in (None, self.id):
            raise BadInput(f"{where}: {url.id!r} cannot be the id; in Milvus that is the primary field, {self.id!r}.")
        self.automatic = bool(description.get("auto_id"))
        self.declared = [name for name in schema if name not in (self.id, *self.vectors)]
        sample = client.query(url.name, filter="", limit=16, output_fields=["*"], consistency_level="Strong")
        keys = list(dict.fromkeys([*self.declared, *(name for row in sample for name in row)]))
        keys = [name for name in keys if name not in (self.id, *self.vectors)]
        if keys:
            self.text = pick_field("text", url.text, TEXT_FIELDS, keys, where)
        else:
            self.text = url.text or "text"
        self.payload = pick_field("payload", url.payload, PAYLOAD_FIELDS, self.declared, where)

    def describe(self) -> Description:
        with _translate_errors(self.url):
            result = self.client.query(self.name, filter="", output_fields=["count(*)"], consistency_level="Strong")
            count = result[0]["count(*)"]
            metric = None
            for index in self.client.list_indexes(self.name):
                info = self.client.describe_index(self.name, index)
                if info and info["field_name"] == self.vector:
                    metric = _METRICS.get(info.get("metric_type", ""))
        fields = Fields(self.id, self.text, self.vector, self.payload)
        kind = "integer" if self.integer else "string"
        return Description(str(self.url), int(count), self.width, {}, metric, kind, fields, self.vectors)

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        names = [self.id, *([self.text] if self.text and "text" in columns else [])]
        names += [self.vector] if "vector" in columns else []
        condition = ""
        if after is not None:
            condition = f"{self.id} > {int(after) if self.integer else json.dumps(after, ensure_ascii=False)}"
        with _translate_errors(self.url):
            iterator = self.client.query_iterator(
                self.name,
                batch_size=batch_rows,
                filter=condition,
                output_fields=["*"] if "payload" in columns else names,
                consistency_level="Strong",
            )
        try:
            while True:
                with _translate_errors(self.url):
                    records = iterator.next()
                if not records:
                    return
                yield Chunk(self._rows(records, columns), str(records[-1][self.id]))
        finally:
            iterator.close()

    def _rows(self, records: Sequence[dict[str, Any]], columns: Sequence[Column]) -> Any:
        split = [split_text(self._payload(row), self.text) for row in records]
        vectors = [self._vector(row.get(self.vector)) for row in records] if "vector" in columns else ()
        return make_record_batch(
            columns,
            [row[self.id] for row in records],
            [text for text, _ in split],
            vectors,
            [dump_payload(payload) for _, payload in split],
            where=str(self.url),
        )

    def _payload(self, row: dict[str, Any]) -> dict[str, Any]:
        separate = (self.id, *self.vectors, self.payload, "$meta")
        others = {name: value for name, value in row.items() if name not in separate and value is not None}
        return {**parse_payload(row.get(self.payload) if self.payload else None), **others}

    def _vector(self, value: Any) -> Any:
        if isinstance(value, bytes):
            return np.frombuffer(value, self.dtype)
        if isinstance(value, list) and value and isinstance(value[0], bytes):
            return np.frombuffer(value[0], self.dtype)
        return value

    def write(self, rows: Any) -> None:
        where = str(self.url)
        check_rows(rows, self.needs, self.width, where)
        if self.automatic:
            raise BadInput(f"{where} generates its ids, so rows cannot be replaced. Write to a new collection.")
        ids = rows.column("id").to_pylist()
        keys: Sequence[Any] = parse_integer_ids(ids, where) if self.integer else ids
        texts, payloads = rows.column("text").to_pylist(), rows.column("payload").to_pylist()
        records = []
        for key, vector, text, payload in zip(keys, vectors_to_numpy(rows), texts, payloads, strict=True):
            row = parse_payload(payload)
            row = join_text({self.payload: row} if self.payload else row, self.text or "text", text)
            if self.id in row or self.vector in row:
                raise BadInput(
                    f"{where}: the payload of row {key!r} must not contain the keys {self.id!r} and {self.vector!r}."
                )
            records.append({**row, self.id: key, self.vector: vector.astype(self.dtype)})
        with _translate_errors(self.url):
            for batch in split_range(len(records), WRITE_ROWS):
                self.client.upsert(self.name, records[batch])

    def flush(self) -> None:
        with _translate_errors(self.url):
            self.client.flush(self.name)

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "MilvusStore":
        text = self.text if self.text != NODE else None
        url = self.url.copy_with(name=name, id=self.id, vector=self.vector, text=text, payload=None)
        kind = "integer" if self.integer else "string"
        sibling = open_store(url, Layout(width, metric or self.describe().metric or "cosine", kind))
        sibling.text = self.text
        return sibling

    def _resolve_name(self) -> str:
        return self.name

    def publish(self, public: str) -> Published:
        current, old = self.name, f"{public}_before_{self.name}"
        with _translate_errors(self.url):
            aliases = _aliases(self.client)
            previous = aliases.get(public)
            if previous is None and public != current and public in self.client.list_collections():
                self.client.rename_collection(public, old)
            if previous is None and public != current:  # also after a kill between the two steps
                self.client.create_alias(current, public)
                previous = old if old in self.client.list_collections() else None
            elif previous not in (None, current):
                self.client.alter_alias(current, public)
        return Published(public, current, previous if previous != current else None)

    def unpublish(self, published: Published) -> None:
        public, current, previous = published
        with _translate_errors(self.url):
            collection = _aliases(self.client).get(public)
            renamed = previous == f"{public}_before_{current}"
            if collection == current and previous is not None and not renamed:
                self.client.alter_alias(previous, public)
            elif collection == current:
                self.client.drop_alias(public)
            if renamed and previous in self.client.list_collections():
                self.client.rename_collection(str(previous), public)

    def close(self) -> None:
        _release(self.url, self.client)


def _create(client: MilvusClient, url: StoreUrl, layout: Layout) -> None:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    if layout.id_type == "integer":
        schema.add_field(url.id or "id", DataType.INT64, is_primary=True)
    else:
        schema.add_field(url.id or "id", DataType.VARCHAR, is_primary=True, max_length=512)
    schema.add_field(url.vector or "vector", DataType.FLOAT_VECTOR, dim=layout.width)
    index = client.prepare_index_params()
    index.add_index(url.vector or "vector", index_type="AUTOINDEX", metric_type=_KINDS[layout.metric])
    client.create_collection(url.name, schema=schema, index_params=index, consistency_level="Strong")


def _connect(url: StoreUrl, create: bool) -> MilvusClient:
    if url.is_remote:
        return MilvusClient(url.location, token=os.environ.get("MILVUS_TOKEN", ""), timeout=30)
    if url.path.suffix != ".db":
        raise BadInput(f"{url.location}: the name of a Milvus Lite file must end in .db.")
    if not create and not url.path.exists():
        raise BadInput(f"{url.location} does not exist.")
    return share_client(_key(url), lambda: _open_lite(url), _close_lite(url))


def _open_lite(url: StoreUrl) -> MilvusClient:
    GlobalCache.schema.clear()  # keyed by address: the file's server may reuse the port of an earlier one
    return MilvusClient(str(url.path))


def _close_lite(url: StoreUrl) -> Any:
    def close(client: MilvusClient) -> None:
        from milvus_lite.server_manager import server_manager_instance

        client.close()
        server_manager_instance.release_server(str(url.path))

    return close


def _key(url: StoreUrl) -> tuple[str, str]:
    return ("milvus", str(url.path.resolve()))


def _release(url: StoreUrl, client: MilvusClient) -> None:
    if url.is_remote:
        client.close()
    else:
        release_client(_key(url))


def _aliases(client: Any) -> dict[str, str]:
    result: dict[str, str] = {}
    for collection in client.list_collections():
        aliases = client.list_aliases(collection)
        result |= dict.fromkeys(aliases["aliases"], collection)
    return result


def _names(client: Any) -> list[str]:
    return [*client.list_collections(), *_aliases(client)]


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate the client's errors into one sentence each, and silence its logs, which repeat them with tracebacks."""
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except MilvusException as error:
        message = str(error.message)
        if "Fail connecting" in message or "unavailable" in message.lower():
            raise StoreUnavailable(f"{url.location} does not answer. Is the Milvus server running?") from error
        if "local milvus failed" in message:
            raise StoreUnavailable(
                f"{url.location} cannot be opened. Milvus Lite writes to it even to read, one process at a time: make "
                "it writable, or end the other process."
            ) from error
        if "auth" in message.lower() or "permission" in message.lower():
            raise StoreUnavailable(
                f"{url.location} denies access: {message}. Set MILVUS_TOKEN to user:password."
            ) from error
        raise StoreUnavailable(f"{url}: Milvus failed: {message}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
