"""A server with HTTP, and one connection to it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

from benchmarks.served import Served, serve

_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True, eq=False)
class Web:
    """A connection that is kept."""

    connection: HTTPConnection

    def post(self, path: str, body: bytes) -> Answer:
        """Send JSON.

        Raises:
            RuntimeError: the status is not 200.
        """
        self.connection.request("POST", path, body, {"content-type": "application/json"})
        response = self.connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        answer = Answer(response.status, headers, response.read())
        if answer.status != 200:  # noqa: PLR2004
            raise RuntimeError(f"{path}: {answer.status}")
        return answer


@contextmanager
def web(config: str, *flags: str) -> Iterator[tuple[Served, Web]]:
    """Start a server with these settings of ours besides `http_listen`."""
    settings = f'{config}\n[server]\nhttp_listen = "127.0.0.1:0"\n'
    with serve(*flags, config=settings) as served:
        connection = HTTPConnection(served.http.removeprefix("http://"), timeout=_TIMEOUT)
        try:
            yield served, Web(connection)
        finally:
            connection.close()
