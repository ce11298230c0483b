"""Maps between stores resume after any interruption, with the same result."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pytest

from ea_jax.errors import BadInput
from ea_jax.integrations.stores import Layout, Store, open_store
from ea_jax.workflows.map_store import map_store
from tests.integrations.stores.conftest import (
    ROWS,
    WIDTH,
    assert_same_rows,
    engine,  # noqa: F401 (a fixture)
    folder,  # noqa: F401
    make_engine,
    make_rows,
    make_store,
    need,
    postgres,  # noqa: F401
    read_all,
    to_lists,
)

KILLED_JOB = """
import sys, time
from pathlib import Path
from ea_jax.integrations.stores import Layout, open_store
from ea_jax.workflows.map_store import map_store

def slow(x):
    time.sleep(0.05)
    return x[:, ::-1][:, :8] * 2

source, target, job = sys.argv[1:]
with open_store(source) as a, open_store(target, Layout(8)) as b:
    map_store(a, b, slow, Path(job), batch_rows=20)
"""


def reverse(x: np.ndarray) -> np.ndarray:
    return x[:, ::-1][:, :8] * 2


def reversed_rows(rows: pa.RecordBatch) -> pa.RecordBatch:
    vectors = np.stack(rows.column("vector").to_pylist()).astype(np.float32)
    return rows.set_column(2, "vector", to_lists(reverse(vectors)))


def unit(rows: pa.RecordBatch) -> pa.RecordBatch:
    vectors = np.stack(rows.column("vector").to_pylist())
    return rows.set_column(2, "vector", to_lists(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))


def sibling_of(store: Store) -> Store:
    return store.create_sibling("mapped", 8, "euclidean")


def test_a_failed_job_resumes_at_its_cursor(engine, tmp_path):  # noqa: F811
    rows, job, calls = make_rows(), tmp_path / "job.json", []

    def failing(x):
        calls.append(len(x))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return reverse(x)

    with make_store(engine.url("docs"), rows) as store, sibling_of(store) as target:
        with pytest.raises(KeyboardInterrupt):
            map_store(store, target, failing, job, batch_rows=64)
        assert json.loads(job.read_text())["rows"] == 3 * 64
    with open_store(engine.url("docs")) as store, sibling_of(store) as target:
        seen = []
        report = map_store(store, target, failing, job, batch_rows=64, advance=seen.append)
        assert (report.rows, report.skipped, report.resumed_at, sum(seen)) == (ROWS, 0, 3 * 64, ROWS)
        again = map_store(store, target, failing, job, batch_rows=64)
        assert again.rows == ROWS
        assert sum(calls) == ROWS + 64
    with open_store(engine.url("docs")) as store, sibling_of(store) as target:
        assert_same_rows(read_all(target), reversed_rows(rows))


@pytest.mark.parametrize("name", ["sqlite-vec", "lancedb", "faiss"])
def test_a_killed_job_resumes_to_the_same_content(name, folder):  # noqa: F811
    need(name)
    stores = make_engine(name, folder)
    make_store(stores.url("docs"), make_rows()).close()
    target, job = stores.url("mapped"), folder / "job.json"
    if name == "lancedb":
        target = stores.url("docs").replace("#", "?vector=mapped#")
    arguments = [sys.executable, "-c", KILLED_JOB, stores.url("docs"), target, str(job)]
    with subprocess.Popen(arguments) as process:
        deadline = time.monotonic() + 60
        while not (job.exists() and json.loads(job.read_text())["rows"] >= 60):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert 60 <= json.loads(job.read_text())["rows"] < ROWS
    with open_store(stores.url("docs")) as store, open_store(target, Layout(8)) as mapped:
        map_store(store, mapped, reverse, job, batch_rows=20)
    with open_store(target) as mapped:
        assert mapped.describe().rows == ROWS
        assert_same_rows(read_all(mapped), reversed_rows(make_rows()))


def test_texts_can_be_embedded_into_another_engine(folder):  # noqa: F811
    need("sqlite-vec")
    need("faiss")
    rows = make_rows(50)
    with (
        make_store(f"sqlite-vec:{folder}/docs.db#docs", rows) as source,
        open_store(f"faiss:{folder}/out.faiss", Layout(2)) as target,
    ):
        map_store(source, target, lambda texts: [[len(text), 1] for text in texts], folder / "job", column="text")
        lengths = np.array([[len(text), 1] for text in rows.column("text").to_pylist()])
        assert_same_rows(read_all(target), rows.set_column(2, "vector", to_lists(lengths)))


@pytest.fixture
def stores(folder):  # noqa: F811
    need("sqlite-vec")
    with make_store(f"sqlite-vec:{folder}/docs.db#docs", make_rows(30)) as source, sibling_of(source) as target:
        yield source, target, folder / "job.json"


def test_incomplete_rows_stop_the_job_or_are_skipped(stores):
    source, target, job = stores
    texts = pa.array([None, " ", *["text"] * 28], pa.string())
    source.write(make_rows(30).set_column(1, "text", texts))
    with pytest.raises(BadInput, match=r"row '[^']+' has no text\. Complete or delete it"):
        map_store(source, target, lambda t: np.ones((len(t), 8)), job, column="text")
    report = map_store(source, target, lambda t: np.ones((len(t), 8)), job, column="text", incomplete="skip")
    assert (report.rows, report.skipped, target.describe().rows) == (28, 2, 28)


def test_a_job_file_belongs_to_one_job(stores):
    source, target, job = stores
    map_store(source, target, reverse, job, label="small")
    with pytest.raises(BadInput, match="label was small and is large"):
        map_store(source, target, reverse, job, label="large")
    job.write_text("{}")
    with pytest.raises(BadInput, match="not the job file"):
        map_store(source, target, reverse, job, label="small")


def test_a_store_is_not_mapped_onto_itself(stores):
    source, _, job = stores
    with pytest.raises(BadInput, match="source and target"):
        map_store(source, source, reverse, job)


@pytest.mark.parametrize("name", ["docs", "live"])
def test_other_urls_of_the_source_are_not_mapped_onto(folder, name):  # noqa: F811
    need("qdrant")
    with make_store(f"qdrant:{folder}/q#docs", make_rows(30)) as source:
        source.publish("live")
        with source.create_sibling(name, WIDTH) as target, pytest.raises(BadInput, match="source and target"):
            map_store(source, target, lambda x: -x, folder / "job.json")
        assert_same_rows(read_all(source), make_rows(30))


def test_functions_must_return_one_vector_per_row(stores):
    source, target, job = stores
    with pytest.raises(BadInput, match=r"shape \(29, 8\) for 30 rows"):
        map_store(source, target, lambda x: reverse(x)[1:], job)
    with pytest.raises(BadInput, match="width 16, but the store's vectors have width 8"):
        map_store(source, target, lambda x: x, job)


def test_an_empty_store_is_an_error(stores, folder):  # noqa: F811
    _, target, job = stores
    empty = open_store(f"sqlite-vec:{folder}/docs.db#empty", Layout(WIDTH))
    with empty, pytest.raises(BadInput, match="no rows to map"):
        map_store(empty, target, reverse, job)
