"""A stand-in for the Hugging Face hub on loopback: the endpoints that downloads use, with faults on demand."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "a" * 40


class StandIn(ThreadingHTTPServer):
    """Repositories by id as files by name; a fault for each path that has one: gated, missing, busy, cut."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, str] = {}
        self.asked: list[str] = []

    def environment(self, home: Path) -> dict[str, str]:
        """Of a process that asks this hub, with an empty cache."""
        address = f"http://127.0.0.1:{self.server_port}"
        return dict(os.environ) | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}


@contextmanager
def hub() -> Iterator[StandIn]:
    """A running hub without repositories."""
    server = StandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: StandIn

    def do_GET(self):
        path = self.path.partition("?")[0]
        if self.command == "GET":
            self.server.asked.append(path)
        fault = next((fault for part, fault in self.server.faults.items() if part in path), "")
        if fault in ("gated", "missing", "busy"):
            self.fail(*{"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "busy": (503, "")}[fault])
            return
        for name, files in self.server.repositories.items():
            body = self.found(path, name, files)
            if body is not None:
                self.answer(body, cut=fault == "cut" and "/resolve/" in path)
                return
        self.fail(
            404, "EntryNotFound" if any(f"/{name}/" in path for name in self.server.repositories) else "RepoNotFound"
        )

    do_HEAD = do_GET

    def found(self, path: str, name: str, files: dict[str, bytes]) -> bytes | None:
        if path.startswith(f"/api/models/{name}/tree/"):
            rows = [{"type": "file", "path": n, "size": len(b), "oid": sha1(b).hexdigest()} for n, b in files.items()]
            return json.dumps(rows).encode()
        if path == f"/api/models/{name}" or path.startswith(f"/api/models/{name}/revision/"):
            siblings = [{"rfilename": file} for file in files]
            return json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        for revision in (COMMIT, "main"):
            file = path.removeprefix(f"/{name}/resolve/{revision}/")
            if file in files:
                return files[file]
        return None

    def answer(self, body: bytes, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def files_of(folder: Path) -> dict[str, bytes]:
    """A folder's files by their path within it."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
