"""Qdrant, a server or a local folder. The API key is read from QDRANT_API_KEY.

Rows are read by id: unsigned integers first, then UUIDs. A sibling is a new collection, published by an alias.
Qdrant normalizes the vectors of cosine collections.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from ea_jax.errors import BadInput, Conflict, StoreUnavailable
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
    TEXT_FIELDS,
    check_columns,
    check_rows,
    check_width,
    dump_payload,
    join_text,
    make_record_batch,
    parse_payload,
    pick_field,
    pick_vector,
    split_range,
    split_text,
    unknown_collection,
    vectors_to_numpy,
)
from ea_jax.integrations.stores.urls import StoreUrl

WRITE_ROWS = 256  # a server accepts 32 MB per request; 256 rows of width 3,072 are about 16 MB of JSON
_METRICS: dict[str, Metric] = {"Cosine": "cosine", "Dot": "dot", "Euclid": "euclidean"}
_DISTANCES = {
    "cosine": models.Distance.COSINE,
    "dot": models.Distance.DOT,
    "euclidean": models.Distance.EUCLID,
}


def open_store(url: StoreUrl, create: Layout | None = None) -> "QdrantStore":
    """Open a collection by its name or an alias; see `opening.open_store`."""
    with _translate_errors(url):
        client = _connect(url, create is not None)
    try:
        with _translate_errors(url):
            info = _collection(client, url.name)
            if info is None and create:
                params = models.VectorParams(size=create.width, distance=_DISTANCES[create.metric])
                client.create_collection(url.name, {url.vector: params} if url.vector else params)
                info = _collection(client, url.name)
            if info is None:
                raise unknown_collection("collection", url.name, _names(client), url.location)
            store = QdrantStore(url, client, info)
        if create:
            check_width(create.width, store.width, str(url))
        return store
    except BaseException:
        _release(url, client)
        raise


class QdrantStore(Store):
    """A collection and one of its named vectors."""

    def __init__(self, url: StoreUrl, client: QdrantClient, info: Any) -> None:
        self.url, self.client = url, client
        vectors = info.config.params.vectors
        named = vectors if isinstance(vectors, dict) else {"": vectors}
        self.vectors = tuple(named)
        self.vector = pick_vector(url.vector, self.vectors, str(url))
        self.width = int(named[self.vector].size)
        self.metric: Metric | None = _METRICS.get(named[self.vector].distance.value)
        sample, _ = client.scroll(url.name, limit=16, with_payload=True, with_vectors=False)
        keys = list(dict.fromkeys(key for point in sample for key in point.payload or {}))
        if keys:
            self.text = pick_field("text", url.text, TEXT_FIELDS, keys, str(url))
        else:
            self.text = url.text or "text"

    def describe(self) -> Description:
        with _translate_errors(self.url):
            count = self.client.count(self.url.name, exact=True).count
        fields = Fields("id", self.text, self.vector, "payload")
        return Description(str(self.url), count, self.width, {}, self.metric, "integer or uuid", fields, self.vectors)

    def read(
        self, columns: Sequence[Column] = COLUMNS, batch_rows: int = 1000, after: Cursor = None
    ) -> Iterator[Chunk]:
        check_columns(columns, batch_rows)
        selected: Any = "payload" in columns or ([self.text] if "text" in columns and self.text else False)
        # By default, the client omits vectors.
        vectors: Any = "vector" in columns and ([self.vector] if self.vector else True)
        offset = None if after is None else _point_id(after, str(self.url))
        while True:
            with _translate_errors(self.url):
                points, next_offset = self.client.scroll(
                    self.url.name,
                    limit=batch_rows + 1,
                    offset=offset,
                    with_payload=selected,
                    with_vectors=vectors,
                )
            if after is not None and points and str(points[0].id) == after:  # Qdrant's offset is inclusive
                points = points[1:]
            points = points[:batch_rows]
            if not points:
                return
            split = [split_text(point.payload or {}, self.text) for point in points]
            rows = make_record_batch(
                columns,
                [point.id for point in points],
                [text for text, _ in split],
                [self._vector(point.vector) for point in points] if "vector" in columns else (),
                [dump_payload(payload) for _, payload in split],
                where=str(self.url),
            )
            after = str(points[-1].id)
            offset = points[-1].id
            yield Chunk(rows, after)
            if next_offset is None:
                return

    def _vector(self, vector: Any) -> Any:
        return vector.get(self.vector) if isinstance(vector, dict) else vector

    def write(self, rows: Any) -> None:
        check_rows(rows, self.needs, self.width, str(self.url))
        ids: Any = [_point_id(i, str(self.url)) for i in rows.column("id").to_pylist()]
        vectors = vectors_to_numpy(rows)
        texts, stored = rows.column("text").to_pylist(), rows.column("payload").to_pylist()
        field = self.text or "text"
        payloads = [join_text(parse_payload(p), field, t) for t, p in zip(texts, stored, strict=True)]
        for batch in split_range(len(ids), WRITE_ROWS):
            values = vectors[batch].tolist()
            points = models.Batch(
                ids=ids[batch], vectors={self.vector: values} if self.vector else values, payloads=payloads[batch]
            )
            with _translate_errors(self.url):
                self.client.upsert(self.url.name, points, wait=True)

    def create_sibling(self, name: str, width: int, metric: Metric | None = None) -> "QdrantStore":
        text = self.text if self.text != NODE else None
        url = self.url.copy_with(name=name, text=text, vector=self.vector or None)
        sibling = open_store(url, Layout(width, metric or self.metric or "cosine"))
        sibling.text = self.text
        return sibling

    def _resolve_name(self) -> str:
        with _translate_errors(self.url):
            return _aliases(self.client).get(self.url.name, self.url.name)

    def check_public(self, public: str, current: str) -> None:
        with _translate_errors(self.url):
            aliases = _aliases(self.client)
            exists = public == current or self.client.collection_exists(public)
        if public not in aliases and exists:
            raise Conflict(
                f"{self.url.location}: {public!r} is a collection, and Qdrant cannot rename collections. Publish "
                "under an alias, and let your application read the alias."
            )

    def publish(self, public: str) -> Published:
        self.check_public(public, self.url.name)
        with _translate_errors(self.url):
            aliases = _aliases(self.client)
            current = aliases.get(self.url.name, self.url.name)
            if aliases.get(public) != current:
                self._set_alias(public, current, exists=public in aliases)
        previous = aliases.get(public)
        return Published(public, current, previous if previous != current else None)

    def unpublish(self, published: Published) -> None:
        with _translate_errors(self.url):
            aliases = _aliases(self.client)
            if aliases.get(published.public) == published.current:
                self._set_alias(published.public, published.previous, exists=True)

    def _set_alias(self, alias: str, collection: str | None, exists: bool) -> None:
        """Make an alias refer to a collection, or delete it if the collection is None, in one atomic step."""
        steps: list[Any] = []
        if exists:
            steps.append(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)))
        if collection is not None:
            new = models.CreateAlias(collection_name=collection, alias_name=alias)
            steps.append(models.CreateAliasOperation(create_alias=new))
        self.client.update_collection_aliases(steps)

    def close(self) -> None:
        _release(self.url, self.client)


def _connect(url: StoreUrl, create: bool) -> QdrantClient:
    if url.is_remote:
        with warnings.catch_warnings():  # an API key over plain HTTP
            warnings.simplefilter("ignore", UserWarning)
            key = os.environ.get("QDRANT_API_KEY")
            return QdrantClient(url=url.location, api_key=key, timeout=60, check_compatibility=False)
    if not create and not (url.path / "meta.json").exists():
        raise BadInput(f"{url.location} is not a folder of local Qdrant. For a server, use its address: qdrant:http://")
    with warnings.catch_warnings():  # collections above 20,000 points, which the README covers
        warnings.simplefilter("ignore")
        return share_client(
            ("qdrant", str(url.path.resolve())), lambda: QdrantClient(path=str(url.path)), lambda client: client.close()
        )


def _release(url: StoreUrl, client: QdrantClient) -> None:
    if url.is_remote:
        client.close()
    else:
        release_client(("qdrant", str(url.path.resolve())))


def _collection(client: QdrantClient, name: str) -> Any:
    """Return the description of a collection or alias; None if neither exists."""
    try:
        return client.get_collection(name)
    except ValueError as error:  # raised by the local mode
        if "not found" in str(error):
            return None
        raise
    except UnexpectedResponse as error:
        if error.status_code == 404:
            return None
        raise


def _aliases(client: QdrantClient) -> dict[str, str]:
    return {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}


def _names(client: QdrantClient) -> list[str]:
    return [c.name for c in client.get_collections().collections] + list(_aliases(client))


def _point_id(i: str, where: str) -> int | str:
    if i.isdecimal() and int(i) < 2**64:
        return int(i)
    try:
        return str(UUID(i))
    except ValueError as error:
        raise BadInput(
            f"{where}: {i!r} cannot be an id in Qdrant. Its ids are unsigned integers or UUIDs. "
            "Change the ids first, or use another engine."
        ) from error


@contextmanager
def _translate_errors(url: StoreUrl) -> Iterator[None]:
    """Translate the client's errors into one sentence each."""
    try:
        yield
    except (ResponseHandlingException, httpx.TransportError) as error:
        raise StoreUnavailable(f"{url.location} does not answer ({error}). Is the Qdrant server running?") from error
    except UnexpectedResponse as error:
        if error.status_code in (401, 403):
            raise StoreUnavailable(
                f"{url.location} rejects the API key. Set QDRANT_API_KEY to a key with sufficient rights."
            ) from error
        raise StoreUnavailable(f"{url}: Qdrant failed: {error}") from error
    except QdrantException as error:
        raise StoreUnavailable(f"{url}: Qdrant failed: {error}") from error
    except PermissionError as error:
        raise StoreUnavailable(
            f"{url.location} cannot be opened: {error}. Local Qdrant locks its folder even to read: make it writable."
        ) from error
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise StoreUnavailable(f"{url.location} cannot be opened: {error}") from error
        raise StoreUnavailable(
            f"{url.location} is open in another process. Local Qdrant allows one process at a time: end the other one."
        ) from error
