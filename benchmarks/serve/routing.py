"""Recall of `ea-jax serve` when texts of low confidence are sent to the provider, beside a random choice of texts.

    python -m benchmarks.serve.routing ../shared/data build

The server runs with a stand-in for the provider, which returns the native vectors of held-out texts, once for each
threshold. The thresholds are quantiles of the confidences. Clients send the queries to the endpoint, and the vectors
search the native corpus. *Random*: the expected recall if as many texts were chosen at random, a weighted mean of the
recalls of local and native vectors.
"""

import base64
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from benchmarks import readme
from benchmarks.data.tasks import Task, corpus_of, standard_tests
from benchmarks.machine import write_json
from benchmarks.serve.process import SOURCE, TARGET, Client, ea_jax_command, running
from ea_jax.retrieval.metrics import first_equal, recalls
from ea_jax.retrieval.search import search

QUERIES = 1000  # of each test set
SHARES = (0.2, 0.4, 0.6, 0.8, 0.9)  # approximate shares of texts that are sent to the provider
K = 10
BATCH = 50


class Answer(NamedTuple):
    """The endpoint's answer for some texts: vectors, confidences, and whether each vector is local."""

    y: Float[np.ndarray, "n d"]
    confidence: Float[np.ndarray, " n"]
    local: Float[np.ndarray, " n"]


@contextmanager
def stand_in(native: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Run a provider that knows the native vectors of some texts. Yields its base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            rows = [base64.b64encode(native[text].astype("<f4").tobytes()).decode() for text in body["input"]]
            data = [{"object": "embedding", "index": i, "embedding": row} for i, row in enumerate(rows)]
            usage = {"prompt_tokens": 0, "total_tokens": 0}
            content = json.dumps({"object": "list", "data": data, "model": body["model"], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        server.shutdown()


def embed(url: str, threshold: float, texts: Sequence[str]) -> Answer:
    """Embed texts with a server that sends those of a confidence below the threshold to the provider."""
    options = ("--min-confidence", str(threshold), "--fallback", url, "--price", "0")
    items = []
    with running(ea_jax_command(*options), OPENAI_API_KEY="unused") as server, Client(server.port) as client:
        for start in range(0, len(texts), BATCH):
            items += json.loads(client.embed(texts[start : start + BATCH], quality=True))["data"]
    routes = [item["route"] for item in items]
    assert set(routes) <= {"local", "provider"}
    y = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items])
    confidence = np.array([item["confidence"] for item in items], np.float32)
    return Answer(y, confidence, np.array([route == "local" for route in routes], np.float32))


def measure(data: Path, build: Path) -> dict[str, Any]:
    """Recall and share of local vectors of each test set, at each threshold."""
    corpus = corpus_of(Task(SOURCE, TARGET, TARGET), data, build)
    tests, rng = standard_tests(corpus, data)[0], np.random.default_rng(0)
    queries = {name: rng.permutation(q)[:QUERIES] for name, (q, _) in tests.items()}
    asked = np.concatenate(list(queries.values()))
    texts, native = [corpus.text[i] for i in asked], corpus.vectors[TARGET]
    test_of = np.repeat(list(queries), [len(q) for q in queries.values()])

    def hits(y: np.ndarray) -> np.ndarray:
        """Whether the true neighbor of each query is among the first ten."""
        found = []
        for name, (_, rows) in tests.items():
            same, at = first_equal(native[rows]), test_of == name
            best = search(native[asked[at]], native[rows], 1).row[:, 0]
            found.append(recalls(search(y[at], native[rows], K).row, best, same)[f"recall@{K}"])
        return np.concatenate(found)

    with stand_in({corpus.text[i]: native[i] for i in asked}) as url:
        local = embed(url, 0.0, texts)
        assert local.local.all()
        thresholds = [0.0, *(round(float(np.quantile(local.confidence, share)), 4) for share in SHARES), 1.0]
        answers = [local, *(embed(url, threshold, texts) for threshold in thresholds[1:])]
    ends = hits(local.y), hits(native[asked])
    curves: dict[str, Any] = {}
    for threshold, answer in zip(thresholds, answers, strict=True):
        hit = hits(answer.y)
        for name in tests:
            at = test_of == name
            kept = float(answer.local[at].mean())
            curves.setdefault(name, []).append(
                {
                    "min_confidence": threshold,
                    "local": round(kept, 4),
                    "recall@10": round(float(hit[at].mean()), 4),
                    "random recall@10": round(float(kept * ends[0][at].mean() + (1 - kept) * ends[1][at].mean()), 4),
                }
            )
    return {"queries": {name: len(q) for name, q in queries.items()}, "curves": curves}


def report(measured: dict[str, Any]) -> str:
    """Format the section of the README."""
    columns = list(measured["curves"].values())
    head = ["`--min-confidence`"]
    for name in measured["curves"]:
        head += [f"{name}: local", "R@10", "random"]
    rows = []
    for points in zip(*columns, strict=True):
        cells = [f"{p['local']:.0%} | {p['recall@10']:.3f} | {p['random recall@10']:.3f}" for p in points]
        rows.append((f"{points[0]['min_confidence']:.3f}", *" | ".join(cells).split(" | ")))
    return readme.markdown_table(head, rows)


def main(data: Path, build: Path) -> None:
    """Measure, and write the figures and the section of the README."""
    figures = measure(data, build)
    write_json(__file__, figures)
    readme.update("routing by confidence")
    print(report(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
