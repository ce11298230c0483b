"""`ea-jax map` and `ea-jax embed --input` at the command line."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv, parquet

from ea_jax.batch import Options
from ea_jax.batch.load import MapConfig, load_map
from ea_jax.errors import BadInput
from tests.batch.test_batch_map import plain
from tests.batch.test_job import read, write, x  # noqa: F401 (a fixture)


@pytest.fixture
def toys(monkeypatch, toy_root):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    return ("--source", "toy-a", "--target", "toy-b")


def test_map_prints_the_output_alone_on_stdout(ea, adapt, toys, x, tmp_path):  # noqa: F811
    given, out = write(tmp_path / "in.parquet", x), tmp_path / "out.parquet"
    code, stdout, stderr = ea("map", str(given), str(out), *toys, "--confidence")
    assert (code, stdout) == (0, f"{out}\n")
    assert stderr == "ea-jax: 250 rows read, 250 written; 1 of 1 parts.\n"
    np.testing.assert_allclose(read(out)[0], plain(adapt, x), atol=1e-5)
    assert parquet.read_schema(out).names == ["id", "v", "note", "confidence"]
    code, stdout, _ = ea("map", "--status", str(out))
    assert (code, json.loads(stdout)["state"]) == (0, "done")


def test_what_others_print_during_a_job_is_on_stderr():
    said = """
import os
from ea_jax.cli.jobs import stdout_to_stderr
print("before")
with stdout_to_stderr():
    os.write(1, b"from C++\\n")
    print("from a thread")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before\nafter\n", "from C++\nfrom a thread\n")


def test_what_is_missing_is_said(ea, toys, x, tmp_path):  # noqa: F811
    assert "are required" in ea("map", "in.parquet")[2]
    given = write(tmp_path / "in.parquet", x)
    assert "requires --rejects FILE" in ea("map", str(given), "out", *toys, "--on-error", "skip")[2]
    assert "is not the output of a job" in ea("map", "--status", str(tmp_path))[2]
    assert "go together" in ea("embed", "--input", "a.csv", *toys)[2]


def test_fewer_numbers_are_for_spaces_that_were_trained_so(toy_root):
    with pytest.raises(BadInput, match="is not a Matryoshka model"):
        load_map(MapConfig("toy-a", "toy-b", root=toy_root), Options(dim=4))


def test_files_of_texts_are_embedded(ea, minilm, tmp_path):
    texts = ["Where can I get a hamburger?", 'a "quoted" text,\nof two lines', "a third", ""]
    csv.write_csv(pa.table({"key": ["a", "b", "c", "d"], "text": texts}), tmp_path / "in.csv")
    names = ("--source", "minilm", "--target", "oai-3-small")
    code, _, stderr = ea(
        "embed", "--input", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out.parquet"), *names
    )
    assert code == 0, stderr
    found = parquet.read_table(tmp_path / "out.parquet")
    assert found.schema.names == ["key", "text", "embedding", "confidence"]
    assert found.column("text").to_pylist() == texts
    from ea_jax import load

    adapt = load("minilm", "oai-3-small")
    y = np.asarray(adapt(adapt.params, minilm(texts)))
    np.testing.assert_allclose(np.array(found.column("embedding").to_pylist()), y, atol=1e-4)
