"""A Hugging Face hub on loopback: the part of its HTTP interface that a download uses, with its errors."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

MAIN = "a" * 40
LARGE = 1000  # bytes from which a file is in Git LFS, and is answered by another host


def git_digest(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """Files by commit, and commits by branch or tag."""

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str] = field(default_factory=lambda: {"main": MAIN})
    token: str | None = None  # that may read it
    gated: bool = False


@dataclass
class Request:
    """A request that the hub was sent."""

    path: str
    range: str | None
    authorization: str | None


@dataclass
class FakeHub:
    """A hub and what happens to it.

    Attributes:
        break_after: bytes of weights after which its connection breaks; all later requests get status 503.
        ignores_ranges: answers with whole files.
        spoilt: names of files whose content is not that of their digest.
    """

    endpoint: str
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    break_after: int | None = None
    ignores_ranges: bool = False
    down: bool = False
    spoilt: set[str] = field(default_factory=set)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def downloaded(self) -> list[str]:
        return [path.partition("/resolve/")[2].partition("/")[2] for path in self.paths() if "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(Request(path, self.headers["Range"], self.headers["Authorization"]))
        if self.hub.down:
            self._refuse(503)
        elif path.startswith("/api/models/"):
            self._describe(path.removeprefix("/api/models/"))
        elif path.startswith("/cdn/"):
            organisation, name, commit, file = path.removeprefix("/cdn/").split("/", 3)
            self._send(f"{organisation}/{name}", commit, file)
        else:
            self._resolve(path.removeprefix("/"))

    def _describe(self, path: str) -> None:
        name, _, revision = path.partition("/revision/")
        found = self.hub.repositories.get(name)
        repository = found if found and found.gated else self._repository(name)  # what is gated is listed to anyone
        if repository is None:
            return
        commit = repository.branches.get(revision or "main", revision)
        if commit not in repository.commits:
            self._refuse(404, "RevisionNotFound")
            return
        files = [self._described(*file) for file in repository.commits[commit].items()]
        body = json.dumps({"id": name, "sha": commit, "siblings": files}).encode()
        self._answer(200, body, {"Content-Type": "application/json"})

    def _described(self, name: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_digest(data)}
        if len(data) >= LARGE:
            digest = hashlib.sha256(data).hexdigest()
            entry["blobId"] = "0" * 40  # of the pointer
            entry["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        return entry

    def _resolve(self, path: str) -> None:
        name, _, rest = path.partition("/resolve/")
        commit, _, file = rest.partition("/")
        if (repository := self._repository(name)) is None:
            return
        data = repository.commits.get(commit, {}).get(file)
        if data is None:
            self._refuse(404, "EntryNotFound")
        elif len(data) >= LARGE:
            host = self.hub.endpoint.replace("127.0.0.1", "localhost")  # another, which must not see the token
            self._answer(302, b"", {"Location": f"{host}/cdn/{name}/{commit}/{file}"})
        else:
            self._send(name, commit, file)

    def _send(self, name: str, commit: str, file: str) -> None:
        data = self.hub.repositories[name].commits[commit][file]
        if file in self.hub.spoilt:
            data = bytes(len(data))
        asked = None if self.hub.ignores_ranges else self.headers["Range"]
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.hub.break_after is not None and file.endswith(".safetensors"):
            self.wfile.write(data[start : self.hub.break_after])
            self.hub.down = self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def _repository(self, name: str) -> Repository | None:
        """The repository, if the request may read it; otherwise the refusal has been sent."""
        repository = self.hub.repositories.get(name)
        authorization = self.headers["Authorization"]
        if repository is None:
            self._refuse(404 if authorization else 401, "RepoNotFound")
        elif repository.token is None or authorization == f"Bearer {repository.token}":
            return repository
        elif repository.gated:
            self._refuse(403 if authorization else 401, "GatedRepo")
        elif authorization:
            self._refuse(401, message="Invalid credentials in Authorization header")
        else:
            self._refuse(401, "RepoNotFound")
        return None

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client went away
            super().handle()

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def running() -> Iterator[FakeHub]:
    """A hub that answers until the end of the block."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        handler.hub = FakeHub(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield handler.hub  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()
