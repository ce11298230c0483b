"""A fake of OpenAI's embeddings endpoint on loopback, and faults of its answers."""

import base64
import hashlib
import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def vector(text: str, width: int = 12) -> np.ndarray:
    """The provider's vector of a text: float32, of unit length."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    y = np.random.default_rng(seed).normal(size=width)
    return (y / np.linalg.norm(y)).astype(np.float32)


class Handler(BaseHTTPRequestHandler):
    """Serves POST /v1/embeddings. The next fault of the server, if any, replaces the answer."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.times.append(time.monotonic())
            server.requests.append(body)
            server.keys.add(self.headers["Authorization"])
            fault = server.faults.pop(0) if server.faults else None
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        time.sleep(server.delay)
        server.release.wait(30)
        (fault or answer)(self, body)
        with server.lock:
            server.active -= 1

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None, kind: str = "application/json"):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), "Content-Type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.faults, self.requests, self.times, self.keys = [], [], [], set()
        self.delay, self.active, self.most_active = 0.0, 0, 0
        self.release = threading.Event()  # while cleared, requests stay unanswered
        self.release.set()

    @property
    def texts(self) -> list[str]:
        return [text for body in self.requests for text in body["input"]]

    def handle_error(self, *_):
        """Ignore clients that were killed."""


def content(body: dict, change=lambda data: data, plain: bool = False) -> bytes:
    """Encode the answer to a request; `change` alters its list of data."""
    plain, data = plain or body["encoding_format"] == "float", []
    for index, text in enumerate(body["input"]):
        y = vector(text, body.get("dimensions", 12))
        numbers = y.tolist() if plain else base64.b64encode(y.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": numbers})
    usage = {"prompt_tokens": 3 * len(data), "total_tokens": 3 * len(data)}
    return json.dumps({"object": "list", "data": change(data), "model": body["model"], "usage": usage}).encode()


def answer(handler, body):
    assert handler.path == "/v1/embeddings"
    assert body["encoding_format"] in ("base64", "float")
    handler.send(200, content(body))


def changed(change, plain=False):
    return lambda handler, body: handler.send(200, content(body, change, plain))


def status(number: int, headers: dict[str, str] | None = None, **error):
    content = {"error": {"message": "no", "type": None, "code": None, **error}}
    return lambda handler, body: handler.send(number, json.dumps(content).encode(), headers)


def cut(handler, body):
    """End the connection in the middle of the response."""
    whole = content(body)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.close_connection = True


def cut_without_length(handler, body):
    """End the connection in the middle of a response without Content-Length."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content(body)[:-20])
    handler.close_connection = True


def hang_up(handler, body):
    handler.close_connection = True


def together(requests: int) -> list:
    """Answers that wait until this many requests run at once, or for half a minute."""
    barrier = threading.Barrier(requests, timeout=30)

    def meet(handler, body):
        with suppress(threading.BrokenBarrierError):
            barrier.wait()
        answer(handler, body)

    return [meet] * requests


def delayed(handler, body):
    time.sleep(0.6)
    answer(handler, body)


def html_page(handler, body):
    handler.send(200, b"<html>Be back soon</html>", kind="text/html")


def recoded(change):
    """Change the numbers of the last vector."""

    def change_last(data):
        y = np.frombuffer(base64.b64decode(data[-1]["embedding"]), "<f4")
        data[-1]["embedding"] = base64.b64encode(change(y).astype("<f4").tobytes()).decode()
        return data

    return changed(change_last)


def base64_refused(handler, body):
    """Refuse base64, as endpoints do that validate the request against a schema of their own."""
    (status(422) if body["encoding_format"] == "base64" else answer)(handler, body)


def empty_in_base64(handler, body):
    """Answer 200 without vectors if base64 is requested."""
    handler.send(200, content(body, (lambda data: []) if body["encoding_format"] == "base64" else lambda data: data))


def limited(most: int, refusal):
    """Refuse requests of more than `most` texts."""
    return lambda handler, body: (refusal if len(body["input"]) > most else answer)(handler, body)


def limited_length(most: int, refusal):
    """Refuse requests with a text of more than `most` characters."""
    return lambda handler, body: (refusal if max(map(len, body["input"])) > most else answer)(handler, body)
