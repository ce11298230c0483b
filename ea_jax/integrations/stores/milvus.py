"""Milvus, a server or the file of Milvus Lite, whose name ends in `.db`. A server's token is read from MILVUS_TOKEN.

Rows are read in the order of their ids. A sibling is a new collection; an alias publishes it. A collection that has
the public name is renamed first, so that readers of a plain collection need no change.
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
    integer_ids,
    join_text,
    no_collection,
    parse_payload,
    payload_json,
    pick_field,
    pick_vector,
    record_batch,
    slices,
    split_text,
    vectors_of,
)
from ea_jax.integrations.stores.urls import StoreUrl

WRITE_ROWS = 1000  # a server takes 64 MB a request
_METRICS: dict[str, Metric] = {"COSINE": "cosine", "IP": "dot", "L2": "euclidean"}
_KINDS = {metric: kind for kind, metric in _METRICS.items()}
_VECTORS = {DataType.FLOAT_VECTOR: np.float32, DataType.FLOAT16_VECTOR: np.float16}


def open_store(url: StoreUrl, create: Layout | None = None) -> "MilvusStore":
    """Open a collection or what an alias stands for; `opening.open_store` documents the arguments."""
    with _plain_errors(url):
        client = _connect(url, create is not None)
        try:
            if not client.has_collection(url.name):
                if create is None:
                    raise no_collection("collection", url.name, _names(client), url.location)
                _create(client, url, create)
            client.load_collection(url.name)
            store = MilvusStore(url, client)
            if create:
                check_width(create.width, store.width, str(url))
        except BaseException:
            _let_go(url, client)
            raise
    return store


class MilvusStore(Store):
    """A collection and one of its vector fields."""

    def __init__(self, url: StoreUrl, client: Any) -> None:  # whose stubs mix in those of the asynchronous client
        where = str(url)
        self.url, self.client = url, client
        described: dict[str, Any] = client.describe_collection(url.name)
        self.name: str = described["collection_name"]
        schema = {field["name"]: field for field in described["fields"]}
        self.vectors = tuple(name for name, field in schema.items() if field["type"] in _VECTORS)
        self.vector = pick_vector(url.vector, self.vectors, where)
        self.dtype = _VECTORS[schema[self.vector]["type"]]
        self.width = int(schema[self.vector]["params"]["dim"])
        key = next(field for field in schema.values() if field.get("is_primary"))
        self.id, self.integer = key["name"], key["type"] == DataType.INT64
        if url.id not in (None, self.id):
            raise BadInput(f"{where}: the id in Milvus is the primary field, which is {self.id!r}.")
        self.automatic = bool(described.get("auto_id"))
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
        with _plain_errors(self.url):
            counted = self.client.query(self.name, filter="", output_fields=["count(*)"], consistency_level="Strong")
            count = counted[0]["count(*)"]
            metric = None
            for index in self.client.list_indexes(self.name):
                found = self.client.describe_index(self.name, index)
                if found and found["field_name"] == self.vector:
                    metric = _METRICS.get(found.get("metric_type", ""))
        fields = Fields(self.id, self.text, self.vector, self.payload)
        kind = "integer" if self.integer else "string"
        return Description(str(self.url), int(count), self.width, {}, metric, kind, fields, self.vectors)

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        names = [self.id, *([self.text] if self.text and "text" in columns else [])]
        names += [self.vector] if "vector" in columns else []
        later = ""
        if after is not None:
            later = f"{self.id} > {int(after) if self.integer else json.dumps(after, ensure_ascii=False)}"
        with _plain_errors(self.url):
            rows = self.client.query_iterator(
                self.name,
                batch_size=batch_rows,
                filter=later,
                output_fields=["*"] if "payload" in columns else names,
                consistency_level="Strong",
            )
        try:
            while True:
                with _plain_errors(self.url):
                    found = rows.next()
                if not found:
                    return
                yield Chunk(self._rows(found, columns), str(found[-1][self.id]))
        finally:
            rows.close()

    def _rows(self, found: Sequence[dict[str, Any]], columns: Sequence[Column]) -> Any:
        split = [split_text(self._payload(row), self.text) for row in found]
        vectors = [self._vector(row.get(self.vector)) for row in found] if "vector" in columns else ()
        return record_batch(
            columns,
            [row[self.id] for row in found],
            [text for text, _ in split],
            vectors,
            [payload_json(payload) for _, payload in split],
            where=str(self.url),
        )

    def _payload(self, row: dict[str, Any]) -> dict[str, Any]:
        apart = (self.id, *self.vectors, self.payload, "$meta")
        others = {name: value for name, value in row.items() if name not in apart and value is not None}
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
            raise BadInput(f"{where} makes its own ids, so rows cannot be replaced. Write to a new collection.")
        ids = rows.column("id").to_pylist()
        keys: Sequence[Any] = integer_ids(ids, where) if self.integer else ids
        texts, payloads = rows.column("text").to_pylist(), rows.column("payload").to_pylist()
        made = []
        for key, vector, text, payload in zip(keys, vectors_of(rows), texts, payloads, strict=True):
            row = parse_payload(payload)
            row = join_text({self.payload: row} if self.payload else row, self.text or "text", text)
            if self.id in row or self.vector in row:
                raise BadInput(f"{where}: the payload of row {key!r} has a key {self.id!r} or {self.vector!r} as well.")
            made.append({**row, self.id: key, self.vector: vector.astype(self.dtype)})
        with _plain_errors(self.url):
            for some in slices(len(made), WRITE_ROWS):
                self.client.upsert(self.name, made[some])

    def flush(self) -> None:
        with _plain_errors(self.url):
            self.client.flush(self.name)

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "MilvusStore":
        text = self.text if self.text != NODE else None
        url = self.url.renamed(name=name, id=self.id, vector=self.vector, text=text, payload=None)
        kind = "integer" if self.integer else "string"
        sibling = open_store(url, Layout(width, metric or self.describe().metric or "cosine", kind))
        sibling.text = self.text
        return sibling

    def publish(self, public: str) -> Published:
        current, old = self.name, f"{public}_before_{self.name}"
        with _plain_errors(self.url):
            aliases = _aliases(self.client)
            previous = aliases.get(public)
            if previous is None and public != current and public in self.client.list_collections():
                self.client.rename_collection(public, old)
            if previous is None and public != current:  # also after a kill between the two
                self.client.create_alias(current, public)
                previous = old if old in self.client.list_collections() else None
            elif previous not in (None, current):
                self.client.alter_alias(current, public)
        return Published(public, current, previous if previous != current else None)

    def unpublish(self, published: Published) -> None:
        public, current, previous = published
        with _plain_errors(self.url):
            there = _aliases(self.client).get(public)
            renamed = previous == f"{public}_before_{current}"
            if there == current and previous is not None and not renamed:
                self.client.alter_alias(previous, public)
            elif there == current:
                self.client.drop_alias(public)
            if renamed and previous in self.client.list_collections():
                self.client.rename_collection(str(previous), public)

    def close(self) -> None:
        _let_go(self.url, self.client)


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
        raise BadInput(f"{url.location}: the file of Milvus Lite has a name that ends in .db.")
    if not create and not url.path.exists():
        raise BadInput(f"{url.location} is not there.")
    return share_client(_key(url), lambda: _open_lite(url), _close_lite(url))


def _open_lite(url: StoreUrl) -> MilvusClient:
    GlobalCache.schema.clear()  # the file's server may get the port of an earlier one, whose schemas are remembered
    return MilvusClient(str(url.path))


def _close_lite(url: StoreUrl) -> Any:
    def close(client: MilvusClient) -> None:
        from milvus_lite.server_manager import server_manager_instance

        client.close()
        server_manager_instance.release_server(str(url.path))

    return close


def _key(url: StoreUrl) -> tuple[str, str]:
    return ("milvus", str(url.path.resolve()))


def _let_go(url: StoreUrl, client: MilvusClient) -> None:
    if url.is_remote:
        client.close()
    else:
        release_client(_key(url))


def _aliases(client: Any) -> dict[str, str]:
    found: dict[str, str] = {}
    for collection in client.list_collections():
        aliases = client.list_aliases(collection)
        found |= dict.fromkeys(aliases["aliases"], collection)
    return found


def _names(client: Any) -> list[str]:
    return [*client.list_collections(), *_aliases(client)]


@contextmanager
def _plain_errors(url: StoreUrl) -> Iterator[None]:
    """Say in one sentence what the client says in its own ways, and logs with a traceback as well."""
    loggers = [logging.getLogger(name) for name in ("pymilvus", "milvus_lite")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    except MilvusException as error:
        said = str(error.message)
        if "Fail connecting" in said or "unavailable" in said.lower():
            raise StoreUnavailable(f"{url.location} does not answer. Is the Milvus server running?") from error
        if "local milvus failed" in said:
            raise StoreUnavailable(
                f"{url.location} cannot be opened. Milvus Lite serves one process at a time: is another at work?"
            ) from error
        if "auth" in said.lower() or "permission" in said.lower():
            raise StoreUnavailable(f"{url.location} refuses: {said}. Set MILVUS_TOKEN to user:password.") from error
        raise StoreUnavailable(f"{url}: Milvus refused: {said}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
