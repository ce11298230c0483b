"""Files that record another encoder of their vectors are rejected."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.batch import BatchMap
from ea_jax.data import provenance
from ea_jax.data.pairs import Pairs, write_pairs
from ea_jax.data.vectors import encoder_facts
from ea_jax.errors import BadInput, FingerprintMismatch
from ea_jax.registry.entry import read_entry
from ea_jax.registry.fingerprint import check_source, check_source_files
from ea_jax.registry.lookup import find_entry
from tests.conftest import toy_pairs

OTHER = {"model": "toy/other", "fingerprint": "1" * 16}
SAYS_OTHER = {"ea_jax": json.dumps({"encoder": OTHER})}
BOTH = ("model 'toy/other' for 'toy/source'", "fingerprint '1111111111111111' for '0000000000000000'")


def write(path, metadata, x=None):
    x = toy_pairs()[0] if x is None else x
    rows = pa.FixedSizeListArray.from_arrays(x.ravel(), x.shape[1])
    parquet.write_table(pa.table({"x": rows}).replace_schema_metadata(metadata), path)
    return path


def write_said_pairs(path, metadata):
    """Pairs of the toy spaces with metadata; a tenth are queries."""
    x, y = toy_pairs()
    write_pairs(path, Pairs(y, x, query=np.arange(len(x)) % 10 == 0))
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(metadata), path)
    return str(path)


@pytest.fixture
def known(toy_root, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))


def test_the_same_encoder_passes_and_another_is_explained(toy_root):
    entry = find_entry("toy-a", "toy-b", None, toy_root)
    assert check_source(entry.encoder, dict(entry.encoder), "x.parquet", entry.name) == {}
    other = {"model": "toy/other", "fingerprint": "1" * 16, "pooling": "cls"}
    message = (
        r"x.parquet holds .*: model 'toy/other' for 'toy/source'; fingerprint '1{16}' for '0{16}'; "
        r"pooling 'cls' for None\. .*`assume_source`"
    )
    with pytest.raises(FingerprintMismatch, match=message):
        check_source(entry.encoder, other, "x.parquet", entry.name)
    assert check_source(entry.encoder, other, "x.parquet", entry.name, assume_source=True) == {"assumed_source": other}


def test_facts_are_read_from_the_schemas_metadata(tmp_path):
    facts = {"model": "toy/source", "fingerprint": "0" * 16}
    assert encoder_facts(write(tmp_path / "a.parquet", {"ea_jax": json.dumps({"encoder": facts})})) == facts
    assert encoder_facts(write(tmp_path / "b.parquet", None)) is None
    assert encoder_facts(tmp_path / "c.npy") is None
    for broken in ("[1]", "{", '{"encoder": 3}', b"\xff"):
        with pytest.raises(BadInput, match=r"d\.parquet"):
            encoder_facts(write(tmp_path / "d.parquet", {"ea_jax": broken}))


def test_adapter_outputs_are_recorded_as_target_vectors(toy_root, tmp_path):
    facts = {
        "source": "toy/source",
        "target": "toy/target",
        "encoder": {"model": "toy/source", "fingerprint": "0" * 16},
    }
    file = write(tmp_path / "mapped.parquet", {"ea_jax": json.dumps(facts)})
    assert encoder_facts(file) == {"model": "toy/target"}
    with pytest.raises(FingerprintMismatch, match="model 'toy/target' for 'toy/source'"):
        check_source_files([file], find_entry("toy-a", "toy-b", None, toy_root).encoder, "it", False)


def test_drift_rejects_vectors_of_another_encoder(ea, known, tmp_path):
    file = write(tmp_path / "x.parquet", SAYS_OTHER)
    code, out, err = ea("drift", "toy-a--toy-b--small", str(file))
    assert (code, out) == (1, "")
    assert all(fact in err for fact in BOTH)
    assert ea("drift", "toy-a--toy-b--small", str(file), "--assume-source")[0] == 0


def test_map_rejects_another_encoder_and_records_an_override(ea, known, tmp_path):
    line = ["map", str(write(tmp_path / "x.parquet", SAYS_OTHER)), str(tmp_path / "y.parquet")]
    line += ["--source", "toy-a", "--target", "toy-b"]
    code, out, err = ea(*line)
    assert (code, out) == (1, "")
    assert all(fact in err for fact in BOTH)
    assert not (tmp_path / "y.parquet").exists()
    assert ea(*line, "--assume-source")[0] == 0
    metadata = provenance.read(parquet.read_schema(tmp_path / "y.parquet"))
    assert (metadata["assumed_source"], metadata["encoder"]["model"]) == (OTHER, "toy/source")
    same = write(tmp_path / "same.parquet", {"ea_jax": json.dumps({"encoder": {"fingerprint": "0" * 16}})})
    assert ea("map", str(same), str(tmp_path / "z.parquet"), *line[3:])[0] == 0
    assert "assumed_source" not in provenance.read(parquet.read_schema(tmp_path / "z.parquet"))


def test_files_of_one_job_must_record_the_same_encoder(ea, known, tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.parquet", None)
    write(tmp_path / "in" / "b.parquet", SAYS_OTHER)
    code, out, err = ea("map", str(tmp_path / "in"), str(tmp_path / "out"), "--source", "toy-a", "--target", "toy-b")
    assert (code, out) == (1, "")
    assert "a.parquet record different encoders of their vectors" in err


def test_mapped_vectors_are_not_accepted_as_source_vectors(adapt):
    batch = pa.RecordBatch.from_pydict({"x": toy_pairs()[0].tolist()})
    said = {"ea_jax": json.dumps({"source": "toy/other", "target": "toy/source"})}
    run = BatchMap(adapt)
    once = run(batch.replace_schema_metadata(said))
    with pytest.raises(FingerprintMismatch, match="model 'toy/target' for 'toy/source'"):
        run(once)


@pytest.mark.parametrize("command", ["add", "check"])
def test_pairs_of_another_encoder_are_rejected(ea, known, toy_root, tmp_path, command, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    name = "toy-a--toy-b--small"
    line = [command, str(toy_root / name) if command == "add" else name]
    line += ["--pairs", write_said_pairs(tmp_path / "p.parquet", SAYS_OTHER)]
    code, out, err = ea(*line)
    assert code == 1
    assert all(fact in out + err for fact in BOTH)
    assert ea(*line, "--assume-source")[0] == 0


def test_fit_rejects_another_encoder_and_records_an_override(ea, known, tmp_path):
    facts = OTHER | {"prefix": "query: "}
    pairs = write_said_pairs(tmp_path / "p.parquet", {"ea_jax": json.dumps({"encoder": facts})})
    line = [
        "fit",
        pairs,
        "--source",
        "toy-a",
        "--target",
        "toy-b",
        "--out",
        str(tmp_path / "out"),
        "--family",
        "linear",
    ]
    code, out, err = ea(*line)
    assert (code, out) == (1, "")
    assert "model 'toy/other' for 'toy/source'" in err
    assert "prefix 'query: ' for None" in err
    assert not (tmp_path / "out").exists()
    code, out, err = ea(*line, "--assume-source")
    assert code == 0, err
    assert read_entry(Path(out.strip())).training["assumed_source"] == facts
