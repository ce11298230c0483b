"""Servers in processes of their own, and light clients for them."""

import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

ROOT = Path(__file__).parents[2]
MODEL = "text-embedding-3-small"
SOURCE, TARGET = "minilm-plus", "oai-3-small"
QUERY_WORDS = (3, 5, 8, 12, 20)
MIXED_WORDS = (*QUERY_WORDS, 40, 80, 160)
JSON = {"Content-Type": "application/json"}

# MiniLM in sentence-transformers behind FastAPI: what people write first. Its vectors are in the space of MiniLM.
PLAIN = """
import sys
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
import uvicorn

class Body(BaseModel):
    model: str
    input: list[str]
    encoding_format: str = "float"

model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()

@app.get("/readyz")
def ready():
    return {}

@app.post("/v1/embeddings")
def embed(body: Body):
    rows = model.encode(body.input, normalize_embeddings=True).tolist()
    return {"data": [{"index": i, "embedding": row} for i, row in enumerate(rows)]}

uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""


class Running(NamedTuple):
    """A running server.

    Attributes:
        port: Port on loopback.
        seconds: Seconds from the start of the process to the first 200 of `/readyz`.
        process: The process, whose memory can be read.
    """

    port: int
    seconds: float
    process: psutil.Process


def texts(count: int, words: Sequence[int] = MIXED_WORDS, seed: int = 0) -> list[str]:
    """Random spans of words from the READMEs of the package, of the given numbers of words in equal shares."""
    prose = " ".join(path.read_text() for path in sorted((ROOT / "ea_jax").glob("**/README.md")))
    known, rng = re.findall(r"[A-Za-z]+", prose), random.Random(seed)
    starts = [rng.randrange(len(known) - max(words)) for _ in range(count)]
    return [" ".join(known[start : start + rng.choice(words)]) for start in starts]


class Client:
    """A client with one persistent connection, to be used as a context manager."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post(self, body: bytes, headers: dict[str, str] = JSON) -> tuple[int, bytes]:
        """Send a body to `/v1/embeddings`. Returns the status and the body of the response."""
        self._connection.request("POST", "/v1/embeddings", body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()

    def embed(self, batch: Sequence[str], encoding: str = "base64", **fields: Any) -> bytes:
        """Embed texts. Returns the body of the response, which must have status 200."""
        body = {"model": MODEL, "input": batch, "encoding_format": encoding, **fields}
        status, content = self.post(json.dumps(body).encode())
        if status != 200:
            raise RuntimeError(f"{status}: {content[:300]!r}")
        return content

    def get(self, path: str) -> tuple[int, bytes]:
        """Read another path."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        return response.status, response.read()


def ea_jax_command(*options: str) -> Callable[[int], list[str]]:
    """Command line of `ea-jax serve` for a port."""
    names = ["--source", SOURCE, "--target", TARGET, *options]
    return lambda port: [sys.executable, "-m", "ea_jax.cli", "serve", *names, "--port", str(port)]


def plain_command() -> Callable[[int], list[str]]:
    """Command line of the plain server for a port."""
    folder = subprocess.check_output([sys.executable, "-m", "ea_jax.cli", "fetch", "minilm"], text=True).strip()
    return lambda port: [sys.executable, "-c", PLAIN, folder, str(port)]


@contextmanager
def running(command: Callable[[int], list[str]], **environment: str) -> Iterator[Running]:
    """Run a server until the block ends. Its messages are shown if it fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command(port), env=os.environ | environment, stdout=log, stderr=log)
        try:
            while not is_ready(port):
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(f"The server exited with status {process.returncode}: {log.read().decode()}")
                time.sleep(0.02)
            yield Running(port, time.perf_counter() - start, psutil.Process(process.pid))
        finally:
            process.terminate()
            process.wait(60)


def is_ready(port: int) -> bool:
    """Whether `/readyz` responds with status 200."""
    try:
        return get(port, "/readyz")[0] == 200
    except OSError:
        return False


def get(port: int, path: str) -> tuple[int, bytes]:
    """Read a path on a connection of its own. Returns the status and the body of the response."""
    with Client(port) as client:
        return client.get(path)


def wait_for_batches(port: int) -> None:
    """Wait until the programs for several texts at once are compiled, which follows readiness."""
    while b"ea_jax_largest_group_texts 16.0" not in get(port, "/metrics")[1]:
        time.sleep(0.2)


def send_together(clients: int, jobs: Sequence[Any], send: Callable[[Client, Any], object], port: int) -> float:
    """Send jobs from concurrent clients, each of which waits for its answer. Returns the seconds for all.

    Raises:
        Exception: The first error of a client.
    """
    waiting, lock, errors = list(reversed(jobs)), threading.Lock(), []

    def work() -> None:
        try:
            with Client(port) as client:
                while not errors:
                    with lock:
                        if not waiting:
                            return
                        job = waiting.pop()
                    send(client, job)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return time.perf_counter() - start
