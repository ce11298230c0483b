"""The user's own registry: damaged entries are rejected before anything is written."""

import json
import os
import shutil
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest
import tomli_w

from ea_jax.data.pairs import Pairs, write_pairs
from ea_jax.errors import CorruptCheckpoint
from ea_jax.io.atomic import replace_folder
from ea_jax.loading import load
from ea_jax.registry.checkpoint import load_params, save_params
from ea_jax.registry.entry import read_entry
from ea_jax.registry.lookup import list_entries
from ea_jax.registry.validate import abstract_stored_params
from ea_jax.retrieval.held_out import held_out_metrics
from ea_jax.workflows.fit_entry import split_test_pairs
from tests.conftest import TOY_SPACES, toy_pairs


@pytest.fixture
def own(tmp_path, monkeypatch, toy_root) -> Path:
    """The folder of the user's registry, which is empty; the toy spaces are known."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    spaces = tmp_path / "spaces"
    spaces.mkdir()
    (spaces / "spaces.toml").write_text(TOY_SPACES)
    monkeypatch.setenv("EA_JAX_REGISTRY", str(spaces))
    return tmp_path / "data" / "ea_jax" / "registry"


@pytest.fixture
def folder(toy_root, tmp_path) -> Path:
    return Path(shutil.copytree(toy_root / "toy-a--toy-b--small", tmp_path / "given"))


def test_an_added_adapter_is_found_by_its_names(ea, own, folder):
    code, out, err = ea("add", str(folder))
    assert (code, err) == (0, "")
    assert out == f"{own / 'toy-a--toy-b--small'}\n"
    names = {row["name"]: row for row in json.loads(ea("list", "--json")[1])}
    assert names["toy-a--toy-b--small"]["path"] == str(own / "toy-a--toy-b--small")
    assert ea("check", "toy-a--toy-b--small") == (0, "toy-a--toy-b--small: whole\n", "")
    assert str(own) in ea("registry")[1]


def test_an_existing_entry_is_replaced_only_on_request(ea, own, folder):
    assert ea("add", str(folder))[0] == 0
    code, out, err = ea("add", str(folder))
    assert (code, out) == (1, "")
    assert "is there already" in err
    assert ea("add", str(folder), "--replace")[0] == 0


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def change(folder: Path, old: str, new: str) -> None:
    file = folder / "entry.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def not_finite(folder: Path) -> None:
    """Set a parameter to NaN, with hashes that match."""
    facts = tomllib.loads((folder / "entry.toml").read_text())
    entry = read_entry(folder)
    params = jax.tree.map(
        np.array, load_params(folder / "params", entry.params, abstract_stored_params(entry.spec("store")))
    )
    params["out"]["store"]["bias"][0] = np.nan
    (folder / "entry.toml").write_text(tomli_w.dumps(facts | {"params": save_params(folder / "params", params)}))


FIRST = '[params.files."'
CLIMBS = '[params.files."../../../etc/passwd"]\nbytes = 1\nsha256 = "0"\n\n'
ABSOLUTE = CLIMBS.replace("../../../etc", "/etc")
BREAKS = {
    "a changed byte": (lambda f: flip(next(f.glob("params/out.store.bias/0*"))), "was changed"),
    "a link": (lambda f: os.symlink("/etc/passwd", f / "quality" / "more"), "is a link"),
    "no entry": (lambda f: (f / "entry.toml").unlink(), "cannot be read as TOML"),
    "not UTF-8": (lambda f: (f / "entry.toml").write_bytes(b"family = '\xff'"), "cannot be read as TOML"),
    "an unknown key": (lambda f: change(f, "family", 'run = "rm"\nfamily'), "has unknown run"),
    "an unknown family": (lambda f: change(f, '"linear"', '"code"'), "No adapter family"),
    "a path in the flavor": (lambda f: change(f, 'flavor = "small"', 'flavor = "../../up"'), "may hold only letters"),
    "another width": (lambda f: change(f, "d_in = 8", "d_in = 5000000000"), "has shape"),
    "no sizes": (lambda f: change(f, "calibration = ", "calibratoin = "), "does not say the sizes"),
    "a name that climbs": (lambda f: change(f, FIRST, CLIMBS + FIRST), "outside"),
    "an absolute name": (lambda f: change(f, FIRST, ABSOLUTE + FIRST), "outside"),
    "not finite": (not_finite, "is not finite"),
}


@pytest.mark.parametrize("kind", list(BREAKS))
def test_a_damaged_entry_is_rejected_and_nothing_is_left(ea, own, folder, kind):
    do, message = BREAKS[kind]
    do(folder)
    code, out, err = ea("add", str(folder))
    assert (code, out) == (1, "")
    assert message in err
    assert not own.exists() or not list(own.iterdir())


def test_parameters_that_are_not_finite_do_not_load(tmp_path, toy_root):
    shutil.copytree(toy_root, tmp_path / "registry")
    not_finite(tmp_path / "registry" / "toy-a--toy-b--small")
    with pytest.raises(CorruptCheckpoint, match=r"out\.store\.bias is not finite"):
        load("toy-a", "toy-b", root=tmp_path / "registry")


def test_check_names_the_damaged_adapter(ea, own, folder):
    assert ea("add", str(folder))[0] == 0
    next((own / "toy-a--toy-b--small" / "quality").rglob("0*")).unlink()
    code, out, err = ea("check", "toy-a--toy-b--small")
    assert code == 1
    assert "is missing" in out
    assert "1 of 1 adapters did not pass" in err


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Test pairs of the toy spaces; a tenth are queries."""
    x, y = toy_pairs()
    write_pairs(tmp_path / "test.parquet", Pairs(y, x, query=np.arange(len(x)) % 10 == 0))
    return tmp_path / "test.parquet"


def record(folder: Path, toy_root: Path, **changed: float) -> None:
    """Record the metrics of the toy pairs in an entry, some of them changed."""
    x, y = toy_pairs()
    test = split_test_pairs(Pairs(y, x, query=np.arange(len(x)) % 10 == 0), "", "")
    adapt = load("toy-a", "toy-b", root=toy_root)
    query = load("toy-a", "toy-b", purpose="query", root=toy_root)
    outputs = {"store": adapt(adapt.params, test.x), "query": query(query.params, test.x)}
    figures = held_out_metrics(test, {name: np.asarray(y) for name, y in outputs.items()})
    figures["query"] |= {name.replace("_", "@"): value for name, value in changed.items()}
    facts = tomllib.loads((folder / "entry.toml").read_text())
    (folder / "entry.toml").write_text(tomli_w.dumps(facts | {"metrics": {"held-out": figures}}))


def test_recorded_metrics_are_reproduced_on_their_pairs(ea, own, folder, toy_root, pairs):
    record(folder, toy_root)
    code, out, err = ea("add", str(folder), "--pairs", str(pairs))
    message = f"the metrics on {pairs} match those recorded for held-out"
    assert (code, out, err) == (0, f"{own / 'toy-a--toy-b--small'}\n", f"ea-jax: {message}\n")
    assert ea("check", "toy-a--toy-b--small", "--pairs", str(pairs)) == (
        0,
        f"toy-a--toy-b--small: whole; {message}\n",
        "",
    )


def test_recorded_metrics_that_differ_are_rejected(ea, own, folder, toy_root, pairs):
    record(folder, toy_root, recall_10=0.123)
    code, out, err = ea("add", str(folder), "--pairs", str(pairs))
    assert (code, out, list(own.iterdir())) == (1, "", [])
    assert "differ from those recorded for held-out: query recall@10" in err
    assert "recorded 0.123. Are these" in err
    assert ea("add", str(folder))[0] == 0
    code, out, err = ea("check", "toy-a--toy-b--small", "--pairs", str(pairs))
    assert (code, "query recall@10" in out) == (1, True)
    assert "1 of 1 adapters did not pass" in err


def test_without_recorded_metrics_the_measured_ones_are_shown(ea, own, folder, pairs):
    assert ea("add", str(folder))[0] == 0
    code, out, _ = ea("check", "toy-a--toy-b--small", "--pairs", str(pairs))
    assert code == 0
    assert f"the entry records no metrics; on {pairs} they are store cosine 0." in out
    assert ea("check", "--pairs", str(pairs))[0] == 2


class Killed(BaseException):
    """An exception that no error handler catches."""


def test_a_kill_during_a_replacement_loses_nothing(ea, own, folder, monkeypatch):
    assert ea("add", str(folder))[0] == 0
    there, rename, moves = own / "toy-a--toy-b--small", Path.rename, []
    marked = (folder / "entry.toml").read_text().replace("Random rows.", "Newer rows.")

    def killed(path, other):
        moves.append(other)
        if other == there:
            raise Killed
        return rename(path, other)

    (folder / "entry.toml").write_text(marked)
    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(Killed):
        ea("add", str(folder), "--replace")
    monkeypatch.undo()
    assert [move.name for move in moves] == [".toy-a--toy-b--small.old", there.name]
    assert not there.exists()
    assert [entry.description for entry in list_entries(own)] == ["Random rows."]
    replace_folder(Path(shutil.copytree(folder, own / ".new")), there)
    assert [entry.description for entry in list_entries(own)] == ["Newer rows."]
    assert [path.name for path in own.iterdir()] == [there.name]
