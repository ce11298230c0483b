"""Each defect of a store raises an error of one sentence: what is wrong, where, and what to do."""

import fcntl
import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.errors import BadInput, MissingDependency, StoreUnavailable, UnknownName
from ea_jax.integrations.stores import Layout, is_store_url, open_store, opening, parse_store_url
from ea_jax.workflows.map_store import map_store
from tests.conftest import write_toy_registry
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


@pytest.mark.parametrize(("engine", "variable"), [("qdrant", "QDRANT_API_KEY"), ("chroma", "CHROMA_TOKEN")])
def test_servers_reject_a_wrong_key(engine, variable):
    need(engine)

    class Reject(BaseHTTPRequestHandler):
        def do_GET(self):
            body = b'{"error": "Unauthorized", "message": "invalid credentials"}'
            self.send_response(401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Reject)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        with pytest.raises(StoreUnavailable, match=f"rejects the (API key|token). Set {variable} to"):
            open_store(f"{engine}:http://127.0.0.1:{server.server_port}#docs")
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


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make a folder read-only. Root can write to it, so become another user."""
    files, user = [folder, *folder.rglob("*")], os.geteuid()
    modes = [path.stat().st_mode for path in files]
    for path, mode in zip(files, modes, strict=True):
        path.chmod(mode & ~0o222 | 0o444)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path, mode in zip(files, modes, strict=True):
            path.chmod(mode)


def write_rows(url: str, rows: pa.RecordBatch) -> None:
    with open_store(url) as store:
        store.write(rows)
        store.flush()


@pytest.mark.filterwarnings("ignore:.*[.]lock:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("engine", "place", "reads"),
    [
        ("qdrant", "qdrant#docs", False),
        ("chroma", "chroma#docs", False),
        ("lancedb", "lancedb#docs", True),
        ("faiss", "docs.faiss", True),
        ("sqlite-vec", "docs.db#docs", True),
    ],
)
def test_a_read_only_folder_is_unavailable(engine, place, reads, folder):
    need(engine)
    rows, url = make_rows(5), f"{engine}:{folder}/{place}"
    make_store(url, rows).close()
    folder.chmod(0o755)
    with read_only(folder):
        if reads:
            with open_store(url) as store:
                assert_same_rows(read_all(store), rows)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"read-?only|writable") as caught:
                write_rows(url, make_rows(5, seed=1))
            assert str(caught.value).count("\n") == 0
    with open_store(url) as store:
        assert_same_rows(read_all(store), rows)


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


def url_with(url: str, option: str) -> str:
    before, mark, name = url.partition("#")
    return f"{before}{'&' if '?' in before else '?'}{option}{mark}{name}"


@pytest.fixture
def run(ea, tmp_path, monkeypatch):
    """Run a command that must fail, and return its message of one line."""
    monkeypatch.setenv("EA_JAX_REGISTRY", str(write_toy_registry(tmp_path / "registry")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))

    def fail(name: str, *stores: str) -> str:
        code, out, err = ea(name, *stores, *(() if name == "check" else ("--source", "toy-a", "--target", "toy-b")))
        assert (code, out) == (1, "")
        assert err.startswith("ea-jax: ")
        assert err.count("\n") == 1
        return err

    return fail


def test_every_bad_name_is_one_sentence(engine, run):
    url, target = engine.url("docs"), engine.url("mapped")
    assert re.search(r"does not exist|is not a folder|has no (table|pgvector)", run("map", url, target))
    make_store(url, make_rows(20, 8)).close()
    for command, stores in (("check", ()), ("fit", ()), ("eval", ()), ("map", (target,))):
        assert re.search(
            r"'dosc'. Did you mean docs|'dosc'. Known|does not exist", run(command, engine.url("dosc"), *stores)
        )
        assert "'txet'" in run(command, url_with(url, "text=txet"), *stores)
    for option in ("vector", "id"):
        assert re.search(
            r"no (option|(id|vector) field) '|cannot be the id", run("check", url_with(url, f"{option}=x"))
        )
    with pytest.raises((UnknownName, BadInput)):
        open_store(target)


def test_an_empty_store_is_one_sentence(engine, run, ea):
    url, target = engine.url("docs"), engine.url("mapped")
    with open_store(url, create=Layout(8)) as store:
        store.flush()
    for command, stores in (("fit", ()), ("eval", ()), ("map", (target,))):
        assert re.search("has no rows|does not exist", run(command, url, *stores))  # FAISS writes no empty file
    with pytest.raises((UnknownName, BadInput)):
        open_store(target)


@pytest.mark.parametrize("engine", ["lancedb", "sqlite-vec", "postgresql"])
def test_mixed_widths_are_one_sentence(engine, run, folder, request):
    need(engine)
    url = mixed_store(engine, folder, request.getfixturevalue("postgres") if engine == "postgresql" else "")
    target = {"lancedb": url_with(url, "vector=mapped"), "sqlite-vec": url.replace("#docs", "#mapped")}
    for command, stores in (("fit", ()), ("eval", ()), ("map", (target.get(engine, url_with(url, "vector=mapped")),))):
        assert f"holds vectors of the widths 5, {WIDTH}" in run(command, url, *stores)
    with pytest.raises((UnknownName, BadInput)):
        open_store(target.get(engine, url_with(url, "vector=mapped")))


def test_a_row_without_a_text_is_named(engine, tmp_path):
    rows = make_rows(20)
    texts = pa.array([None, *rows.column("text").to_pylist()[1:]], pa.string())
    with (
        make_store(engine.url("docs"), rows.set_column(1, "text", texts)) as store,
        open_store(f"sqlite-vec:{tmp_path}/mapped.db#docs", create=Layout(4)) as target,
    ):
        first = rows.column("id")[0].as_py()
        with pytest.raises(BadInput, match=f"row '{first}' has no text. Complete or delete it, or skip such rows"):
            map_store(store, target, lambda texts: np.ones((len(texts), 4)), tmp_path / "job.json", column="text")
        report = map_store(
            store,
            target,
            lambda texts: np.ones((len(texts), 4)),
            tmp_path / "job.json",
            column="text",
            incomplete="skip",
        )
        assert (report.rows, report.skipped) == (19, 1)


def sparse_store(engine: str, folder: Path, postgres: str) -> str:
    """Make a store of 20 rows, of which the second has no vector."""
    vectors: list = [np.eye(8, dtype=np.float32)[i % 8] for i in range(20)]
    vectors[1] = None
    if engine == "qdrant":
        from qdrant_client import QdrantClient, models

        with closing(QdrantClient(path=str(folder))) as client:
            params = models.VectorParams(size=8, distance=models.Distance.COSINE)
            client.create_collection("docs", {"dense": params})
            points = [
                models.PointStruct(
                    id=i, vector={} if v is None else {"dense": v.tolist()}, payload={"text": f"text {i}"}
                )
                for i, v in enumerate(vectors)
            ]
            client.upsert("docs", points)
        return f"qdrant:{folder}#docs"
    if engine == "lancedb":
        import lancedb

        column = pa.array(vectors, pa.list_(pa.float32(), 8))
        ids, texts = list(map(str, range(20))), [f"text {i}" for i in range(20)]
        lancedb.connect(folder).create_table("docs", pa.table({"id": ids, "text": texts, "dense": column}))
        return f"lancedb:{folder}#docs"
    if engine == "sqlite-vec":
        from ea_jax.integrations.stores.sqlite_vec import _connect

        url = f"sqlite-vec:{folder}/docs.db#docs"
        with closing(_connect(parse_store_url(url))) as connection:
            connection.execute("create table docs (id integer primary key, text text, embedding blob)")
            for i, vector in enumerate(vectors):
                blob = None if vector is None else vector.tobytes()
                connection.execute("insert into docs values (?, ?, ?)", (i, f"text {i}", blob))
            connection.commit()
        return url
    import psycopg

    table = f"docs_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("create extension if not exists vector")
        connection.execute(f"create table {table} (id int primary key, text text, embedding vector(8))")
        for i, vector in enumerate(vectors):
            value = None if vector is None else str(vector.tolist())
            connection.execute(f"insert into {table} values (%s, %s, %s)", (i, f"text {i}", value))
    return f"{postgres}#{table}"


@pytest.mark.parametrize("engine", ["qdrant", "lancedb", "sqlite-vec", "postgresql"])
def test_a_row_without_a_vector_is_named(engine, run, ea, folder, tmp_path, request):
    need(engine)
    url = sparse_store(engine, folder, request.getfixturevalue("postgres") if engine == "postgresql" else "")
    target = f"sqlite-vec:{tmp_path}/mapped.db#docs"
    assert "row '1' has no vector. Complete or delete it" in run("map", url, target)
    names = ("--source", "toy-a", "--target", "toy-b")
    code, _, err = ea("map", url, target, *names, "--on-error", "skip")
    assert (code, "19 rows written, 1 skipped" in err) == (0, True)
    code, out, _ = ea("check", url)
    assert code == 0
    assert re.search(r"warning +no vector +1 row have a vector|warning +no vector +1 row have no vector", out)


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
