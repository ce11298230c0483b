"""Files that say which encoder made their vectors are held to it."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from ea_jax.errors import BadInput, FingerprintMismatch
from ea_jax.loading import check_provenance
from ea_jax.registry import find_entry
from ea_jax.vectors import encoder_facts
from tests.conftest import toy_pairs


def write(path, metadata):
    rows = pa.FixedSizeListArray.from_arrays(toy_pairs()[0].ravel(), 8)
    parquet.write_table(pa.table({"x": rows}).replace_schema_metadata(metadata), path)
    return path


def test_the_same_encoder_passes_and_another_is_spelled_out(toy_root):
    entry = find_entry("toy-a", "toy-b", None, toy_root)
    assert check_provenance(entry, dict(entry.encoder), "x.parquet") == {}
    other = {"model": "toy/other", "fingerprint": "1" * 16, "pooling": "cls"}
    told = (
        r"x.parquet holds .*: model 'toy/other' for 'toy/source'; fingerprint '1{16}' for '0{16}'; "
        r"pooling 'cls' for None\. .*--assume-source"
    )
    with pytest.raises(FingerprintMismatch, match=told):
        check_provenance(entry, other, "x.parquet")
    assert check_provenance(entry, other, "x.parquet", assume_source=True) == {"assumed_source": other}


def test_facts_are_read_from_the_schemas_metadata(tmp_path):
    facts = {"model": "toy/source", "fingerprint": "0" * 16}
    assert encoder_facts(write(tmp_path / "a.parquet", {"ea_jax": json.dumps({"encoder": facts})})) == facts
    assert encoder_facts(write(tmp_path / "b.parquet", None)) is None
    assert encoder_facts(tmp_path / "c.npy") is None
    for broken in ("[1]", "{", '{"encoder": 3}', b"\xff"):
        with pytest.raises(BadInput, match=r"d\.parquet"):
            encoder_facts(write(tmp_path / "d.parquet", {"ea_jax": broken}))


def test_drift_stops_at_another_encoders_vectors(ea, toy_root, tmp_path, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    other = {"model": "toy/other", "fingerprint": "1" * 16}
    file = write(tmp_path / "x.parquet", {"ea_jax": json.dumps({"encoder": other})})
    code, out, err = ea("drift", "toy-a--toy-b--small", str(file))
    assert (code, out) == (1, "")
    assert "model 'toy/other' for 'toy/source'" in err
    assert ea("drift", "toy-a--toy-b--small", str(file), "--assume-source")[0] == 0
