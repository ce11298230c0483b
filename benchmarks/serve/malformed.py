"""Malformed requests among valid ones of many clients. Each response must be an error in OpenAI's form or right.

`check` is the oracle: it reads the body of the request by itself, and compares with vectors of the library.
"""

import base64
import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from benchmarks.serve.process import JSON, Client
from ea_jax.integrations.adapted_encoder import AdaptedEncoder

Embed = Callable[[Sequence[str], str], Float[np.ndarray, "n d"]]  # texts and purpose to vectors
STATUSES = (200, 400, 404, 413)
FIELDS = ("model", "input", "encoding_format", "dimensions", "user", "quality", "extra")
VALUES: tuple[Any, ...] = (None, True, 0, -1, 3.5, 1e400, float("nan"), 10**30, "", "a", "\ud800", "\x00", "🍔")
VALUES += ([], [[]], [1], [[1]], [1, 2.5], ["a", 1], [None], [["a"]], {}, {"a": 1}, ["a"], ["a", ""], ["a"] * 2049)
VALUES += ("base64", "float", "a" * 3000, "a " * 600, [97] * 9000, 256, 1536, 1537)
NEAREST = 0.999  # cosine; programs of different shapes round differently


def remembered(adapted: AdaptedEncoder) -> Embed:
    """The library's vectors of texts, computed once and one at a time."""

    @cache
    def embed_one(text: str, purpose: str) -> np.ndarray:
        return adapted.embed([text], purpose).vectors[0]

    return lambda texts, purpose: np.stack([embed_one(text, purpose) for text in texts])


def malformed_body(good: dict[str, Any], rng: random.Random) -> bytes:
    """Damage a valid request: other values in its fields, other bytes in its JSON, or both. A few remain valid."""
    fields = good | {rng.choice(FIELDS): rng.choice(VALUES) for _ in range(rng.randint(0, 2))}
    if rng.random() < 0.2:
        fields.pop(rng.choice(list(fields)))
    body = bytearray(json.dumps(fields).encode())
    if rng.random() < 0.5:
        for _ in range(rng.randint(1, 4)):
            body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body[: rng.randrange(len(body))] if rng.random() < 0.2 else body)


def check(status: int, content: bytes, body: bytes, embed: Embed) -> str | None:
    """What is wrong with a response. None if it is an error in OpenAI's form or has the right vectors."""
    if status not in STATUSES:
        return f"status {status}"
    answer = json.loads(content)
    if status != 200:
        right = set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
        return None if right and answer["error"]["message"] else "an error of another form"
    fields = json.loads(body)
    texts = [fields["input"]] if isinstance(fields["input"], str) else fields["input"]
    if not all(isinstance(text, str) for text in texts):
        return None  # token ids
    y = embed(texts, "store" if fields["model"].lower().endswith("@store") else "query")[:, : fields.get("dimensions")]
    items = sorted(answer["data"], key=lambda item: item["index"])
    numbers = [item["embedding"] for item in items]
    rows = [np.frombuffer(base64.b64decode(n), "<f4") if isinstance(n, str) else np.array(n) for n in numbers]
    if [row.shape for row in rows] != [row.shape for row in y]:
        return "vectors of other shapes"
    cosines = [float(a @ b / np.linalg.norm(b)) for a, b in zip(rows, y, strict=True)]
    return None if min(cosines) > NEAREST else f"a wrong vector, cosine {min(cosines):.3f}"


def attack(port: int, requests: int, valid: Sequence[dict[str, Any]], clients: int, embed: Embed) -> dict[str, Any]:
    """Send malformed requests from some clients and valid ones from as many others, at once. Check every response.

    Args:
        port: Port of the server.
        requests: Number of malformed requests.
        valid: Valid requests, which the other clients repeat until the malformed ones are sent. Their texts differ.
        clients: Number of clients of each kind.
        embed: The library's vectors of texts, for a purpose.
    """
    sent: Counter[str] = Counter()
    problems: list[str] = []
    lock, done = threading.Lock(), threading.Event()

    def send(kind: str, client: Client, body: bytes) -> None:
        status, content = client.post(body, JSON)
        problem = check(status, content, body, embed)
        if kind == "valid" and status != 200:
            problem = f"status {status} for a valid request"
        with lock:
            sent[f"{kind} {status}"] += 1
            if problem:
                problems.append(f"{problem}: {body[:200]!r}")

    def send_malformed(number: int) -> None:
        rng = random.Random(number)
        with Client(port) as client:
            for _ in range(requests // clients):
                send("malformed", client, malformed_body(rng.choice(valid), rng))

    def send_valid(number: int) -> None:
        turn = number
        with Client(port) as client:
            while not done.is_set():
                send("valid", client, json.dumps(valid[turn % len(valid)]).encode())
                turn += clients

    def run(task: Callable[[int], None], number: int) -> None:
        try:
            task(number)
        except Exception as error:
            problems.append(repr(error))

    bad, good = (
        [threading.Thread(target=run, args=(task, i)) for i in range(clients)] for task in (send_malformed, send_valid)
    )
    for thread in bad + good:
        thread.start()
    for thread in bad:
        thread.join()
    done.set()
    for thread in good:
        thread.join()
    return {"responses": dict(sorted(sent.items())), "problems": problems}


def disconnect(port: int, clients: int, body: bytes, seed: int = 0) -> None:
    """Send requests and disconnect in the middle of the body, or before the response."""
    rng = random.Random(seed)
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    whole = head.encode() + b"\r\n\r\n" + body
    for turn in range(clients):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(whole if turn % 2 else whole[: rng.randrange(1, len(whole))])


def send_bytes(port: int, requests: int, seed: int = 0) -> Counter[str]:
    """Send bytes that are not HTTP, and damaged heads of requests. Returns the number of responses by status."""
    rng, statuses = random.Random(seed), Counter()
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 20\r\n\r\n"
    for turn in range(requests):
        data = bytearray(head + b'{"model": "a"}' if turn % 2 else rng.randbytes(200))
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            answer = b""
            with suppress(OSError):
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                answer = client.recv(4096)
        statuses[answer.split(b" ")[1].decode() if answer.startswith(b"HTTP/") else "closed"] += 1
    return statuses
