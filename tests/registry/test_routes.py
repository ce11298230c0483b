import json
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from ea_jax.errors import BadEntry, UnknownName
from ea_jax.fitting import fit
from ea_jax.loading import load
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.lookup import find_entry, list_entries
from ea_jax.registry.routes import FILE, MeasuredRoute, _read_measured, list_routes, params_digest, resolve_route
from ea_jax.registry.spaces import find_space
from ea_jax.workflows.fit_entry import save_entry
from tests.conftest import TOY_SPACES, toy_pairs

THIRD = """
[[space]]
id = "toy/third"
aliases = ["toy-c"]
width = 10
unit_norm = true
local = false
"""
ADAPTERS = (
    ("toy-a", "toy-b", "small"),
    ("toy-b", "toy-c", "small"),
    ("toy-b", "toy-c", "large"),
    ("toy-c", "toy-b", "small"),
)
DETOUR = ("toy-a", "toy-b", "toy-c")


def metrics(recall: float) -> dict:
    """Metrics with one recall."""
    row = {"cosine": 0.5, "recall@1": 0.1, "recall@5": 0.2, "recall@10": recall}
    return {"in-domain": dict.fromkeys(("store", "query", "keep_source"), row)}


def write_three_spaces(root: Path, direct: bool = False) -> Path:
    """A registry folder of three toy spaces: a to b in one flavor, b to c in two, c to b, and optionally a to c."""
    root.mkdir(parents=True)
    (root / "spaces.toml").write_text(TOY_SPACES + THIRD)
    x, y = toy_pairs()
    z = y[:, :10] / (y[:, :10] ** 2).sum(axis=1, keepdims=True) ** 0.5
    rows = {"toy-a": x, "toy-b": y, "toy-c": z}
    for i, (source, target, flavor) in enumerate([*ADAPTERS, *[("toy-a", "toy-c", "small")] * direct]):
        save_entry(
            root,
            fit(rows[source], rows[target], family="linear", seed=i),
            find_space(source, root),
            find_space(target, root),
            flavor=flavor,
            encoder={"model": source, "fingerprint": "0" * 16},
            metrics=metrics(0.5 + 0.1 * i),
            description="Random rows.",
        )
    return root


def write_paths(root: Path, recall: dict[str, float], **changes) -> None:
    """Record a measured recall for the route from a to c over b."""
    params = [params_digest(entry) for entry in resolve_route(DETOUR, "large", root)]
    facts = {"spaces": list(DETOUR), "flavor": "large", "params": params, "recall": recall} | changes
    (root / FILE).write_text(tomli_w.dumps({"path": [facts]}))


@pytest.fixture(scope="module")
def _made(tmp_path_factory):
    return write_three_spaces(tmp_path_factory.mktemp("three") / "registry", direct=True)


@pytest.fixture
def root(_made):
    """A registry with a direct adapter and a route of two hops, which was not measured."""
    yield _made
    (_made / FILE).unlink(missing_ok=True)


@pytest.fixture
def apart(root):
    """The same without the direct adapter."""
    file = root / "toy-a--toy-c--small" / "entry.toml"
    away = file.rename(file.with_suffix(".away"))
    yield root
    away.rename(file)


def test_one_hop_is_listed_in_each_flavor_two_in_one(root):
    found = [(route.spaces, route.flavor) for route in list_routes(root=root)]
    assert found == [
        (("toy-a", "toy-b"), "small"),
        (("toy-a", "toy-c", "toy-b"), "small"),
        (("toy-a", "toy-c"), "small"),
        (DETOUR, "large"),
        (("toy-b", "toy-c"), "large"),
        (("toy-b", "toy-c"), "small"),
        (("toy-c", "toy-b"), "small"),
    ]


def test_ends_and_hops_narrow_the_list(root):
    assert {route.spaces for route in list_routes("TOY/source", "toy-c", root=root)} == {("toy-a", "toy-c"), DETOUR}
    assert {route.spaces[-1] for route in list_routes(target="toy-b", root=root)} == {"toy-b"}
    assert {route.hops for route in list_routes(root=root, hops=1)} == {1}
    assert list_routes("toy-c", "toy-a", root=root) == []
    with pytest.raises(UnknownName, match="Did you mean toy-c"):
        list_routes("toy-cc", root=root)


def test_recall_comes_from_entries_and_from_measured_routes(root):
    direct, detour = list_routes("toy-a", "toy-c", root=root)
    assert direct.recall == {"in-domain": 0.9}
    assert (direct.direct, direct.cost) == (None, {})
    assert (detour.recall, detour.direct, detour.cost) == ({}, {"in-domain": 0.9}, {})
    write_paths(root, {"in-domain": 0.7512, "elsewhere": 0.3})
    detour = list_routes("toy-a", "toy-c", root=root)[1]
    assert detour.recall == {"in-domain": 0.7512, "elsewhere": 0.3}
    assert detour.cost == {"in-domain": -0.1488}


def test_recall_measured_with_other_parameters_is_ignored(root):
    write_paths(root, {"in-domain": 0.75}, params=["0" * 16, "1" * 16])
    assert list_routes("toy-a", "toy-c", root=root)[1].recall == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[path]]\nspaces = []\nparams = []", "paths.toml lacks recall"),
        ("[[path]]\nspaces = 'a'\nparams = []\nrecall = {}", "paths.toml has the wrong type for spaces"),
        ("[[path]", "paths.toml cannot be read as TOML"),
    ],
)
def test_a_broken_file_of_routes_is_explained(root, text, message):
    (root / FILE).write_text(text)
    with pytest.raises(BadEntry, match=message):
        list_routes(root=root)


def test_without_a_direct_adapter_the_error_suggests_a_route(apart):
    with pytest.raises(UnknownName, match=r"ea-jax paths toy-a toy-c` lists .* none of which was measured\.$"):
        load("toy-a", "toy-c", root=apart)
    write_paths(apart, {"in-domain": 0.75})
    message = r'No adapter .*R@10 of 0.750 in-domain: load\("toy-a", "toy-c", via="toy-b", flavor="large"\)\.$'
    with pytest.raises(UnknownName, match=message):
        load("toy-a", "toy-c", root=apart)
    with pytest.raises(UnknownName, match=r"makes one from pairs\.$"):
        load("toy-c", "toy-a", root=apart)


def test_an_unknown_flavor_does_not_suggest_a_route(root):
    write_paths(root, {"in-domain": 0.75})
    with pytest.raises(UnknownName, match=r"has no flavor 'huge'\. Known: small\.$"):
        load("toy-a", "toy-c", flavor="huge", root=root)


def test_hops_without_the_flavor_use_their_default(root):
    names = [find_entry("toy-a", "toy-b", root=root).name, find_entry("toy-b", "toy-c", root=root).name]
    assert [entry.name for entry in resolve_route(DETOUR, None, root)] == names
    assert [entry.flavor for entry in resolve_route(DETOUR, "large", root)] == ["small", "large"]


def test_the_command_shows_recall_and_what_is_not_measured(ea, apart, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(apart))
    write_paths(apart, {"in-domain": 0.75})
    code, out, err = ea("paths", "toy-a", "toy-c")
    assert (code, err) == (0, "")
    assert out == (
        "route                    flavor  R@10 in-domain  difference to direct\n"
        "toy-a -> toy-b -> toy-c  large   0.750           no direct adapter\n"
    )
    assert "toy-b -> toy-c  small" in ea("paths", "toy-b", "--hops", "1")[1]
    assert ea("paths", "toy-c", "toy-a") == (0, "", "ea-jax: There is no such route.\n")
    assert ea("paths", "toy-a", "toy-c", "--hops", "1") == (0, "", "ea-jax: There is no such route.\n")
    assert ea("paths", "--hops", "3")[0] == 2


def test_the_command_shows_the_cost_of_a_route(ea, root, monkeypatch):
    monkeypatch.setenv("EA_JAX_REGISTRY", str(root))
    assert "not measured" in ea("paths", "toy-a", "toy-c")[1]
    write_paths(root, {"in-domain": 0.75})
    assert ea("paths", "toy-a", "toy-c")[1].splitlines()[2].endswith("large   0.750           -0.150")
    direct, detour = json.loads(ea("paths", "toy-a", "toy-c", "--json")[1])
    assert (direct["hops"], direct["direct"], direct["recall"]) == (1, None, {"in-domain": 0.9})
    assert detour == {
        "spaces": list(DETOUR),
        "flavor": "large",
        "recall": {"in-domain": 0.75},
        "direct": {"in-domain": 0.9},
        "hops": 2,
        "cost": {"in-domain": -0.15},
    }


def test_listing_routes_imports_nothing_heavy():
    code = "import sys; from ea_jax.registry.routes import list_routes; list_routes(); "
    code += "print({'jax', 'numpy', 'flax'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_measured_route_uses_bundled_adapters():
    known = {params_digest(entry) for entry in list_entries(BUNDLED)}
    for params, measured in _read_measured(BUNDLED).items():
        assert isinstance(measured, MeasuredRoute)
        assert known >= set(params), f"{measured.spaces}: python -m benchmarks.retrieval.routes measures it again"
