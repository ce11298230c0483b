"""`ea-jax serve`: latency of single queries, throughput with concurrent clients, time until ready, memory.

    python -m benchmarks.serve [--short] [--soak REQUESTS]

The same run measures the library's own bulk rate and, if the packages are installed, a baseline server: MiniLM in
sentence-transformers behind FastAPI, in the space of MiniLM. The clients run on the same machine as the servers.
Figures are written to results/serve.json, except those of `--short`.
"""

import argparse
import base64
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.machine import write_json

ROOT = Path(__file__).parents[2]
MODEL = "text-embedding-3-small"
LENGTHS = (3, 5, 8, 12, 20, 40, 80, 160)
BASELINE = """
import asyncio, sys
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
import uvicorn

class Body(BaseModel):
    model: str
    input: list[str]
    encoding_format: str = "float"

model = SentenceTransformer(sys.argv[1])
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


def texts(count: int, seed: int = 0) -> list[str]:
    """Random spans of 3 to 160 words from the README."""
    words, rng = (ROOT / "README.md").read_text().split(), random.Random(seed)
    starts = [rng.randrange(len(words) - max(LENGTHS)) for _ in range(count)]
    return [" ".join(words[start : start + rng.choice(LENGTHS)]) for start in starts]


class Client:
    """A client with one persistent connection."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def embed(self, batch: list[str], encoding: str = "base64") -> bytes:
        """Embed texts. Returns the body of the response."""
        body = json.dumps({"model": MODEL, "input": batch, "encoding_format": encoding})
        self.connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {content[:300]!r}")
        return content


def free_port() -> int:
    """Find a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(command: Callable[[int], list[str]], environment: dict[str, str]) -> Iterator[tuple[int, float, Any]]:
    """Run a server. Yields its port, the seconds until it was ready, and its process."""
    port, start = free_port(), time.perf_counter()
    process = subprocess.Popen(command(port), env=os.environ | environment)
    try:
        while not is_ready(port):
            if process.poll() is not None:
                raise RuntimeError(f"The server exited with status {process.returncode}.")
            time.sleep(0.02)
        yield port, time.perf_counter() - start, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def is_ready(port: int) -> bool:
    """Whether `/readyz` responds with status 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def wait_for_batches(port: int) -> None:
    """Wait until the programs for several texts at once are compiled, which follows readiness."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    while True:
        connection.request("GET", "/metrics")
        if b"ea_jax_largest_group_texts 16.0" in connection.getresponse().read():
            return
        time.sleep(0.2)


def measure_latency(port: int, count: int) -> dict[str, float]:
    """Milliseconds of single queries of mixed length, sent one after the other."""
    client, milliseconds = Client(port), []
    for text in texts(50, seed=1):
        client.embed([text])
    for text in texts(count):
        start = time.perf_counter()
        client.embed([text])
        milliseconds.append(1e3 * (time.perf_counter() - start))
    return {
        "requests": count,
        "p50_ms": round(float(np.percentile(milliseconds, 50)), 2),
        "p99_ms": round(float(np.percentile(milliseconds, 99)), 2),
        "most_ms": round(max(milliseconds), 2),
    }


def measure_throughput(port: int, clients: int, count: int) -> dict[str, float]:
    """Texts per second of concurrent clients, each of which sends one text at a time without pauses."""
    waiting, lock = texts(count, seed=2), threading.Lock()

    def send() -> None:
        client = Client(port)
        while True:
            with lock:
                if not waiting:
                    return
                text = waiting.pop()
            client.embed([text])

    threads = [threading.Thread(target=send) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"clients": clients, "texts_per_s": round(count / (time.perf_counter() - start), 1)}


BULK = """
import json, sys, time
from benchmarks.serve.__main__ import texts
from ea_jax.integrations.adapted_encoder import load_adapted_encoder
adapted, batch = load_adapted_encoder("minilm-plus", "oai-3-small"), texts(int(sys.argv[1]), seed=2)
adapted.embed(batch, "query")
rates = []
for _ in range(3):
    start = time.perf_counter()
    adapted.embed(batch, "query")
    rates.append(len(batch) / (time.perf_counter() - start))
print(json.dumps(sorted(rates)))
"""


def measure_bulk_rate(count: int, environment: dict[str, str]) -> dict[str, float]:
    """Texts per second of the library for the same texts in one call, in a separate process."""
    command = [sys.executable, "-c", BULK, str(count)]
    rates = json.loads(subprocess.check_output(command, env=os.environ | environment, text=True).splitlines()[-1])
    return {"texts_per_s": round(statistics.median(rates), 1)}


def measure_memory(port: int, process: Any, count: int) -> dict[str, Any]:
    """Resident memory in MiB during many requests of two short texts, at ten points."""
    client, resident, spans = Client(port), [], texts(500, seed=3)
    for turn in range(count):
        if turn % max(1, count // 10) == 0:
            resident.append(round(process.memory_info().rss / 2**20, 1))
        client.embed([" ".join(spans[turn % 500].split()[:5]), f"note {turn}"])
    resident.append(round(process.memory_info().rss / 2**20, 1))
    return {"requests": count, "resident_mib": resident}


def measure_response(port: int) -> dict[str, Any]:
    """Bytes of a response for one text, and whether both encodings have the same numbers."""
    client = Client(port)
    encoded, decimal = (client.embed(["a text"], encoding) for encoding in ("base64", "float"))
    numbers = np.array(json.loads(decimal)["data"][0]["embedding"], np.float32)
    same = np.frombuffer(base64.b64decode(json.loads(encoded)["data"][0]["embedding"]), "<f4")
    return {"base64_bytes": len(encoded), "float_bytes": len(decimal), "equal": bool(np.array_equal(numbers, same))}


def command(port: int) -> list[str]:
    """Command line of `ea-jax serve`."""
    names = ["--source", "minilm-plus", "--target", "oai-3-small", "--port", str(port)]
    return [sys.executable, "-m", "ea_jax.cli", "serve", *names]


def find_minilm() -> str | None:
    """Folder of MiniLM. None if sentence-transformers or FastAPI is not installed."""
    from importlib.util import find_spec

    if not (find_spec("sentence_transformers") and find_spec("fastapi")):
        return None
    path = subprocess.check_output([sys.executable, "-m", "ea_jax.cli", "fetch", "minilm"], text=True)
    return path.strip()


def main() -> None:
    """Measure, print the figures, and write them unless the run is short."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer requests, and no start with an empty cache")
    parser.add_argument("--soak", type=int, default=None, help="requests of the memory test; 100,000 by default")
    options = parser.parse_args()
    count = 100 if options.short else 1000
    soak = options.soak if options.soak is not None else 500 if options.short else 100_000
    figures: dict[str, Any] = {"short": options.short, "load_average": [round(x, 1) for x in os.getloadavg()]}
    with tempfile.TemporaryDirectory() as cache:
        environment = {
            "JAX_COMPILATION_CACHE_DIR": os.environ.get("SERVE_CACHE", cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        if not options.short:
            with server(command, environment) as (_, seconds, _process):
                figures["ready_first_s"] = round(seconds, 1)
        with server(command, environment) as (port, seconds, process):
            figures["ready_warm_s"] = round(seconds, 1)
            wait_for_batches(port)
            figures["response"] = measure_response(port)
            figures["single"] = measure_latency(port, count)
            figures["concurrent"] = measure_throughput(port, 32, 2 * count)
            figures["soak"] = measure_memory(port, process, soak)
        figures["bulk"] = measure_bulk_rate(2 * count, environment)
    rate = figures["concurrent"]["texts_per_s"] / figures["bulk"]["texts_per_s"]
    figures["concurrent"]["share_of_bulk"] = round(rate, 2)
    folder = find_minilm()
    if folder:
        with server(lambda port: [sys.executable, "-c", BASELINE, folder, str(port)], {}) as (port, seconds, _process):
            figures["baseline"] = {
                "ready_s": round(seconds, 1),
                **measure_latency(port, count),
                **measure_throughput(port, 32, 2 * count),
            }
    figures["load_average_after"] = [round(x, 1) for x in os.getloadavg()]
    print(json.dumps(figures, indent=1))
    if not options.short:
        write_json(__file__, figures)


if __name__ == "__main__":
    main()
