"""A hub on loopback that speaks as much of its protocol as a commit needs: to the real client library."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of-the-tests"
SHA = "5" * 40


@dataclass
class Repository:
    """What one repository holds."""

    private: bool
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b""})
    commits: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """What the server holds, and its address."""

    url: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)  # by sha256, put before the commit that names them


@contextmanager
def small_hub() -> Iterator[Hub]:
    """A hub that knows one person, by `TOKEN`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Handler(BaseHTTPRequestHandler):
    """The routes, by the way a commit takes them."""

    @property
    def hub(self) -> Hub:
        found: Hub = self.server.hub  # type: ignore[attr-defined]
        return found

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.headers.get("authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(body)["files"]]
            mode = {True: "lfs", False: "regular"}
            self.answer(200, {"files": [{"path": p, "uploadMode": mode[p.endswith(".safetensors")], "shouldIgnore": False} for p in files]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [one | {"actions": {"upload": {"href": f"{self.hub.url}/blobs/{one['oid']}"}}} for one in json.loads(body)["objects"]]
            self.answer(200, {"transfer": "basic", "objects": objects})
        else:
            self.commit([json.loads(line) for line in body.splitlines()])

    def do_PUT(self) -> None:
        self.hub.blobs[self.path.rpartition("/")[2]] = self.rfile.read(int(self.headers["content-length"]))
        self.answer(200, {})

    def do_GET(self) -> None:
        repository = self.hub.repositories.get(self.path.removeprefix("/api/models/"))
        if repository is None:  # a repository there is not, or something else that the client would like to know
            self.answer(404, {"error": "Not found."})
            return
        siblings = [{"rfilename": name} for name in repository.files]
        self.answer(200, {"id": "x", "private": repository.private, "sha": SHA, "siblings": siblings})

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        there = name in self.hub.repositories
        self.hub.repositories.setdefault(name, Repository(private=asked.get("visibility") == "private"))
        self.answer(409 if there else 200, {"url": f"{self.hub.url}/{name}"})

    def commit(self, lines: list[dict[str, Any]]) -> None:
        name = self.path.removeprefix("/api/models/").partition("/commit/")[0]
        repository = self.hub.repositories[name]
        for line in lines:
            match line["key"], line["value"]:
                case "header", header:
                    repository.commits.append(header["summary"])
                case "file", file:
                    repository.files[file["path"]] = base64.b64decode(file["content"])
                case "lfsFile", file:
                    repository.files[file["path"]] = self.hub.blobs[file["oid"]]
                case "deletedFile", file:
                    del repository.files[file["path"]]
        self.answer(200, {"commitUrl": f"{self.hub.url}/{name}/commit/{SHA}", "commitOid": SHA})

    def answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""
