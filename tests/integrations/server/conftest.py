"""A server in a thread of this process, and toy models for it."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest
import uvicorn

from ea_jax.integrations.server.app import ServerConfig, create_app
from ea_jax.integrations.server.models import Catalog, ServedModel, make_catalog
from ea_jax.integrations.server.run import KEEP_ALIVE

TEXTS = ["where can I get a hamburger", "two words", "the quick brown fox", "hamburger"]


@contextlib.contextmanager
def running(load, config: ServerConfig | None = None, ready: bool = True) -> Iterator[str]:
    """Run a server. Yields its base URL without `/v1`."""
    app = create_app(load, config or ServerConfig(warm=False))
    limits = {"timeout_graceful_shutdown": 10, "timeout_keep_alive": KEEP_ALIVE}
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", **limits))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        while ready and not is_ready(address):
            time.sleep(0.005)
        yield address
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()


def is_ready(address: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/readyz", timeout=5).status_code == 200
    return False


@pytest.fixture(scope="session")
def catalog(toy) -> Catalog:
    return make_catalog([ServedModel("toy-target", ("toy-b", "toy/target"), toy)])


@pytest.fixture(scope="session")
def address(catalog) -> Iterator[str]:
    """A server that many tests share."""
    with running(lambda: catalog) as url:
        yield url
