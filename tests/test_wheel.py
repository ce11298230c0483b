"""The wheel is whole: installed elsewhere, without the checkout and without a network, it lists and loads."""

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_NETWORK = """
import socket

def refuse(*_):
    raise OSError("this test has no network")

socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""
LOAD = """
import ea_jax, numpy as np
adapt, quality = ea_jax.load("minilm", "oai-3-small"), ea_jax.load_quality("minilm", "oai-3-small")
x = np.ones((2, 384), np.float32) / 384**0.5
print(ea_jax.__file__, adapt(adapt.params, x).shape, quality(quality.params, x).confidence.shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory) -> Path:
    """A fresh virtual environment with the wheel in it; what it depends on is seen in that of the tests."""
    home = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(home, with_pip=False)
    packages = next(home.glob("lib/python*/site-packages"))
    install = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--no-index", str(wheel)], check=True, capture_output=True)
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    (packages / "sitecustomize.py").write_text(NO_NETWORK)
    return home


def run(home: Path, *command: str) -> str:
    found = subprocess.run(
        [str(home / "bin" / command[0]), *command[1:]], cwd=home, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


@pytest.mark.slow
def test_it_lists_and_loads_elsewhere_without_a_network(home):
    for name in ("ea-jax", "ea"):
        assert "minilm--oai-3-small--small" in run(home, name, "list")
    file, *shapes = run(home, "python", "-c", LOAD).split(maxsplit=1)
    assert home in Path(file).parents
    assert shapes == ["(2, 1536) (2,)\n"]


def test_it_carries_every_registry_file_and_nothing_of_the_workshop(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(["git", "ls-files", "registry"], cwd=ROOT, capture_output=True, text=True, check=False)
    files = tracked.stdout.split() or [str(f.relative_to(ROOT)) for f in (ROOT / "registry").rglob("*") if f.is_file()]
    assert {file.replace("registry", "ea_jax/_registry", 1) for file in files} <= names
    assert "haystack_integrations/components/embedders/ea_jax/text_embedder.py" in names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "build"))]
