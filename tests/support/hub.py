"""A fake Hugging Face hub on loopback for downloads and uploads, with faults on demand."""

import json
import os
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "a" * 40
ROOT = Path(__file__).parent.parent.parent
QUICK = """
import time

def sleep(seconds, wait=time.sleep):
    wait(min(seconds, 0.01))

time.sleep = sleep
"""


class FakeHub(ThreadingHTTPServer):
    """Serves repositories: ids map to files by name. A path can have a fault: gated, missing, busy, cut or refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.faults: dict[str, str] = {}
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.commit = COMMIT

    def environment(self, home: Path) -> dict[str, str]:
        """Environment of a process that uses this hub with an empty cache and short waits between retries."""
        quick = home.with_name(f"{home.name}-quick")
        quick.mkdir(exist_ok=True)
        (quick / "sitecustomize.py").write_text(QUICK)
        address = f"http://127.0.0.1:{self.server_port}"
        environment = dict(os.environ) | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home)}
        return environment | {"PYTHONPATH": os.pathsep.join([str(quick), str(ROOT)])}


@contextmanager
def hub() -> Iterator[FakeHub]:
    """Run a hub without repositories."""
    server = FakeHub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.command != "HEAD":
            self.server.requests.append(path)
        fault = next((fault for part, fault in self.server.faults.items() if part in path), "")
        if fault in ("gated", "missing", "busy"):
            self.fail(*{"gated": (403, "GatedRepo"), "missing": (404, "RepoNotFound"), "busy": (503, "")}[fault])
            return
        for name, files in self.server.repositories.items():
            body = self.find(path, name, files)
            if body is not None:
                self.answer(body, cut=fault == "cut" and "/resolve/" in path)
                return
        self.fail(
            404, "EntryNotFound" if any(f"/{name}/" in path for name in self.server.repositories) else "RepoNotFound"
        )

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(self.path)
        if any(part in self.path for part, fault in self.server.faults.items() if fault == "refused"):
            self.fail(403, "")
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer(b'{"errors": [], "warnings": []}', cut=False)
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self.answer(json.dumps({"files": modes}).encode(), cut=False)
        elif "/commit/" in self.path:
            self.commit_files([json.loads(line) for line in body.splitlines()])
        else:
            self.fail(404, "EntryNotFound")

    def create(self, options: dict[str, str]) -> None:
        kind = "datasets/" if options.get("type") == "dataset" else ""
        name = f"{options['organization']}/{options['name']}" if options.get("organization") else options["name"]
        self.server.repositories.setdefault(kind + name, {})
        self.answer(json.dumps({"url": f"http://127.0.0.1/{kind}{name}"}).encode(), cut=False)

    def commit_files(self, lines: list[dict]) -> None:
        repository = self.path.removeprefix("/api/").removeprefix("models/").partition("/commit/")[0]
        (header,) = (line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, self.server.commit):
            self.fail(412, "")
            return
        for line in lines:
            if line["key"] == "file":
                value = line["value"]
                self.server.repositories[repository][value["path"]] = b64decode(value["content"])
        self.server.commit = sha1(self.server.commit.encode()).hexdigest()
        commit = {"commitUrl": f"http://127.0.0.1/{repository}/commit/{self.server.commit}"}
        self.answer(json.dumps(commit | {"commitOid": self.server.commit}).encode(), cut=False)

    def find(self, path: str, name: str, files: dict[str, bytes]) -> bytes | None:
        api = f"/api/{name}" if name.startswith("datasets/") else f"/api/models/{name}"
        if path.startswith(f"{api}/tree/"):
            rows = [{"type": "file", "path": n, "size": len(b), "oid": sha1(b).hexdigest()} for n, b in files.items()]
            return json.dumps(rows).encode()
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": file} for file in files]
            return json.dumps({"id": name, "sha": self.server.commit, "siblings": siblings}).encode()
        for revision in (self.server.commit, "main"):
            file = path.removeprefix(f"/{name}/resolve/{revision}/")
            if file in files:
                return files[file]
        return None

    def answer(self, body: bytes, cut: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{sha1(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.server.commit)
        self.end_headers()
        if self.command != "HEAD":
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
    """Read the files of a folder, by their path within it."""
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
