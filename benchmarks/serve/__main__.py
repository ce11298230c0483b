"""`ea-jax serve` beside the library alone and beside a plain server: start, latency, throughput, memory, faults.

    python -m benchmarks.serve                # all sections
    python -m benchmarks.serve start single   # some; their figures replace those of earlier runs in results/serve.json

The plain server is MiniLM in sentence-transformers behind FastAPI; it shows what the model alone costs. Its vectors are
in the space of MiniLM. Clients run on the same machine as the servers, whose cores they share. Each section takes less
than five minutes on two cores. benchmarks/serve/routing.py measures the routing by confidence.
"""

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import readme
from benchmarks.machine import describe, results_file
from benchmarks.serve.malformed import attack, disconnect, remembered, send_bytes
from benchmarks.serve.process import (
    MODEL,
    QUERY_WORDS,
    SOURCE,
    TARGET,
    Client,
    Running,
    ea_jax_command,
    get,
    plain_command,
    running,
    send_together,
    texts,
    wait_for_batches,
)

Figures = dict[str, Any]
BLOCK = 50  # requests to one server before the other has its turn
CLIENTS = 32
# The library alone: embeds a list of texts for each line of input.
BULK = """
import json, sys, time
from ea_jax.cli.runtime import start_jax
start_jax()
from ea_jax.integrations.adapted_encoder import load_adapted_encoder
adapted = load_adapted_encoder(*sys.argv[1:])
for line in sys.stdin:
    texts = json.loads(line)
    start = time.perf_counter()
    adapted.embed(texts, "query")
    print(time.perf_counter() - start, flush=True)
"""


def measure_start() -> Figures:
    """Seconds until `/readyz` responds with 200, with an empty and with a warm cache of compiled programs."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        seconds, all_programs = [], []
        for _ in range(4):
            start = time.perf_counter()
            with running(ea_jax_command(), **environment) as server:
                seconds.append(round(server.seconds, 2))
                wait_for_batches(server.port)
                all_programs.append(round(time.perf_counter() - start, 2))
    return {
        "empty_cache_s": seconds[0],
        "warm_cache_s": statistics.median(seconds[1:]),
        "warm_cache_all_programs_s": statistics.median(all_programs[1:]),
    }


def latencies(ports: Sequence[int], queries: Sequence[str]) -> list[list[float]]:
    """Milliseconds of single queries to several servers in turn, sent one after the other on one connection."""
    milliseconds = [[] for _ in ports]
    for start in range(0, len(queries), BLOCK):
        for port, times in zip(ports, milliseconds, strict=True):
            with Client(port) as client:
                client.embed([queries[start - 1]])  # connects; the processor's caches hold the other server's weights
                for query in queries[start : start + BLOCK]:
                    begin = time.perf_counter()
                    client.embed([query])
                    times.append(1e3 * (time.perf_counter() - begin))
    return milliseconds


def percentiles(times: Sequence[float]) -> Figures:
    """Summarize milliseconds."""
    return {
        "requests": len(times),
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "slowest_ms": round(max(times), 2),
    }


def longest_stall(times: Sequence[float], queries: Sequence[str]) -> float:
    """Largest difference in milliseconds of a request from the median of those with as many words."""
    words = np.array([len(query.split()) for query in queries])
    return round(max(float(np.max(t) - np.median(t)) for t in (np.array(times)[words == n] for n in set(words))), 2)


def measure_single(count: int = 1000) -> Figures:
    """Latency of single queries of 3 to 20 words, and of texts of 3 to 160 words, beside the plain server."""
    queries, mixed = texts(count, QUERY_WORDS), texts(count)
    figures: Figures = {"query_words": list(QUERY_WORDS)}
    with running(ea_jax_command()) as ours, running(plain_command()) as plain:
        wait_for_batches(ours.port)
        ports = (ours.port, plain.port)
        latencies(ports, texts(BLOCK, seed=1))
        for name, sent in (("queries", queries), ("mixed", mixed)):
            for server, times in zip(("ea_jax", "plain"), latencies(ports, sent), strict=True):
                figures[name] = figures.get(name, {}) | {
                    server: percentiles(times) | {"longest_stall_ms": longest_stall(times, sent)}
                }
        figures["response"] = measure_response(ours.port)
    return figures


def measure_response(port: int) -> Figures:
    """Bytes of a response for one text, and whether both encodings have the same numbers."""
    with Client(port) as client:
        encoded, decimal = (client.embed(["a text"], encoding) for encoding in ("base64", "float"))
    numbers = np.array(json.loads(decimal)["data"][0]["embedding"], np.float32)
    same = np.frombuffer(base64.b64decode(json.loads(encoded)["data"][0]["embedding"]), "<f4")
    return {"base64_bytes": len(encoded), "float_bytes": len(decimal), "equal": bool(np.array_equal(numbers, same))}


def measure_clients(count: int = 640, rounds: int = 3) -> Figures:
    """Texts per second of 32 clients that send one text at a time, beside one call of the library for the same texts.

    The three are measured in turn in each round. The figures are medians, and the share that of the rounds' ratios.
    """
    rates: dict[str, list[float]] = {"ea_jax": [], "plain": [], "library": []}
    command = [sys.executable, "-c", BULK, SOURCE, TARGET]
    with (
        running(ea_jax_command()) as ours,
        running(plain_command()) as plain,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as library,
    ):
        assert library.stdin is not None
        assert library.stdout is not None
        wait_for_batches(ours.port)
        sent = texts(count, seed=2)
        for _ in range(rounds + 1):
            for name, server in (("ea_jax", ours), ("plain", plain)):
                seconds = send_together(CLIENTS, sent, lambda client, text: client.embed([text]), server.port)
                rates[name].append(count / seconds)
            print(json.dumps(sent), file=library.stdin, flush=True)
            rates["library"].append(count / float(library.stdout.readline()))
        library.stdin.close()
    rates = {name: values[1:] for name, values in rates.items()}  # the first round compiles the library's programs
    shares = [a / b for a, b in zip(rates["ea_jax"], rates["library"], strict=True)]
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    return {"clients": CLIENTS, "texts_per_s": medians, "share_of_library": round(statistics.median(shares), 3)}


def measure_memory(most: int = 100_000, clients: int = 8, seconds: float = 270) -> Figures:
    """Resident memory in MiB after every two thousand requests of one short text each, for at most some minutes.

    The texts differ, so the tokenizer's cache of 10,000 texts fills up first.
    """
    step, spans = 2000, texts(most, (2, 3), seed=3)

    def send(client: Client, turn: int) -> None:
        client.embed([f"{spans[turn]} {turn}"])

    with running(ea_jax_command()) as server:
        wait_for_batches(server.port)
        resident, start = [_mib(server)], time.perf_counter()
        while (done := step * (len(resident) - 1)) < most and time.perf_counter() - start < seconds:
            send_together(clients, range(done, done + step), send, server.port)
            resident.append(_mib(server))
        taken = time.perf_counter() - start
    return {"requests": done, "seconds": round(taken), "resident_mib": resident}


def measure_faults(requests: int = 10_000, clients: int = 4) -> Figures:
    """Malformed requests among valid ones, clients that disconnect, large bodies, and bytes that are not HTTP."""
    from ea_jax.integrations.adapted_encoder import load_adapted_encoder

    embed = remembered(load_adapted_encoder(SOURCE, TARGET))
    spans = iter(texts(400, (3, 5, 8), seed=4))
    valid = [
        {"model": MODEL + suffix, "input": [next(spans) for _ in range(number % 3 + 1)], "encoding_format": encoding}
        for number, (suffix, encoding) in enumerate([("@query", "float"), ("@store", "base64"), ("", "base64")] * 20)
    ]
    for request in valid:
        embed(request["input"], "store" if request["model"].endswith("@store") else "query")
    with running(ea_jax_command()) as server:
        wait_for_batches(server.port)
        figures: Figures = {"malformed": requests, **attack(server.port, requests, valid, clients, embed)}
        before = _mib(server)
        disconnect(server.port, 300, json.dumps({"model": MODEL, "input": ["a text"] * 100}).encode())
        while b"ea_jax_waiting_texts 0.0" not in get(server.port, "/metrics")[1]:
            time.sleep(0.1)
        figures["disconnected"] = 300
        large = json.dumps({"model": MODEL, "input": "a" * 10 * 2**20}).encode()
        with Client(server.port) as client:
            figures["large_bodies"] = [client.post(large)[0] for _ in range(20)]
        figures["not_http"] = dict(send_bytes(server.port, 1000))
        figures["resident_mib"] = [before, _mib(server)]
        figures |= {f"after: {key}": f for key, f in attack(server.port, 100, valid, clients, embed).items()}
        figures["status_500"] = get(server.port, "/metrics")[1].count(b'status="500"')
    return figures


def _mib(server: Running) -> float:
    return round(server.process.memory_info().rss / 2**20, 1)


def report(measured: Figures) -> str:
    """Format the section of the README from the sections that were measured."""
    figures = {name: section["figures"] for name, section in measured.items()}
    rows: list[tuple[str, ...]] = []
    if f := figures.get("start"):
        rows += [("ready after, with cached programs", f"{f['warm_cache_s']:.1f} s", "")]
        rows += [("ready after, first start", f"{f['empty_cache_s']:.1f} s", "")]
    if f := figures.get("single"):
        for name, label in (("queries", "one query of 3 to 20 words"), ("mixed", "one text of 3 to 160 words")):
            times = [f"{f[name][key]['p50_ms']:.1f} / {f[name][key]['p99_ms']:.1f} ms" for key in ("ea_jax", "plain")]
            rows.append((f"{label}, p50 / p99", *times))
        stalls = [f"{f['mixed'][key]['longest_stall_ms']:.0f} ms" for key in ("ea_jax", "plain")]
        rows.append((f"longest stall in {f['mixed']['ea_jax']['requests']:,} such texts", *stalls))
    if f := figures.get("clients"):
        rates = [f"{f['texts_per_s'][key]:.0f} texts/s" for key in ("ea_jax", "plain")]
        rows.append((f"{f['clients']} clients, one text at a time", *rates))
        rows.append(("the same texts in one call of the library", f"{f['texts_per_s']['library']:.0f} texts/s", ""))
    paragraphs = [readme.markdown_table(("", "ea-jax serve", "plain server"), rows)]
    if f := figures.get("memory"):
        first, last = f["resident_mib"][len(f["resident_mib"]) // 4], f["resident_mib"][-1]
        paragraphs.append(
            f"{f['requests']:,} requests in {f['seconds']:,} s: {first:,.0f} MiB resident after a quarter of them, "
            f"{last:,.0f} MiB after the last."
        )
    if f := figures.get("faults"):
        valid = sum(count for kind, count in f["responses"].items() if kind.startswith("valid"))
        wrong = len(f["problems"]) + len(f["after: problems"])
        paragraphs.append(
            f"{f['malformed']:,} malformed requests among {valid:,} valid ones, {f['disconnected']} clients that "
            f"disconnected, {len(f['large_bodies'])} bodies of 10 MiB, and {sum(f['not_http'].values()):,} times bytes "
            f"that are not HTTP: {wrong} wrong responses, {f['status_500']} of status 500."
        )
    machines = dict.fromkeys(readme.machine_line(section["machine"]) for section in measured.values())
    return "\n\n".join([*paragraphs, *machines])


SECTIONS = {
    "start": measure_start,
    "single": measure_single,
    "clients": measure_clients,
    "memory": measure_memory,
    "faults": measure_faults,
}


def keep(name: str, figures: Figures) -> None:
    """Replace the figures of a section in the JSON, and update the README."""
    file = results_file(__file__)
    sections = json.loads(file.read_text()) if file.exists() else {}
    load = [round(x, 1) for x in os.getloadavg()]
    sections[name] = {"machine": describe(), "load_average": load, "figures": figures}
    ordered = {name: sections[name] for name in SECTIONS if name in sections}
    file.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    readme.update("serve")


def main() -> None:
    """Measure the sections that are named, or all. Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default")
    names = parser.parse_args().sections or list(SECTIONS)
    if unknown := set(names) - SECTIONS.keys():
        parser.error(f"There is no section {', '.join(sorted(unknown))}. The sections are {', '.join(SECTIONS)}.")
    for name in names:
        figures = SECTIONS[name]()
        print(name, json.dumps(figures, indent=1), flush=True)
        keep(name, figures)


if __name__ == "__main__":
    main()
