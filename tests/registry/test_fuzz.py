"""Mutated entries, checkpoints and indexes give a named error or the published values."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.robustness.fuzz import KINDS, fuzz
from ea_jax.errors import BadEntry, CorruptCheckpoint
from ea_jax.loading import load
from ea_jax.registry.entry import read_entry
from ea_jax.registry.index import read_index

NAME = "toy-a--toy-b--small"


@pytest.fixture
def root(toy_root, tmp_path) -> Path:
    """A registry that the test may damage."""
    return Path(shutil.copytree(toy_root, tmp_path / "registry"))


def test_every_mutation_ends_in_a_named_error(root):
    found = fuzz(root, 70)
    assert [sum(outcomes.values()) for outcomes in found.values()] == [10] * len(KINDS)


def test_the_fuzzer_detects_unnamed_errors_and_changed_parameters(root, monkeypatch):
    monkeypatch.setattr("benchmarks.robustness.fuzz.read_checkpoint", None)
    with pytest.raises(TypeError, match="not callable"):
        fuzz(root, 3)
    monkeypatch.undo()
    monkeypatch.setattr("benchmarks.robustness.fuzz.mutate", lambda data, rng: data)
    monkeypatch.setattr("benchmarks.robustness.fuzz.np.array_equal", lambda a, b: False)
    with pytest.raises(AssertionError):
        fuzz(root, 1)


def test_an_index_of_a_hundred_thousand_adapters_is_read(tmp_path):
    row = {
        "source": "toy/source",
        "target": "toy/target",
        "sha256": "0" * 64,
        "description": "Random rows.",
        "tags": [],
    }
    rows = [row | {"name": f"toy-a--toy-b--f{i}", "flavor": f"f{i}"} for i in range(100_000)]
    (tmp_path / "index.json").write_text(json.dumps({"schema": 1, "adapters": rows}))
    assert len(read_index(tmp_path / "index.json")) == 100_000


def test_a_newer_schema_suggests_an_upgrade(root):
    file = root / NAME / "entry.toml"
    file.write_text("schema = 2\n" + file.read_text())
    with pytest.raises(BadEntry, match=r"has schema 2, but this version of ea_jax reads 1\. Upgrade"):
        read_entry(file.parent)


@pytest.mark.parametrize("command", ["list", "load", "check"])
def test_an_unreadable_entry_is_a_named_error(root, monkeypatch, ea, command):
    read = Path.read_text

    def denied(file, *arguments, **named):
        if file.name == "entry.toml" and root in file.parents:
            raise PermissionError(13, "Permission denied", str(file))
        return read(file, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", denied)  # the tests may run as a superuser, whom no mode stops
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    if command == "load":
        with pytest.raises(BadEntry, match=r"entry.toml cannot be read as TOML: .*Permission denied"):
            load("toy-a", "toy-b")
        return
    code, out, err = ea(*{"list": ["list"], "check": ["check", NAME]}[command])
    assert code == (command == "check")
    assert "Permission denied" in (out if command == "check" else err)
    assert "Traceback" not in err
    if command == "list":
        assert "minilm--oai-3-small--small" in out


def test_a_link_out_of_the_folder_is_not_followed(root, tmp_path):
    file = next((root / NAME / "params").glob("**/0*"))
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpoint, match="outside"):
        load("toy-a", "toy-b", root=root)


def test_a_link_to_a_checkpoint_is_not_followed(root, tmp_path):
    (root / NAME / "params").rename(tmp_path / "elsewhere")
    (root / NAME / "params").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpoint, match="is a link"):
        load("toy-a", "toy-b", root=root)


CLAIMS = {
    "a number for a text": ('family = "linear"', 'family = "linear"\nsource = 3', "cannot be read"),
    "no width": ("d_in = 8", "d_in = 0", "has impossible sizes"),
    "a truth value for a width": ("d_in = 8", "d_in = true", "has impossible sizes"),
    "an endless network": ("[sizes]", "[sizes]\ndepth = 1000000000", "has impossible sizes"),
    "figures that are texts": ("[metrics]", "[metrics]\nx = 3", "metrics that are not numbers"),
    "tags that are numbers": ("tags = []", "tags = [3]", "wrong type for tags"),
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_impossible_facts_are_rejected(root, kind):
    old, new, message = CLAIMS[kind]
    file = root / NAME / "entry.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(BadEntry, match=message):
        read_entry(file.parent)


def test_two_entries_for_the_same_pair_and_flavor_are_rejected(root):
    shutil.copytree(root / NAME, root / "another")
    with pytest.raises(
        BadEntry, match=r"another and .*toy-a--toy-b--small both map toy-a to toy-b with flavor 'small'"
    ):
        load("toy-a", "toy-b", root=root)


def test_control_characters_are_printed_as_escapes(root, monkeypatch, ea):
    file = root / NAME / "entry.toml"
    file.write_text(file.read_text().replace("tags = []", 'tags = ["\\u001b[2J"]'))
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    assert "\\x1b[2J" in ea("list")[1]
    assert "\x1b" not in ea("info", NAME)[1]
