"""A fake provider, and the command that requests its vectors."""

import threading

import numpy as np
import pytest

from ea_jax.data.pairs import read_pairs
from ea_jax.providers import openai_compatible as providing
from tests.support.openai_server import Server, answer, status, vector

KEY = "sk-test-0123456789"
TEXTS = [f"text {i}" for i in range(40)]
SPACES = """
[[space]]
id = "openai/toy-embedding"
aliases = ["toy"]
width = 12
unit_norm = true
local = false

[[space]]
id = "toy/raw"
aliases = ["raw"]
width = 12
unit_norm = false
local = false
"""


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def provider(server, tmp_path, monkeypatch):
    """The fake provider, with an environment that leads to it, and short waits."""
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "spaces.toml").write_text(SPACES)
    monkeypatch.setenv("EA_JAX_REGISTRY", str(tmp_path / "spaces"))
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(providing, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(providing, "LONGEST_WAIT", 0.05)
    return server


@pytest.fixture
def lines(tmp_path):
    """A file of the texts, one a line."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    return tmp_path / "texts.txt"


@pytest.fixture
def pairs(ea, lines, tmp_path, provider):
    """Run `ea-jax pairs` on the texts: exit code, stdout and stderr."""

    def run(*options: str, texts=(), target: str = "toy", size: str = "4") -> tuple[int, str, str]:
        files = [str(path) for path in texts or [lines]]
        out = ["--out", str(tmp_path / "pairs.parquet")]
        return ea("pairs", *files, "--target", target, *out, "--batch-size", size, *options)

    return run


def check_rows(path, texts=TEXTS):
    result = read_pairs([path])
    assert result.text == list(texts)
    np.testing.assert_allclose(result.y, np.stack([vector(text) for text in texts]), atol=1e-7)
    return result


def half_done(pairs, provider) -> None:
    """Leave a run with two of its ten requests done."""
    provider.faults = [answer, answer, status(401)]
    assert pairs("--workers", "1")[0] == 1
    provider.requests = []
