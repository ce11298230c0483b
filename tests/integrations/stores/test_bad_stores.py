"""Each defect of a store raises an error of one sentence: what is wrong, where, and what to do."""

import fcntl
import os
import socket
import subprocess
import sys
import threading
import uuid
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.errors import BadInput, MissingDependency, StoreUnavailable, UnknownName
from ea_jax.integrations.stores import Layout, is_store_url, open_store, opening, parse_store_url
from tests.integrations.stores.conftest import WIDTH, assert_same_rows, make_rows, make_store, need, read_all, to_lists


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("qdrnt:x#docs", "Did you mean qdrant"),
        ("qdrant:x", "'#', the collection or table, is missing"),
        ("qdrant:x#docs?txt=a", "no option 'txt'"),
        ("chroma:#docs", "location is missing"),
        ("lancedb:x?text=#docs", "'text' is empty"),
        ("docs.parquet", "not a store URL"),
    ],
)
def test_wrong_urls_name_the_missing_part(url, message):
    with pytest.raises((BadInput, UnknownName), match=message):
        parse_store_url(url)


def test_files_are_not_store_urls():
    assert not any(map(is_store_url, ["docs.parquet", "C:/docs.npy", "s3://bucket/docs", "-"]))
    assert all(map(is_store_url, ["qdrant:x#y", "postgres://u@h/db#t", "sqlite-vec:a.db#t"]))


@pytest.mark.parametrize("url", ["qdrant:a%23b/c d#n%3Fm?vector=v", "postgresql://u@h/db?sslmode=require&id=k#s.t"])
def test_urls_survive_their_own_text(url):
    assert parse_store_url(str(parse_store_url(url))) == parse_store_url(url)


def test_passwords_are_not_shown():
    url = parse_store_url("postgresql://u:secret@h/db?password=secret&sslmode=require#t")
    assert "secret" in url.location
    assert "secret" not in f"{url} {url!r}"


def test_a_missing_client_names_its_extra(monkeypatch):
    def fail(name):
        raise ModuleNotFoundError(name="sqlite_vec")

    monkeypatch.setattr(opening, "import_module", fail)
    with pytest.raises(
        MissingDependency, match=r"sqlite_vec, which is not installed: pip install 'ea_jax\[sqlite-vec\]'"
    ):
        open_store("sqlite-vec:x.db#docs")


@pytest.mark.parametrize("engine", ["qdrant", "chroma", "milvus", "postgresql"])
def test_a_server_that_is_down_is_unavailable(engine):
    need(engine)
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"postgresql://u@127.0.0.1:{port}/db" if engine == "postgresql" else f"{engine}:http://127.0.0.1:{port}"
    with pytest.raises(StoreUnavailable, match=r"does not answer|no connection"):
        open_store(f"{address}#docs")


def test_qdrant_rejects_a_wrong_key():
    need("qdrant")

    class Reject(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(401)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Reject)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(StoreUnavailable, match=r"rejects the API key\. Set QDRANT_API_KEY"):
            open_store(f"qdrant:http://127.0.0.1:{server.server_port}#docs")
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def role(postgres):
    """A role with a password, which may connect and nothing else."""
    import psycopg

    name = f"reader_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"create role {name} login password 'right'")
        file = connection.execute("show hba_file").fetchone()[0]
        with open(file) as stream:
            rules = stream.read()
        with open(file, "w") as stream:
            stream.write(f"local all {name} scram-sha-256\n{rules}")
        connection.execute("select pg_reload_conf()")
    return name


def test_postgres_rejects_wrong_passwords_and_missing_rights(postgres, role):
    import psycopg

    table = f"docs_{role}"
    make_store(f"{postgres}#{table}", make_rows(5)).close()
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"grant select on {table} to {role}")
    wrong = postgres.replace("postgres:@", f"{role}:wrong@")
    with pytest.raises(StoreUnavailable, match="password authentication failed"):
        open_store(f"{wrong}#{table}")
    with open_store(f"{wrong.replace('wrong', 'right')}#{table}") as store:
        assert_same_rows(read_all(store), make_rows(5))
        with pytest.raises(StoreUnavailable, match=r"permission denied.*Connect as a role with"):
            store.write(make_rows(5, seed=1))


def test_postgres_without_pgvector_is_an_error(postgres):
    import psycopg

    name = f"bare_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    with pytest.raises(BadInput, match="has no pgvector"):
        open_store(f"{postgres.replace('/postgres?', f'/{name}?')}#docs")
    with pytest.raises(StoreUnavailable, match='database "nowhere" does not exist'):
        open_store(f"{postgres.replace('/postgres?', '/nowhere?')}#docs")


def test_a_locked_postgres_table_is_unavailable(postgres):
    import psycopg

    table = f"docs_{uuid.uuid4().hex[:8]}"
    with make_store(f"{postgres}#{table}", make_rows(5)) as store, psycopg.connect(postgres) as other:
        other.execute(f"lock table {table}")
        store.connection.execute("set lock_timeout = '50ms'")
        with pytest.raises(StoreUnavailable, match="another session holds a lock"):
            store.write(make_rows(5))
        other.rollback()


def test_postgres_ids_must_be_unique(postgres):
    import psycopg

    table = f"docs_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("create extension if not exists vector")
        connection.execute(f"create table {table} (id text, embedding vector(3))")
    with pytest.raises(BadInput, match="'id' is not unique"):
        open_store(f"{postgres}#{table}")


def test_a_locked_sqlite_file_is_unavailable(folder):
    need("sqlite-vec")
    from ea_jax.integrations.stores.sqlite_vec import _connect

    url = f"sqlite-vec:{folder}/docs.db#docs"
    with make_store(url, make_rows(5)) as store, closing(_connect(parse_store_url(url))) as other:
        other.execute("begin exclusive")
        store.connection.execute("pragma busy_timeout = 20")
        with pytest.raises(StoreUnavailable, match=r"locked\. Another process is writing"):
            store.write(make_rows(5))
        other.execute("rollback")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to read-only files")
def test_a_read_only_sqlite_file_is_unavailable(folder):
    need("sqlite-vec")
    make_store(f"sqlite-vec:{folder}/docs.db#docs", make_rows(5)).close()
    (folder / "docs.db").chmod(0o444)
    with open_store(f"sqlite-vec:{folder}/docs.db#docs") as store, pytest.raises(StoreUnavailable, match="readonly"):
        store.write(make_rows(5))


@pytest.mark.filterwarnings(
    "ignore:.*[.]lock:pytest.PytestUnraisableExceptionWarning"
)  # Qdrant's client leaves its lock file open
@pytest.mark.parametrize(("engine", "place", "lock"), [("qdrant", "q", ".lock"), ("milvus", "m.db", "LOCK")])
def test_a_local_store_in_another_process_is_unavailable(engine, place, lock, folder):
    need(engine)
    url = f"{engine}:{folder}/{place}#docs"
    make_store(url, make_rows(5)).close()
    with (folder / place / lock).open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailable, match=r"one (process )?at a time"):
            open_store(url)
    with open_store(url) as store:
        assert store.describe().rows == 5


def test_a_damaged_faiss_index_is_an_error(folder):
    need("faiss")
    (folder / "docs.faiss").write_bytes(b"not an index")
    with pytest.raises(BadInput, match="not a FAISS index"):
        open_store(f"faiss:{folder}/docs.faiss")


def mixed_store(engine: str, folder, postgres: str) -> str:
    """Make a store with 20 vectors of one width and 3 of another."""
    vectors = [*np.ones((20, WIDTH), np.float32), *np.ones((3, 5), np.float32)]
    if engine == "lancedb":
        import lancedb

        table = pa.table({"id": list(map(str, range(23))), "numbers": pa.array(vectors, pa.list_(pa.float32()))})
        lancedb.connect(folder).create_table("docs", table)
        return f"lancedb:{folder}#docs"
    if engine == "sqlite-vec":
        from ea_jax.integrations.stores.sqlite_vec import _connect

        url = f"sqlite-vec:{folder}/docs.db#docs"
        with closing(_connect(parse_store_url(url))) as connection:
            connection.execute("create table docs (id integer primary key, text text, embedding blob)")
            rows = [("a", vector.tobytes()) for vector in vectors]
            connection.executemany("insert into docs (text, embedding) values (?, ?)", rows)
        return url
    import psycopg

    table = f"docs_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("create extension if not exists vector")
        connection.execute(f"create table {table} (id int primary key, embedding vector)")
        for i, vector in enumerate(vectors):
            connection.execute(f"insert into {table} values (%s, %s)", (i, str(vector.tolist())))
    return f"{postgres}#{table}"


@pytest.mark.parametrize("engine", ["lancedb", "sqlite-vec", "postgresql"])
def test_mixed_widths_are_counted_but_not_read(engine, folder, request):
    need(engine)
    url = mixed_store(engine, folder, request.getfixturevalue("postgres") if engine == "postgresql" else "")
    with open_store(url) as store:
        description = store.describe()
        assert (description.width, description.other_widths) == (WIDTH, {5: 3})
        with pytest.raises(BadInput, match=r"row '2\d' has a vector of width 5 among"):
            list(store.read(("id", "vector")))


def test_qdrant_ids_must_be_integers_or_uuids(folder):
    need("qdrant")
    rows = make_rows(2)
    named = rows.set_column(0, "id", pa.array(["doc-1", "doc-2"]))
    with make_store(f"qdrant:{folder}#docs", rows) as store, pytest.raises(BadInput, match="'doc-1' cannot be an id"):
        store.write(named)


def test_outdated_cursors_are_rejected(folder):
    need("chroma")
    with make_store(f"chroma:{folder}#docs", make_rows(20)) as store:
        chunk = next(store.read(("id",), 5))
        store.collection.delete(ids=[chunk.rows.column("id")[0].as_py()])
        with pytest.raises(BadInput, match="Start again"):
            next(store.read(("id",), 5, after=chunk.cursor))


def test_chroma_writes_respect_its_batch_limit(folder, monkeypatch):
    need("chroma")
    with open_store(f"chroma:{folder}#docs", create=Layout(WIDTH)) as store:
        monkeypatch.setattr(store.client, "get_max_batch_size", lambda: 7)
        store.write(make_rows(20))
        assert_same_rows(read_all(store), make_rows(20))


def test_chroma_vectors_are_read_as_float32(folder):
    need("chroma")
    vectors = np.random.default_rng(0).normal(size=(4, WIDTH)).astype(np.float32)
    rows = make_rows(4).set_column(2, "vector", to_lists(vectors))
    with open_store(f"chroma:{folder}#docs", create=Layout(WIDTH, "euclidean")) as store:  # its client returns float64
        store.write(rows)
        np.testing.assert_array_equal(np.stack(read_all(store).column("vector").to_pylist()), vectors)


def test_a_chroma_server_is_read_written_and_published(folder):
    need("chroma")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "from chromadb.cli.cli import app; app()"
    arguments = ["run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "CHROMA_ANONYMIZED_TELEMETRY": "False"}
    with subprocess.Popen(
        [sys.executable, "-c", command, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            url, rows = f"chroma:http://127.0.0.1:{port}#docs", make_rows(50)
            for _ in range(120):
                with closing(socket.socket()) as probe:
                    probe.settimeout(0.25)
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                threading.Event().wait(0.25)
            with make_store(url, rows) as store:
                assert_same_rows(read_all(store), rows)
                with store.create_sibling("mapped", 4) as sibling:
                    sibling.write(rows.set_column(2, "vector", to_lists(np.ones((50, 4)))))
                    published = sibling.publish("docs")
            with open_store(url) as store:
                assert store.describe().width == 4
                store.unpublish(published)
            with open_store(url) as store:
                assert store.describe().width == WIDTH
            with pytest.raises(UnknownName, match="Did you mean docs"):
                open_store(url.replace("#docs", "#dox"))
        finally:
            server.terminate()
