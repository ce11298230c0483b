"""Two CPU devices, rank promotion as an error, and fixtures that many tests share."""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"  # compiling takes longer than running
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"  # workers and commands share small compiled programs too
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["XDG_DATA_HOME"] = str(  # neither the user's registry nor another worker's
    Path(__file__).parent.parent / ".pytest_cache" / os.environ.get("PYTEST_XDIST_WORKER", "alone") / "data"
)
os.environ["XDG_CONFIG_HOME"] = str(Path(os.environ["XDG_DATA_HOME"]).parent / "config")
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # torch threads wait without spinning, because another worker needs the core

import sys

import jax
import numpy as np
import pytest

from ea_jax.cli import main
from ea_jax.errors import EncoderNotFound
from ea_jax.fitting import fit
from ea_jax.loading import load, load_encoder
from ea_jax.registry.spaces import find_space
from ea_jax.workflows.fit_entry import save_entry

TOY_SPACES = """
[[space]]
id = "toy/source"
aliases = ["toy-a"]
width = 8
unit_norm = true
local = false

[[space]]
id = "toy/target"
aliases = ["toy-b"]
width = 12
unit_norm = true
local = false
"""


def unit_rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Random float32 rows of length one."""
    rows = rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def toy_pairs(n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose target is a noisy linear map of the source, scaled to unit length."""
    rng = np.random.default_rng(0)
    x = unit_rows(rng, n, 8)
    y = x @ rng.normal(size=(8, 12)) + 0.5 + 0.1 * rng.normal(size=(n, 12))
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype(np.float32)


def write_toy_registry(root: Path, flavors: tuple[str, ...] = ("small",), family="linear") -> Path:
    """A registry folder with toy spaces and a real, fitted adapter in each flavor."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "spaces.toml").write_text(TOY_SPACES)
    fitted = fit(*toy_pairs(), family=family)
    for flavor in flavors:
        save_entry(
            root,
            fitted,
            find_space("toy-a", root),
            find_space("toy-b", root),
            flavor=flavor,
            encoder={"model": "toy/source", "fingerprint": "0" * 16},
            metrics={},
            description="Random rows.",
        )
    return root


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory) -> Path:
    """A read-only registry."""
    return write_toy_registry(tmp_path_factory.mktemp("toy") / "registry")


@pytest.fixture(scope="session")
def adapt(toy_root):
    return load("toy-a", "toy-b", root=toy_root)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def minilm():
    try:
        return load_encoder("minilm")
    except EncoderNotFound as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real pairs, which are not part of the repository."""
    folder = Path(__file__).parent.parent.parent / "shared" / "data"
    if not (folder / "split.py").exists():
        pytest.skip("the real pairs are not on this machine")
    return folder


@pytest.fixture
def ea(monkeypatch, capsys):
    """Run the command line in this process: `ea("list", "--json")` gives exit code, stdout and stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ea-jax", *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run
