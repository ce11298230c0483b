"""The reader of PyTorch checkpoints: it restores what torch writes, and runs no code of hostile files."""

import io
import pickle
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ea_jax.compat.torch_zip import read_torch_zip
from ea_jax.errors import CorruptCheckpoint

STATE = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.bias": torch.arange(3, dtype=torch.float64),
    "half": torch.arange(5, dtype=torch.float16),
    "brain": torch.arange(5, dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "flags": torch.tensor([True, False]),
}


def saved(path: Path, value) -> Path:
    torch.save(value, path)
    return path


def program_of(path: Path) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def with_program(path: Path, program: bytes, out: Path) -> Path:
    """Copy an archive with another program."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(out, "w") as made:
        for name in archive.namelist():
            made.writestr(name, program if name.endswith("data.pkl") else archive.read(name))
    return out


def test_a_state_dict_matches_torch(tmp_path):
    result = read_torch_zip(saved(tmp_path / "a.pt", STATE))
    assert list(result) == list(STATE)
    for name, tensor in STATE.items():
        assert result[name].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(result[name].astype(np.float64), tensor.double().numpy())


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).T,
        torch.arange(12.0)[3:9].reshape(2, 3),
        torch.arange(12.0)[::2],
        torch.tensor(3.0),
        torch.nn.Parameter(torch.ones(2, 2)),
    ],
    ids=["transposed", "a part", "strided", "a scalar", "a parameter"],
)
def test_views_and_parameters_match_torch(tmp_path, tensor):
    result = read_torch_zip(saved(tmp_path / "a.pt", {"x": tensor}))["x"]
    np.testing.assert_array_equal(result, tensor.detach().numpy())


def test_a_module_with_versions_and_nested_values_is_read(tmp_path):
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3)).state_dict()
    result = read_torch_zip(saved(tmp_path / "a.pt", {"model": state, "epoch": 3, "rates": [0.1, None, (1, "x")]}))
    assert result["model"].keys() == state.keys()
    assert result["epoch"] == 3
    assert result["rates"] == [0.1, None, (1, "x")]


class Hostile:
    """Calls something when it is unpickled."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize("call", ["system", "eval", "getattr", "import", "ordered dict"])
def test_nothing_in_a_hostile_program_is_called(tmp_path, call):
    import os
    from collections import OrderedDict

    victim = tmp_path / "victim"
    victim.write_text("here")
    calls = {
        "system": Hostile(os.system, f"rm {victim}"),
        "eval": Hostile(eval, f"__import__('os').remove({str(victim)!r})"),
        "getattr": Hostile(getattr, os, "remove"),
        "import": Hostile(__import__, "os"),
        "ordered dict": Hostile(OrderedDict, [("a", 1)]),
    }
    try:
        program = pickle.dumps({"x": calls[call]}, protocol=2)
    except (pickle.PicklingError, TypeError):
        program = b"\x80\x02cbuiltins\ngetattr\ncos\nremove\n\x86R."
    path = with_program(saved(tmp_path / "a.pt", STATE), program, tmp_path / "b.pt")
    with pytest.raises(CorruptCheckpoint, match="nothing in it is run"):
        read_torch_zip(path)
    assert victim.read_text() == "here"


def hostile_tensor(offset, shape, stride, count=4, key="0"):
    """Write a program that rebuilds one tensor with these arguments."""
    out = io.BytesIO()

    class Storage(tuple):
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, key, "cpu", count) if isinstance(value, Storage) else None

    Pickler(out, protocol=2).dump({"x": Hostile(torch._utils._rebuild_tensor_v2, Storage(), offset, shape, stride)})
    return out.getvalue()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (hostile_tensor(0, (10**10,), (1,)), "reaches beyond its storage"),
        (hostile_tensor(0, (10**9, 10**9), (0, 0)), "does not match its storage"),
        (hostile_tensor(-1, (2,), (1,)), "offset -1"),
        (hostile_tensor(0, (2,), (-1,)), "strides"),
        (hostile_tensor(3, (2,), (1,)), "reaches beyond"),
        (hostile_tensor(0, (2, 2), (1,)), "not as many strides"),
        (hostile_tensor(0, (2,), (1,), count=10**9), "bytes for"),
        (hostile_tensor(0, (2,), (1,), key="../../etc/passwd"), "broken"),
        (b"\x80\x02}q\x00.extra", None),
        (b"\x80\x02", "broken|no end"),
        (b"", "broken|no end"),
        (b"\x80\x02(lp0\n", "broken|instruction|no end"),
        (b"\x80\x02cos\nsystem\n.", "asks for os.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"i__main__\nX\n.", "broken|instruction"),
    ],
)
def test_a_program_that_claims_too_much_is_refused(tmp_path, program, message):
    state = {"x": torch.zeros(4)}
    path = with_program(saved(tmp_path / "a.pt", state), program, tmp_path / "b.pt")
    if message is None:
        assert read_torch_zip(path) == {}
    else:
        with pytest.raises(CorruptCheckpoint, match=message):
            read_torch_zip(path)


def test_a_compressed_archive_is_refused_before_it_grows(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"0" * 10_000_000)
    with pytest.raises(CorruptCheckpoint, match="compressed"):
        read_torch_zip(tmp_path / "bomb.pt")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a zip"])
def test_another_kind_of_file_is_an_error(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(CorruptCheckpoint):
        read_torch_zip(tmp_path / "a.pt")


def test_mutated_programs_raise_nothing_but_corrupt_checkpoint(tmp_path):
    rng = random.Random(0)
    source = saved(tmp_path / "a.pt", STATE)
    program = program_of(source)
    with zipfile.ZipFile(source) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for _ in range(500):
        changed = bytearray(program)
        for _ in range(rng.randint(1, 4)):
            kind, at = rng.randrange(3), rng.randrange(len(changed))
            if kind == 0:
                changed[at] = rng.randrange(256)
            elif kind == 1:
                del changed[at : at + rng.randint(1, 8)]
            else:
                changed[at:at] = rng.randbytes(rng.randint(1, 8))
        with zipfile.ZipFile(tmp_path / "b.pt", "w") as made:
            for name, data in files.items():
                made.writestr(name, bytes(changed) if name.endswith("data.pkl") else data)
        try:
            read_torch_zip(tmp_path / "b.pt")
        except CorruptCheckpoint:
            continue
