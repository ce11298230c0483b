import numpy as np
import pytest

from ea_jax import loading
from ea_jax.batch.batch_map import Options
from ea_jax.batch.load import MapConfig, load_map
from ea_jax.errors import BadInput
from ea_jax.loading import load, load_adapter, load_adapters, load_quality, load_quality_part, resolve_entry
from tests.conftest import toy_pairs


@pytest.fixture
def reads(monkeypatch):
    """The folders of the checkpoints that are read."""
    folders = []

    def load_params(path, *arguments):
        folders.append(path.name)
        return original(path, *arguments)

    original = loading.load_params
    monkeypatch.setattr(loading, "load_params", load_params)
    return folders


@pytest.fixture
def entry(toy_root):
    return resolve_entry("toy-a", "toy-b", root=toy_root)


def test_entries_and_names_load_the_same_objects(entry, toy_root):
    x = toy_pairs()[0]
    for purpose in ("store", "query"):
        by_name = load("toy-a", "toy-b", purpose=purpose, root=toy_root)
        by_entry = load_adapter(entry, purpose)
        assert by_entry.spec == by_name.spec
        np.testing.assert_array_equal(by_entry(by_entry.params, x), by_name(by_name.params, x))
    by_name = load_quality("toy-a", "toy-b", root=toy_root)
    by_entry = load_quality_part(entry, load_adapter(entry))
    for a, b in zip(by_entry(by_entry.params, x), by_name(by_name.params, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_checkpoint_is_read_once(entry, toy_root, reads):
    load_quality_part(entry, load_adapters(entry)["store"])
    assert reads == ["params", "quality"]
    reads.clear()
    load_map(MapConfig("toy-a", "toy-b", purpose="query", confidence=True, root=toy_root), Options())
    assert reads == ["params", "quality"]


def test_quality_needs_the_store_adapter_of_its_entry(entry):
    with pytest.raises(BadInput, match="not that of toy-a--toy-b--small for the purpose 'store'"):
        load_quality_part(entry, load_adapter(entry, "query"))
