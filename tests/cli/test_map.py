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


def test_prints_of_other_libraries_go_to_stderr():
    script = """
import os
from ea_jax.cli.jobs import stdout_to_stderr
print("before")
with stdout_to_stderr():
    os.write(1, b"from C++\\n")
    print("from a thread")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("before\nafter\n", "from C++\nfrom a thread\n")


def test_missing_arguments_are_named(ea, toys, x, tmp_path):  # noqa: F811
    assert "are required" in ea("map", "in.parquet")[2]
    given = write(tmp_path / "in.parquet", x)
    assert "requires --rejects FILE" in ea("map", str(given), "out", *toys, "--on-error", "skip")[2]
    assert "is not the output of a job" in ea("map", "--status", str(tmp_path))[2]
    assert "go together" in ea("embed", "--input", "a.csv", *toys)[2]


def test_dim_requires_a_matryoshka_target(toy_root):
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


def test_a_job_whose_rows_are_all_rejected_fails(ea, toys, tmp_path):
    """F18"""
    parquet.write_table(pa.table({"v": [[0.0] * 8] * 3}), tmp_path / "in.parquet")
    rejects = ("--on-error", "skip", "--rejects", str(tmp_path / "bad.jsonl"))
    code, out, err = ea("map", str(tmp_path / "in.parquet"), str(tmp_path / "out"), *toys, *rejects)
    assert (code, out) == (1, "")
    assert "All 3 rows were rejected" in err
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("name", ["out.xls", "out.csv", "out.v2"])
def test_an_output_of_unknown_suffix_is_refused(ea, toys, x, tmp_path, name):  # noqa: F811
    """F19"""
    given, out = str(write(tmp_path / "in.parquet", x)), tmp_path / name
    code, _, err = ea("map", given, str(out), *toys)
    assert code == 1
    assert f"{out.suffix} files cannot be written" in err
    assert not out.exists()
    assert ea("map", given, f"{out}/", *toys)[0] == 0
    assert ea("map", given, str(out), *toys)[0] == 0  # the folder exists
    assert out.is_dir()


def test_scaled_vectors_are_refused_or_normalized(ea, adapt, toys, x, tmp_path):  # noqa: F811
    """A1"""
    given = str(write(tmp_path / "in.parquet", 5 * x))
    code, _, err = ea("map", given, str(tmp_path / "out.parquet"), *toys)
    assert code == 1
    assert "row 0, column v: the vector has length 5.000, but vectors of toy/source have length 1" in err
    assert "Set --normalize to rescale them" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]  # nothing is left of a refused job
    assert ea("map", given, str(tmp_path / "out.parquet"), *toys, "--normalize")[0] == 0
    np.testing.assert_allclose(read(tmp_path / "out.parquet")[0], plain(adapt, x), atol=1e-5)


def test_our_int8_output_is_mapped_by_its_scales(ea, adapt, toys, x, tmp_path):  # noqa: F811
    """A1"""
    given, codes = write(tmp_path / "in.parquet", x), tmp_path / "codes.parquet"
    scale = np.abs(x).max(1) / 127
    table = parquet.read_table(given)
    q = pa.array(np.round(x / scale[:, None]).astype(np.int8).tolist(), pa.list_(pa.int8(), 8))
    table = table.set_column(1, "v", q).append_column("v_scale", pa.array(scale.astype(np.float32)))
    facts = {"ea_jax": json.dumps({"encoder": {"fingerprint": "0" * 16, "model": "toy/source"}})}
    parquet.write_table(table.replace_schema_metadata(facts), codes)
    code, _, err = ea("map", str(codes), str(tmp_path / "out.parquet"), *toys)
    assert code == 0, err
    assert parquet.read_schema(tmp_path / "out.parquet").names == ["id", "v", "note"]
    np.testing.assert_allclose(read(tmp_path / "out.parquet")[0], plain(adapt, x), atol=0.03)


def test_texts_that_were_cut_are_counted(ea, minilm, tmp_path):
    """F21"""
    (tmp_path / "in.txt").write_text(f"short\n{'long ' * 600}\n")
    names = ("--source", "minilm", "--target", "oai-3-small", "--no-quality")
    code, _, err = ea("embed", "--input", str(tmp_path / "in.txt"), "--output", str(tmp_path / "out.npz"), *names)
    assert code == 0, err
    assert "1 texts are longer than the encoder's limit and were cut" in err


def test_a_field_of_a_struct_is_mapped_beside_it(ea, adapt, toys, x, tmp_path):  # noqa: F811
    """A16"""
    rows = [{"vector": row, "model": "m"} for row in x.tolist()]
    parquet.write_table(pa.table({"id": range(len(x)), "emb": rows}), tmp_path / "in.parquet")
    line = ("map", str(tmp_path / "in.parquet"), str(tmp_path / "out.parquet"), *toys, "--column", "emb.vector")
    code, _, err = ea(*line)
    assert code == 0, err
    assert parquet.read_schema(tmp_path / "out.parquet").names == ["id", "emb", "vector"]
    np.testing.assert_allclose(read(tmp_path / "out.parquet", "vector")[0], plain(adapt, x), atol=1e-5)


def test_unlike_shards_are_one_job(ea, adapt, toys, x, tmp_path):  # noqa: F811
    """A15"""
    (tmp_path / "in").mkdir()
    lists = x.tolist()
    first = pa.table({"id": range(100), "note": pa.nulls(100), "v": pa.array(lists[:100], pa.list_(pa.float32(), 8))})
    second = pa.table({"v": lists[100:], "note": ["a"] * 150, "id": range(100, 250)})
    parquet.write_table(first, tmp_path / "in" / "a.parquet")
    parquet.write_table(second, tmp_path / "in" / "b.parquet")
    code, _, err = ea("map", str(tmp_path / "in"), str(tmp_path / "out.parquet"), *toys)
    assert code == 0, err
    y, ids = read(tmp_path / "out.parquet")
    assert ids == list(range(250))
    np.testing.assert_allclose(y, plain(adapt, x), atol=1e-5)
