"""A stand-in for OpenAI's embeddings endpoint on loopback, and the ways in which its answers can go wrong."""

import base64
import hashlib
import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np


def vector(text: str, width: int = 12) -> np.ndarray:
    """What the provider gives for a text: float32, of length one as nearly as float32 is."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    y = np.random.default_rng(seed).normal(size=width)
    return (y / np.linalg.norm(y)).astype(np.float32)


class Handler(BaseHTTPRequestHandler):
    """POST /v1/embeddings; the server's next fault, if any, spoils the answer."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one packet

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.times.append(time.monotonic())
            server.asked.append(body)
            server.keys.add(self.headers["Authorization"])
            fault = server.faults.pop(0) if server.faults else None
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        time.sleep(server.delay)
        server.let_go.wait(30)
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
        self.faults, self.asked, self.times, self.keys = [], [], [], set()
        self.delay, self.active, self.most_active = 0.0, 0, 0
        self.let_go = threading.Event()  # cleared, it keeps requests under way
        self.let_go.set()

    @property
    def texts(self) -> list[str]:
        return [text for body in self.asked for text in body["input"]]

    def handle_error(self, *_):
        """A client that was killed is no error."""


def content(body: dict, change=lambda data: data, plain: bool = False) -> bytes:
    """The answer to a request; `change` spoils its list of data."""
    data = []
    for index, text in enumerate(body["input"]):
        y = vector(text, body.get("dimensions", 12))
        numbers = y.tolist() if plain else base64.b64encode(y.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": numbers})
    usage = {"prompt_tokens": 3 * len(data), "total_tokens": 3 * len(data)}
    return json.dumps({"object": "list", "data": change(data), "model": body["model"], "usage": usage}).encode()


def answer(handler, body):
    assert handler.path == "/v1/embeddings"
    assert body["encoding_format"] == "base64"
    handler.send(200, content(body))


def changed(change, plain=False):
    return lambda handler, body: handler.send(200, content(body, change, plain))


def status(number: int, headers: dict[str, str] | None = None, **error):
    told = {"error": {"message": "no", "type": None, "code": None, **error}}
    return lambda handler, body: handler.send(number, json.dumps(told).encode(), headers)


def cut(handler, body):
    """The connection ends in the middle of the response."""
    whole = content(body)
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(whole)))
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.wfile.write(whole[: len(whole) // 2])
    handler.close_connection = True


def cut_unseen(handler, body):
    """The same, of a response that does not tell its length."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(content(body)[:-20])
    handler.close_connection = True


def hang_up(handler, body):
    handler.close_connection = True


def together(requests: int) -> list:
    """As many answers, which wait until so many requests are under way at once, or for half a minute."""
    met = threading.Barrier(requests, timeout=30)

    def meet(handler, body):
        with suppress(threading.BrokenBarrierError):
            met.wait()
        answer(handler, body)

    return [meet] * requests


def dawdle(handler, body):
    time.sleep(0.6)
    answer(handler, body)


def page(handler, body):
    handler.send(200, b"<html>Be back soon</html>", kind="text/html")


def recoded(change):
    """A fault that changes the numbers of the last vector."""

    def spoil(data):
        y = np.frombuffer(base64.b64decode(data[-1]["embedding"]), "<f4")
        data[-1]["embedding"] = base64.b64encode(change(y).astype("<f4").tobytes()).decode()
        return data

    return changed(spoil)
