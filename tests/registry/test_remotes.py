"""Registries on the hub: publishing, adding, listing and downloading; every failure is one sentence."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from ea_jax.errors import BadEntry, BadInput
from ea_jax.registry.index import read_index
from ea_jax.registry.locations import BUNDLED
from ea_jax.registry.remotes import parse_address
from tests.conftest import TOY_SPACES, write_toy_registry
from tests.support.hub import FakeHub, hub

NAME = "toy-a--toy-b--small"
REPO = "owner/adapters"
LOAD = "import ea_jax; print(ea_jax.load('toy-a', 'toy-b').spec.d_out)"
# Fetching needs no JAX.
FIND = "from ea_jax.registry.routes import resolve_route; print(resolve_route(['toy-a', 'toy-b'])[0].d_out)"


class Served(NamedTuple):
    """A stand-in for the hub, and a function that runs `ea-jax` or Python code against it."""

    hub: FakeHub
    run: Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """An empty hub, and a function that runs commands with caches and configuration in the folder."""
    (folder / "spaces").mkdir(parents=True, exist_ok=True)
    (folder / "spaces" / "spaces.toml").write_text(TOY_SPACES)
    with hub() as fake_hub:
        environment = fake_hub.environment(folder / "home")
        environment |= {"EA_JAX_REGISTRY": str(folder / "spaces"), "HF_TOKEN": "hf_x"}
        environment |= {f"XDG_{kind}_HOME": str(folder / kind) for kind in ("CACHE", "CONFIG", "DATA")}

        def run(*command: str, python: str = "", **more: str) -> subprocess.CompletedProcess[str]:
            line = [sys.executable, *(["-c", python] if python else ["-m", "ea_jax.cli", *command])]
            return subprocess.run(line, env=environment | more, capture_output=True, text=True, check=False)

        yield Served(fake_hub, run)


@pytest.fixture
def served(tmp_path):
    with serving(tmp_path) as found:
        yield found


@pytest.fixture
def folder(toy_root, tmp_path) -> Path:
    return Path(shutil.copytree(toy_root / NAME, tmp_path / "given" / NAME))


class Added(NamedTuple):
    """The state after publishing the toy adapter and adding its registry."""

    folder: Path
    repositories: dict[str, dict[str, bytes]]
    commit: str


@pytest.fixture(scope="module")
def once(toy_root, tmp_path_factory) -> Added:
    kept = tmp_path_factory.mktemp("once")
    with serving(kept) as (fake_hub, run):
        assert run("publish", str(toy_root / NAME), f"hf:{REPO}").returncode == 0
        assert run("registry", "add", f"hf:{REPO}").returncode == 0
        return Added(kept, fake_hub.repositories, fake_hub.commit)


@pytest.fixture
def added(once, tmp_path):
    """An added registry on the hub with the toy adapter."""
    shutil.copytree(once.folder, tmp_path, dirs_exist_ok=True)
    with serving(tmp_path) as found:
        found.hub.repositories = {name: dict(files) for name, files in once.repositories.items()}
        found.hub.commit = once.commit
        yield found


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "CACHE" / "ea_jax" / "registries").glob("*/*/*"))


@pytest.mark.slow
def test_a_published_adapter_is_listed_and_downloaded_once(served, folder, tmp_path):
    (fake_hub, run), repo = served, REPO
    found = run("publish", str(folder), f"hf:{repo}")
    assert found.returncode == 0, found.stderr
    files = fake_hub.repositories[repo]
    assert files["README.md"] == files[f"{NAME}/card.md"] == (folder / "card.md").read_bytes()
    assert json.loads(files["index.json"])["adapters"][0]["name"] == NAME
    found = run("registry", "add", f"hf:{repo}")
    assert (found.returncode, found.stdout) == (0, f"hf:{repo}@{fake_hub.commit[:12]}\n"), found.stderr
    assert f"hf:{repo}@{fake_hub.commit[:12]}  (1 adapters)" in run("registry").stdout
    listed = {row["name"]: row for row in json.loads(run("list", "--json").stdout)}
    assert listed[NAME]["registry"].startswith(f"hf:{repo}@")
    assert [path.name for path in cached(tmp_path)] == ["index.json"]
    assert "Bearer hf_x" in fake_hub.tokens
    found = run(python=LOAD)
    assert (found.returncode, found.stdout) == (0, "12\n"), found.stderr
    asked = len(fake_hub.requests)
    assert run(python=LOAD, HF_HUB_OFFLINE="1").stdout == "12\n"
    assert len(fake_hub.requests) == asked
    assert run("registry", "remove", f"hf:{repo}").returncode == 0
    assert "No adapter goes from" in run(python=LOAD).stderr


def test_a_registry_can_be_a_dataset_repository(served, folder):
    fake_hub, run = served
    repo = f"datasets/{REPO}"
    assert run("publish", str(folder), f"hf:{repo}").returncode == 0
    assert run("registry", "add", f"hf:{repo}").stdout == f"hf:{repo}@{fake_hub.commit[:12]}\n"
    assert run(python=FIND).stdout == "12\n"


def test_a_second_adapter_is_added_to_the_index(added, folder):
    fake_hub, run = added
    text = (folder / "entry.toml").read_text()
    (folder / "entry.toml").write_text(text.replace('flavor = "small"', 'flavor = "large"', 1))
    assert run("publish", str(folder), f"hf:{REPO}").returncode == 0
    rows = json.loads(fake_hub.repositories[REPO]["index.json"])["adapters"]
    assert [row["name"] for row in rows] == ["toy-a--toy-b--large", NAME]


def test_a_dry_run_lists_files_without_contacting_the_hub(served, folder):
    fake_hub, run = served
    found = run("publish", str(folder), f"hf:{REPO}", "--dry-run")
    assert found.returncode == 0, found.stderr
    assert f"{NAME}/entry.toml" in found.stdout
    assert found.stdout.splitlines()[-1].split() == ["changed", "index.json"]
    assert fake_hub.requests == []


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gated", "is gated: accept its terms"),
        ("missing", "nor a repository on the hub"),
        ("cut", "could not be fetched from the hub"),
        ("busy", "could not be fetched from the hub"),
        ("offline", "$HF_HUB_OFFLINE forbids"),
        ("full disk", "There is no room on the disk"),
        ("changed", "differs from the published file"),
        ("no network", "could not be fetched from the hub"),
    ],
)
def test_a_failed_download_is_one_sentence_and_leaves_nothing(added, fault, message, tmp_path):
    fake_hub, run = added
    code = f"import ea_jax\n%stry:\n {FIND}\nexcept ea_jax.EaJaxError as e: print(e)"
    broken, more = "", {}
    if fault == "offline":
        more["HF_HUB_OFFLINE"] = "1"
    elif fault == "no network":
        more["HF_ENDPOINT"] = "http://127.0.0.1:9"
    elif fault == "full disk":
        broken = "import shutil, errno\ndef full(*a): raise OSError(errno.ENOSPC, 'full')\nshutil.copyfile = full\n"
    elif fault == "changed":
        name = next(name for name in fake_hub.repositories[REPO] if "params/out.store.bias/0" in name)
        fake_hub.repositories[REPO][name] = fake_hub.repositories[REPO][name][:-1] + b"!"
    else:
        fake_hub.faults["/resolve/"] = fault
    found = run(python=code % broken, HF_HUB_DOWNLOAD_TIMEOUT="2", **more)
    assert message in found.stdout, found.stderr
    assert found.stdout.count("\n") == 1
    assert [path.name for path in cached(tmp_path)] == ["index.json"]
    fake_hub.faults.clear()


def test_a_broken_index_does_not_hide_other_adapters(added, tmp_path):
    _, run = added
    index = cached(tmp_path)[0]
    index.write_text("{")
    found = run("list")
    assert found.returncode == 0, found.stderr
    assert "minilm--oai-3-small--small" in found.stdout
    assert f"{index} is not an index of adapters" in found.stderr
    assert found.stderr.count("\n") == 1
    assert run("registry").returncode == 0


def test_an_interrupted_download_is_resumed(added):
    fake_hub, run = added
    fake_hub.faults["/quality/"] = "busy"
    found = run(python=FIND, HF_HUB_DOWNLOAD_TIMEOUT="2")
    assert "could not be fetched" in found.stderr
    got = {path for path in fake_hub.requests if "/params/" in path}
    assert got
    fake_hub.faults.clear()
    fake_hub.requests.clear()
    found = run(python=LOAD)
    assert found.stdout == "12\n"
    assert not got & set(fake_hub.requests)


def test_a_progress_bar_is_shown_only_on_a_terminal(added, tmp_path):
    _, run = added
    found = run(python=FIND)
    assert (found.stdout, found.stderr) == ("12\n", "")
    shutil.rmtree(cached(tmp_path)[1])
    wide = ["sh", "-c", 'stty cols 100 rows 30 && exec "$0" -c "$1"', sys.executable, FIND]
    watched = run(python=f"import pty; pty.spawn({wide!r})")
    bar = watched.stdout[watched.stdout.rindex(f"Downloading {REPO}") :]
    done, total = re.search(r"(\d+)/(\d+)", bar).groups()
    assert done == total


def test_two_processes_can_download_at_once(added, tmp_path):
    _, run = added
    code = f"import subprocess, sys; p = [subprocess.Popen([sys.executable, '-c', {FIND!r}]) for _ in range(2)]; "
    found = run(python=code + "print(sorted(q.wait() for q in p))")
    assert "[0, 0]" in found.stdout, found.stderr
    assert found.stdout.count("12\n") == 2
    assert [path.name for path in cached(tmp_path)] == ["index.json", NAME]


def test_a_registry_stays_at_its_pinned_commit(added):
    fake_hub, run = added
    pinned = fake_hub.commit
    assert run(python=FIND).stdout == "12\n"
    asked = [path for path in fake_hub.requests if "/resolve/" in path]
    assert asked
    assert all(f"/resolve/{pinned}/" in path for path in asked)
    fake_hub.commit = "b" * 40
    assert run("registry", "add", f"hf:{REPO}").stdout == f"hf:{REPO}@bbbbbbbbbbbb\n"
    assert run(python=FIND).stdout == "12\n"


def test_an_adapter_on_the_hub_is_known_before_its_download(added):
    fake_hub, run = added
    message = json.loads(run("info", NAME, "--json").stdout)
    assert (message["source"], message["flavor"]) == ("toy/source", "small")
    assert message["found"]["registry"].startswith(f"hf:{REPO}@")
    assert "not yet" in message["fetched"]
    found = run("check", NAME)
    assert (found.returncode, found.stdout) == (1, "")
    assert "was not downloaded yet. Load it once" in found.stderr
    assert "toy-a -> toy-b" in run("paths", "toy-a", "toy-b").stdout
    assert not [path for path in fake_hub.requests if "/params/" in path]
    assert run(python=FIND).stdout == "12\n"
    assert run("check", NAME).stdout == f"{NAME}: whole\n"
    assert json.loads(run("info", NAME, "--json").stdout)["d_out"] == 12


def test_a_chain_downloads_adapters_from_the_hub(added, tmp_path):
    _, run = added
    with (tmp_path / "spaces" / "spaces.toml").open("a") as file:
        file.write('\n[[space]]\nid = "toy/third"\naliases = ["toy-c"]\nwidth = 8\nunit_norm = true\nlocal = false\n')
    write_toy_registry(tmp_path / "other")
    there = tmp_path / "spaces" / "toy-c--toy-a--small"
    shutil.copytree(tmp_path / "other" / NAME, there)
    text = (there / "entry.toml").read_text()
    text = text.replace('source = "toy/source"', 'source = "toy/third"').replace('"toy/target"', '"toy/source"')
    (there / "entry.toml").write_text(text)
    code = "from ea_jax.registry.routes import resolve_route; "
    code += "print(*(e.name for e in resolve_route(['toy-c', 'toy-a', 'toy-b'], 'small')))"
    found = run(python=code)
    assert found.stdout == f"toy-c--toy-a--small {NAME}\n", found.stderr
    assert "toy-c -> toy-a -> toy-b" in run("paths", "toy-c", "toy-b").stdout


def test_a_refusal_of_the_hub_is_one_sentence(served, folder):
    fake_hub, run = served
    fake_hub.faults["/commit/"] = "refused"
    found = run("publish", str(folder), f"hf:{REPO}")
    assert (found.returncode, found.stdout) == (1, "")
    message = found.stderr.splitlines()[-1]
    assert message.startswith(f"ea-jax: {REPO} could not be uploaded to the hub (")
    assert "403" in message
    assert message.endswith("Nothing was uploaded; log in with `hf auth login`, or try again.")


@pytest.mark.parametrize("address", ["owner/name", "hf:name", "hf:a/b/c", "hf:../x/y", "https://x/y"])
def test_an_invalid_address_is_rejected(address):
    with pytest.raises(BadInput, match="use hf:owner/name"):
        parse_address(address)


ROW = {"name": "a--b--c", "source": "a", "target": "b", "flavor": "c", "sha256": "0"}
INDEXES = {
    "a newer schema": ({"schema": 2, "adapters": []}, "has schema 2, but this version of ea_jax reads 1"),
    "an unknown key": ({"schema": 1, "adapters": [ROW | {"run": "rm"}]}, "run"),
    "a duplicate name": ({"schema": 1, "adapters": [ROW, ROW]}, "twice"),
    "a name that climbs": ({"schema": 1, "adapters": [ROW | {"name": "../up"}]}, "invalid name"),
    "an absolute name": ({"schema": 1, "adapters": [ROW | {"name": "/etc"}]}, "invalid name"),
    "a number for a text": ({"schema": 1, "adapters": [ROW | {"source": 3}]}, "invalid name|not an index"),
    "a list of numbers": ([1], "not an index"),
}


@pytest.mark.parametrize("kind", INDEXES)
def test_a_hostile_index_is_rejected(tmp_path, kind):
    content, message = INDEXES[kind]
    (tmp_path / "index.json").write_text(json.dumps(content))
    with pytest.raises(BadEntry, match=message):
        read_index(tmp_path / "index.json")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[" * 100_000])
def test_an_index_that_is_not_json_is_rejected(tmp_path, content):
    (tmp_path / "index.json").write_bytes(content)
    with pytest.raises(BadEntry, match="not an index"):
        read_index(tmp_path / "index.json")


def test_the_bundled_registry_is_unchanged():
    assert not (BUNDLED / "index.json").exists()
