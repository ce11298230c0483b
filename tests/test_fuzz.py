"""Mutated entries and checkpoints, and what a stranger's registry may claim: a named error, or what was published."""

import json

import pytest

from benchmarks.fuzz import fuzz
from ea_jax.errors import BadEntry, CorruptCheckpoint
from ea_jax.loading import load
from ea_jax.registry import read_entry
from ea_jax.remotes import read_index
from tests.conftest import write_toy_registry

NAME = "toy-a--toy-b--small"


def test_no_mutation_ends_in_more_than_a_named_error(tmp_path):
    found = fuzz(write_toy_registry(tmp_path / "registry"), 200)
    assert sum(found.values()) == 200


def test_an_index_of_a_hundred_thousand_is_read(tmp_path):
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


def test_a_newer_schema_asks_for_a_newer_library(tmp_path):
    file = write_toy_registry(tmp_path / "registry") / NAME / "entry.toml"
    file.write_text("schema = 2\n" + file.read_text())
    with pytest.raises(BadEntry, match=r"is of schema 2, this ea_jax reads 1\. Upgrade"):
        read_entry(file.parent)


def test_what_cannot_be_read_is_a_named_error(tmp_path):
    root = write_toy_registry(tmp_path / "registry")
    file = next((root / NAME / "params").glob("**/0*"))
    file.unlink()
    file.mkdir()  # permissions would not stop a superuser
    with pytest.raises(CorruptCheckpoint, match="is missing"):
        load("toy-a", "toy-b", root=root)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    root = write_toy_registry(tmp_path / "registry")
    file = next((root / NAME / "params").glob("**/0*"))
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptCheckpoint, match="outside"):
        load("toy-a", "toy-b", root=root)
