import json
import resource
import shutil
from hashlib import sha256
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pyarrow as pa
import pytest

from ea_jax.errors import CorruptCheckpoint
from ea_jax.io.hashing import values_sha256
from ea_jax.registry.checkpoint import load_params, save_params

TREE = {
    "out": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.linspace(0, 1, 4, dtype=np.float32)},
    "scale": np.asarray(2.5, ml_dtypes.bfloat16),
}
KERNEL = "out.kernel/0.0"


def shapes(tree):
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "params"
    return path, save_params(path, TREE)


def test_saved_parameters_load_bit_for_bit(saved):
    found = load_params(*saved, shapes(TREE))
    assert jax.tree.structure(found) == jax.tree.structure(TREE)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(TREE), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), b)


def test_a_relative_path_loads_too(saved, tmp_path, monkeypatch):
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path / "beside")
    found = load_params(Path("../params"), saved[1], shapes(TREE))
    np.testing.assert_array_equal(found["out"]["kernel"], TREE["out"]["kernel"])


def test_orbax_reads_the_checkpoint(saved):
    with ocp.StandardCheckpointer() as checkpointer:
        found = checkpointer.restore(saved[0])
    np.testing.assert_array_equal(found["out"]["kernel"], TREE["out"]["kernel"])


def test_the_checkpoint_does_not_name_its_folder(saved, tmp_path):
    for file in saved[0].rglob("*"):
        assert file.is_dir() or str(tmp_path).encode() not in file.read_bytes()


def test_saving_twice_replaces_the_first_checkpoint(tmp_path):
    save_params(tmp_path / "params", {"old": np.zeros(3)})
    record = save_params(tmp_path / "params", TREE)
    assert [p.name for p in tmp_path.iterdir()] == ["params"]
    assert load_params(tmp_path / "params", record, shapes(TREE))


def change(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGE = {
    "a changed byte": (lambda path: change(path / KERNEL), r"0\.0 was changed: its SHA-256 is"),
    "a truncated file": (lambda path: (path / KERNEL).write_bytes(b"abc"), r"0\.0 is cut short: it has 3 bytes, but"),
    "a grown file": (lambda path: (path / KERNEL).write_bytes(bytes(9999)), r"0\.0 is too long: it has 9999 bytes"),
    "a missing leaf": (lambda path: shutil.rmtree(path / "out.kernel"), r"out\.kernel.* is missing"),
    "no metadata": (lambda path: (path / "_METADATA").unlink(), r"_METADATA is missing"),
    "nothing at all": (shutil.rmtree, r"is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_that_names_the_file(saved, damage):
    path, record = saved
    break_it, message = DAMAGE[damage]
    break_it(path)
    with pytest.raises(CorruptCheckpoint, match=message):
        load_params(path, record, shapes(TREE))


MISFITS = {
    "a leaf too few": ({**TREE, "more": np.zeros(2)}, "lacks more"),
    "a leaf too many": ({"out": TREE["out"]}, "has unknown scale"),
    "a wrong shape": ({**TREE, "scale": np.zeros(3, ml_dtypes.bfloat16)}, r"scale has shape \(\), expected \(3,\)"),
    "a wrong dtype": ({**TREE, "scale": np.float32(0)}, "scale has dtype bfloat16, expected float32"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_wrong_leaf_is_an_error_that_names_it(saved, misfit):
    wanted, message = MISFITS[misfit]
    with pytest.raises(CorruptCheckpoint, match=message):
        load_params(*saved, shapes(wanted))


def test_changed_values_with_correct_file_hashes_are_rejected(saved):
    path, record = saved
    with pytest.raises(CorruptCheckpoint, match="parameter values"):
        load_params(path, record | {"sha256": "0" * 64}, shapes(TREE))


def facts(**changed):
    """The `.zarray` of three float32 numbers, with some keys replaced."""
    plain = {"zarr_format": 2, "shape": [3], "chunks": [3], "dtype": "<f4", "order": "C", "filters": None}
    return json.dumps(plain | {"compressor": {"id": "zstd"}} | changed).encode()


VALUES = np.array([1, 2, 3], np.float32)
PIECE = pa.compress(VALUES.tobytes(), codec="zstd", asbytes=True)
HUGE = {"shape": [10**5, 10**5], "chunks": [10**5, 10**5]}  # 40 GB in float32
LIES = {
    "10 GB in a few bytes": (
        {"x/.zarray": facts(**HUGE), "x/0.0": PIECE},
        HUGE["shape"],
        "claims 40,000,000,000 bytes",
    ),
    "larger pieces than the array": (
        {"x/.zarray": facts(chunks=[10**10]), "x/0": PIECE},
        [3],
        "that ea_jax does not write",
    ),
    "a bomb": ({"x/.zarray": facts(), "x/0": pa.compress(bytes(10**8), codec="zstd", asbytes=True)}, [3], "cannot be"),
    "no piece": ({"x/.zarray": facts()}, [3], "cannot be read: .*x/0"),
    "another codec": ({"x/.zarray": facts(compressor={"id": "bz2"}), "x/0": PIECE}, [3], "that ea_jax does not write"),
    "a filter": ({"x/.zarray": facts(filters=[{"id": "pickle"}]), "x/0": PIECE}, [3], "that ea_jax does not write"),
    "objects": ({"x/.zarray": facts(dtype="|O"), "x/0": PIECE}, [3], "has dtype object"),
    "a negative shape": (
        {"x/.zarray": facts(shape=[-3], chunks=[-3]), "x/0": PIECE},
        [3],
        "that ea_jax does not write",
    ),
    "another shape": ({"x/.zarray": facts(shape=[4], chunks=[4]), "x/0": PIECE}, [3], "has shape"),
    "no JSON": ({"x/.zarray": b"[" * 10**5, "x/0": PIECE}, [3], "does not describe an array"),
    "another format": ({"x/zarr.json": b"{}", "x/0": PIECE}, [3], "cannot be part of a checkpoint"),
    "nothing": ({"_METADATA": b"{"}, [3], "lacks x"),
}


def write_lie(path, files):
    """Write files, and return the record that matches them."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    records = {name: {"bytes": len(data), "sha256": sha256(data).hexdigest()} for name, data in files.items()}
    return {"sha256": values_sha256({"x": VALUES}), "files": records}


@pytest.mark.parametrize("lie", LIES)
def test_false_headers_with_correct_hashes_do_not_fill_memory(tmp_path, lie):
    files, shape, message = LIES[lie]
    record = write_lie(tmp_path / "params", files)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptCheckpoint, match=message):
        load_params(tmp_path / "params", record, {"x": jax.ShapeDtypeStruct(tuple(shape), np.float32)})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 2**20  # KiB, so a gigabyte


def test_a_hand_written_correct_checkpoint_is_read(tmp_path):
    record = write_lie(tmp_path / "params", {"x/.zarray": facts(), "x/0": PIECE})
    found = load_params(tmp_path / "params", record, {"x": jax.ShapeDtypeStruct((3,), np.float32)})
    np.testing.assert_array_equal(found["x"], VALUES)


def test_an_unrecorded_file_is_rejected(saved):
    path, record = saved
    (path / "out.more").mkdir()
    (path / "out.more" / ".zarray").write_bytes(facts())
    with pytest.raises(CorruptCheckpoint, match=r"out\.more/\.zarray is not recorded in entry\.toml"):
        load_params(path, record, shapes(TREE))


def test_an_unreadable_file_is_a_named_error(saved, monkeypatch):
    path, record = saved

    def denied(file, *arguments, **named):
        raise PermissionError(13, "Permission denied", str(file))

    monkeypatch.setattr(Path, "open", denied)  # the tests may run as a superuser, whom no mode stops
    with pytest.raises(CorruptCheckpoint, match=r"cannot be read: .*Permission denied"):
        load_params(path, record, shapes(TREE))


def test_the_digest_depends_on_paths_dtypes_shapes_and_bytes():
    plain = values_sha256(TREE)
    assert plain == values_sha256(jax.tree.map(jnp.asarray, TREE))
    assert plain == values_sha256(dict(reversed(TREE.items())))
    kernel = TREE["out"]["kernel"]
    others = [
        {**TREE, "scale": np.asarray(2.5, np.float32)},
        {"in": TREE["out"], "scale": TREE["scale"]},
        {**TREE, "out": TREE["out"] | {"kernel": kernel.reshape(4, 3)}},
        {**TREE, "out": TREE["out"] | {"kernel": np.nextafter(kernel, np.float32(99))}},
    ]
    assert len({plain, *map(values_sha256, others)}) == 5
