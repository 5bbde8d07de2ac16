"""A real server of HTTP, and what tests say to it."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from server.config.schema import Settings
from tests.server.helpers import SOON, Server, serving


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, eq=False)
class Web:
    """A server that runs, reached over HTTP."""

    server: Server

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def url(self) -> str:
        return self.server.addresses[-1]

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.send("POST", path, body if isinstance(body, bytes) else json.dumps(body).encode(), **headers)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, None, **headers)

    def send(self, method: str, path: str, body: bytes | None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.host, timeout=SOON)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            response = connection.getresponse()
            named = {name.lower(): text for name, text in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()


@contextmanager
def web(settings: Settings) -> Iterator[Web]:
    """A server with settings of `http_listen`."""
    with serving(settings) as server:
        yield Web(server)
