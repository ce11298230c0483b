"""Chroma, a server or a persistent folder. A server's token is read from CHROMA_TOKEN.

Rows are read in insertion order, since Chroma cannot seek to an id. A sibling is a new collection, published by two
renames. Chroma's metadata are scalars, so nested values are written as JSON.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import chromadb
import httpx
import numpy as np
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings
from chromadb.errors import ChromaAuthError, ChromaError, NotFoundError

from ea_jax.errors import BadInput, EaJaxError, StoreUnavailable
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
    check_columns,
    check_rows,
    check_width,
    dump_payload,
    make_record_batch,
    parse_payload,
    pick_field,
    split_range,
    unknown_collection,
    vectors_to_numpy,
)
from ea_jax.integrations.stores.urls import StoreUrl

DOCUMENT = "document"  # Chroma's text field, which is not part of the metadata
_METRICS: dict[str, Metric] = {"cosine": "cosine", "ip": "dot", "l2": "euclidean"}
_SPACES = {metric: space for space, metric in _METRICS.items()}


def open_store(url: StoreUrl, create: Layout | None = None) -> "ChromaStore":
    """Open a collection; see `opening.open_store`."""
    with _translate_errors(url):
        client = _connect(url, create is not None)
        try:
            store = ChromaStore(url, client, _collection(url, client, create))
            if create:
                check_width(create.width, store.width, str(url))
        except BaseException:
            _release(url, client)
            raise
    return store


def _collection(url: StoreUrl, client: Any, create: Layout | None) -> Any:
    try:
        return client.get_collection(url.name, embedding_function=None)  # the default would download a model
    except NotFoundError as error:
        if create is None:
            known = [collection.name for collection in client.list_collections()]
            raise unknown_collection("collection", url.name, known, url.location) from error
    configuration = {"hnsw": {"space": _SPACES[create.metric]}}
    return client.create_collection(url.name, configuration=configuration, embedding_function=None)


class ChromaStore(Store):
    """A collection."""

    def __init__(self, url: StoreUrl, client: Any, collection: Any) -> None:
        self.url, self.client, self.collection = url, client, collection
        sample = collection.get(limit=16, include=["documents", "metadatas", "embeddings"])
        keys = list(dict.fromkeys(key for metadata in sample["metadatas"] for key in metadata or {}))
        has_documents = any(sample["documents"]) or not keys
        available = [*([DOCUMENT] if has_documents else []), *keys]
        self.text = pick_field("text", url.text, (DOCUMENT,), available, str(url)) if sample["ids"] else url.text
        self.text = self.text or DOCUMENT
        self.width = len(sample["embeddings"][0]) if len(sample["embeddings"]) else None
        configuration = collection.configuration_json or {}
        index = configuration.get("hnsw") or configuration.get("spann") or {}
        self.metric: Metric | None = _METRICS.get(index.get("space", "l2"))

    def describe(self) -> Description:
        with _translate_errors(self.url):
            count = self.collection.count()
        fields = Fields("id", self.text, "embedding", "metadata")
        return Description(str(self.url), count, self.width, {}, self.metric, "string", fields, ("embedding",))

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        offset = 0 if after is None else int(after["offset"])
        self._check_cursor(after)
        in_metadata = self.text != DOCUMENT and "text" in columns
        include = ["metadatas"] if "payload" in columns or in_metadata else []
        include += ["documents"] if "text" in columns and not in_metadata else []
        include += ["embeddings"] if "vector" in columns else []
        while True:
            with _translate_errors(self.url):
                batch = self.collection.get(limit=batch_rows, offset=offset, include=include)
            ids = batch["ids"]
            if not ids:
                return
            payloads = [dict(metadata or {}) for metadata in batch["metadatas"] or [None] * len(ids)]
            texts = batch["documents"]
            if in_metadata:
                texts = [payload.pop(self.text, None) for payload in payloads]
            rows = make_record_batch(
                columns,
                ids,
                texts or (),
                np.asarray(batch["embeddings"], np.float32) if "vector" in columns else (),
                [dump_payload(payload) for payload in payloads],
                where=str(self.url),
            )
            offset += len(ids)
            yield Chunk(rows, {"offset": offset, "last": ids[-1]})

    def _check_cursor(self, after: Cursor) -> None:
        """Check that no row before the cursor was deleted."""
        if after is None:
            return
        with _translate_errors(self.url):
            last = self.collection.get(limit=1, offset=int(after["offset"]) - 1, include=[])["ids"]
        if last != [after["last"]]:
            raise BadInput(f"{self.url}: rows were deleted since the cursor was made. Start again without it.")

    def write(self, rows: Any) -> None:
        check_rows(rows, self.needs, self.width, str(self.url))
        ids, vectors = rows.column("id").to_pylist(), vectors_to_numpy(rows)
        texts: list[str | None] = rows.column("text").to_pylist()
        metadatas = [_scalars(parse_payload(payload)) for payload in rows.column("payload").to_pylist()]
        if self.text != DOCUMENT:
            metadatas = [{**m, self.text: t} if t is not None else m for m, t in zip(metadatas, texts, strict=True)]
        with _translate_errors(self.url):
            for batch in split_range(len(ids), self.client.get_max_batch_size()):
                self.collection.upsert(
                    ids=ids[batch],
                    embeddings=vectors[batch],
                    documents=texts[batch] if self.text == DOCUMENT else None,
                    metadatas=[metadata or None for metadata in metadatas[batch]],
                )
        self.width = vectors.shape[1]

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "ChromaStore":
        text = None if self.text == DOCUMENT else self.text
        return open_store(self.url.copy_with(name=name, text=text), Layout(width, metric or self.metric or "cosine"))

    def publish(self, public: str) -> Published:
        old = f"{public}-before-{self.url.name}"
        with _translate_errors(self.url):
            names = {collection.name for collection in self.client.list_collections()}
            if public in names and self.url.name in names and public != self.url.name:
                self._rename(public, old)
                names.add(old)
            if self.url.name in names and public != self.url.name:  # also after a kill between the two renames
                self._rename(self.url.name, public)
        return Published(public, self.url.name, old if old in names else None)

    def unpublish(self, published: Published) -> None:
        public, current, previous = published
        with _translate_errors(self.url):
            names = {collection.name for collection in self.client.list_collections()}
            if current not in names and public in names:
                self._rename(public, current)
                names.discard(public)
            if previous in names and public not in names:
                self._rename(str(previous), public)

    def _rename(self, old: str, new: str) -> None:
        self.client.get_collection(old, embedding_function=None).modify(name=new)

    def close(self) -> None:
        _release(self.url, self.client)


def _connect(url: StoreUrl, create: bool) -> Any:
    if url.is_remote:
        return share_client(("chroma", url.location), lambda: _connect_server(url), _close_server)
    if not create and not (url.path / "chroma.sqlite3").exists():
        raise BadInput(f"{url.location} is not a folder of Chroma. For a server, use its address: chroma:http://")
    try:
        return chromadb.PersistentClient(url.path, settings=Settings(anonymized_telemetry=False))
    except BaseException:
        # Otherwise the next client of this folder would get the half-started system.
        SharedSystemClient._identifier_to_system.pop(str(url.path), None)
        raise


def _connect_server(url: StoreUrl) -> Any:
    parts = urlsplit(url.location)
    token = os.environ.get("CHROMA_TOKEN")
    return chromadb.HttpClient(
        host=parts.hostname or "localhost",
        port=parts.port or (443 if parts.scheme == "https" else 8000),
        ssl=parts.scheme == "https",
        headers={"Authorization": f"Bearer {token}"} if token else None,
        settings=Settings(anonymized_telemetry=False),
    )


def _close_server(client: Any) -> None:
    servers = (client._server, client._admin_client._server)
    client.close()
    for server in servers:  # the client does not close their connections
        server._session.close()


def _release(url: StoreUrl, client: Any) -> None:
    if url.is_remote:
        release_client(("chroma", url.location))
    else:
        client.close()


def _scalars(payload: dict[str, Any]) -> dict[str, Any]:
    """Convert a payload to Chroma's metadata: drop nulls, and write nested values as JSON."""
    return {
        key: value if isinstance(value, str | int | float | bool) else json.dumps(value, ensure_ascii=False)
        for key, value in payload.items()
        if value is not None
    }


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate the client's errors into one sentence each."""
    try:
        yield
    except NotFoundError as error:
        raise BadInput(f"{url}: the collection no longer exists.") from error
    except httpx.TransportError as error:
        raise StoreUnavailable(f"{url.location} does not answer ({error}). Is the Chroma server running?") from error
    except (ChromaError, sqlite3.Error, PermissionError) as error:
        if isinstance(error, ChromaAuthError):
            raise _rejected(url) from error
        advice = "Another process may be writing to it, or the folder may be read-only."
        raise StoreUnavailable(f"{url}: Chroma failed: {error}. {advice}") from error
    except EaJaxError:
        raise
    except Exception as error:  # answers that the client does not expect, such as those of a proxy
        if "Could not connect to a Chroma server" in str(error):
            raise StoreUnavailable(f"{url.location} does not answer. Is the Chroma server running?") from error
        status = _http_status(error)
        if status is None:
            raise
        if status in (401, 403):
            raise _rejected(url) from error
        raise StoreUnavailable(
            f"{url.location} answers with the HTTP status {status}. Is it a Chroma server?"
        ) from error


def _rejected(url: StoreUrl) -> StoreUnavailable:
    return StoreUnavailable(f"{url.location} rejects the token. Set CHROMA_TOKEN to a token with sufficient rights.")


def _http_status(error: BaseException | None) -> int | None:
    """Return the HTTP status that an error was raised for; None for other errors."""
    while error is not None:
        if isinstance(error, httpx.HTTPStatusError):
            return error.response.status_code
        error = error.__context__
    return None
