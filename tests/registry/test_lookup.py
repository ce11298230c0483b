import json
import shutil

import pytest

from ea_jax.errors import BadEntry, BadInput, UnknownName
from ea_jax.loading import load, load_quality
from ea_jax.registry import locations
from ea_jax.registry.lookup import find_entry
from ea_jax.registry.routes import resolve_route
from ea_jax.registry.spaces import find_space, list_spaces
from ea_jax.workflows.fit_entry import find_prior
from tests.conftest import TOY_SPACES, write_toy_registry


@pytest.fixture(scope="module")
def two_flavors(tmp_path_factory):
    return write_toy_registry(tmp_path_factory.mktemp("flavors") / "registry", ("small", "large"))


def test_aliases_and_full_ids_name_the_same_space_in_any_case():
    names = ["minilm", "MiniLM", "all-minilm-l6-v2", "sentence-transformers/all-MiniLM-L6-v2"]
    assert len({find_space(name).id for name in names}) == 1


def test_no_two_spaces_share_a_name():
    names = [name.lower() for space in list_spaces() for name in (space.id, *space.aliases)]
    assert len(names) == len(set(names))


def test_aliases_and_full_ids_load_the_same_adapter(toy_root):
    assert load("toy-a", "toy-b", root=toy_root).spec == load("toy/source", "TOY/Target", root=toy_root).spec


@pytest.mark.parametrize(
    ("source", "target", "flavor", "message"),
    [
        ("toy-aa", "toy-b", None, r"No model space is named 'toy-aa'. Did you mean toy-a"),
        ("toy-a", "zzz", None, r"No model space is named 'zzz'. Known: "),
        ("toy-b", "toy-a", None, r"No adapter goes from toy-b to toy-a. Did you mean toy-a to toy-b\?.*ea-jax fit"),
        ("toy-a", "toy-b", "smal", r"no flavor 'smal'. Did you mean small\?"),
    ],
)
def test_an_unknown_name_gets_suggestions(two_flavors, source, target, flavor, message):
    with pytest.raises(UnknownName, match=message):
        load(source, target, flavor=flavor, root=two_flavors)


def test_the_flavor_is_optional_if_it_is_the_only_one(two_flavors, toy_root):
    assert find_entry("toy-a", "toy-b", "large", two_flavors).name == "toy-a--toy-b--large"
    assert find_entry("toy-a", "toy-b", None, two_flavors).name == "toy-a--toy-b--small"
    assert find_entry("toy-a", "toy-b", None, toy_root).flavor == "small"


def test_your_own_registry_decides_before_the_bundled_one(two_flavors, tmp_path, monkeypatch):
    own = write_toy_registry(tmp_path / "data" / "ea_jax" / "registry", ("mine",))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setattr(locations, "BUNDLED", two_flavors)
    assert find_entry("toy-a", "toy-b").path.parent == own
    assert find_entry("toy-a", "toy-b", "small").path.parent == two_flavors
    assert [entry.flavor for entry in resolve_route(["toy-a", "toy-b"])] == ["mine"]
    spaces = (find_space("toy-a"), find_space("toy-b"))
    facts = find_entry("toy-a", "toy-b").encoder
    assert find_prior(*spaces, facts, "auto", "another").flavor == "small"  # a fit does not start from an earlier fit
    write_toy_registry(own, ("other",))
    with pytest.raises(UnknownName, match=r"several flavors: name one of mine, other\.$"):
        find_entry("toy-a", "toy-b")


def test_an_unknown_purpose_is_rejected(toy_root):
    with pytest.raises(BadInput, match="'stor'; it must be 'store' or 'query'"):
        load.__wrapped__("toy-a", "toy-b", purpose="stor", root=toy_root)  # as it is without the tests' type checker


def test_the_environment_adds_registries_before_the_bundled_one(toy_root, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(toy_root))
    assert load("toy-a", "toy-b").spec.d_out == 12
    assert load_quality("toy-a", "toy-b").spec.d_in == 8
    assert find_space("minilm").width == 384


def test_a_missing_registry_folder_is_an_error(tmp_path):
    with pytest.raises(BadEntry, match="does not exist"):
        load("toy-a", "toy-b", root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('family = "linear"', "", "lacks family"),
        ('family = "linear"', "family = 3", "wrong type for family"),
        ('family = "linear"', 'famly = "linear"', "lacks family; has unknown famly"),
        ('family = "linear"', 'family = "linear', "cannot be read as TOML"),
        ('family = "linear"', 'family = "kernle"', "No adapter family is named 'kernle'"),
        ("d_in = 8", "d_in = 9", r"out.query.kernel.values has shape \(8, 12\), expected \(9, 12\)"),
    ],
)
def test_a_broken_entry_says_which_key_is_wrong(toy_root, tmp_path, old, new, message):
    root = shutil.copytree(toy_root, tmp_path / "registry")
    file = root / "toy-a--toy-b--small" / "entry.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load("toy-a", "toy-b", root=root)


def test_a_broken_space_says_which_key_is_wrong(tmp_path):
    (tmp_path / "spaces.toml").write_text(TOY_SPACES.replace("width = 8", 'width = "8"'))
    with pytest.raises(BadEntry, match=r"spaces.toml has the wrong type for width"):
        find_space("toy-a", tmp_path)


def test_every_bundled_space_has_a_positive_width_and_an_alias():
    for space in list_spaces():
        assert space.width > 0
        assert space.alias != space.id


def test_without_a_flavor_the_choice_must_be_clear(two_flavors, tmp_path):
    root = shutil.copytree(two_flavors, tmp_path / "registry")
    file = root / "toy-a--toy-b--small" / "entry.toml"
    file.write_text(file.read_text().replace('flavor = "small"', 'flavor = "medium"'))
    with pytest.raises(UnknownName, match="several flavors: name one of large, medium"):
        load("toy-a", "toy-b", root=root)


def test_info_shows_which_of_two_adapters_takes_precedence(ea, two_flavors, toy_root, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", f"{two_flavors}:{toy_root}")
    found = json.loads(ea("info", "toy-a--toy-b--small", "--json")[1])["found"]
    assert found == {"registry": str(two_flavors), "hides": [str(toy_root)], "why": "first in search order"}
    assert json.loads(ea("info", "toy-a--toy-b--large", "--json")[1])["found"]["why"] == "the only one of this name"


def test_an_entry_with_escapes_in_its_ids_is_found(toy_root, tmp_path):
    file = shutil.copytree(toy_root, tmp_path / "registry") / "toy-a--toy-b--small" / "entry.toml"
    text = file.read_text()
    assert 'source = "toy/source"' in text
    file.write_text(text.replace("toy/", "toy\\u002F"))
    assert load("toy-a", "toy-b", root=tmp_path / "registry").spec.source == "toy/source"
