"""The server that a scenario measures: one given by address, or one started for it.

@server_options
def run(calls: int, **where: Any) -> Figures:
    with reached(where, "--model", model) as (endpoint, _), endpoint.client() as client:
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc

from benchmarks.served import Served, serve
from octavo.client import Client

_KEY_VARIABLE = "OCTAVO_API_KEY"  # never an option: everybody on a machine reads its processes' arguments

Run = TypeVar("Run", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server answers and how to call it; plain data, for processes that call from elsewhere."""

    address: str
    token: str | None = field(default=None, repr=False)
    tls: bool = False
    ca: Path | None = None
    plaintext_token: bool = False

    def credentials(self) -> grpc.ChannelCredentials | None:
        """TLS that trusts the file's certificates, or the public authorities; None without TLS."""
        if not self.tls:
            return None
        return grpc.ssl_channel_credentials(self.ca.read_bytes() if self.ca else None)

    def client(self) -> Client:
        """Make a client; it connects with its first call."""
        return Client(
            self.address, token=self.token, credentials=self.credentials(), insecure_token=self.plaintext_token
        )


_OPTIONS = (
    click.option("--server", metavar="ADDR", help="Measure this server, not one that is started; key: OCTAVO_API_KEY."),
    click.option("--tls", is_flag=True, help="Encrypt the connection to it."),
    click.option(
        "--ca",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="With --tls, and implying it: trust this file's certificates (PEM) alone.",
    ),
    click.option("--allow-plaintext-token", is_flag=True, help="Send the key without TLS, where others can read it."),
)


def server_options(run: Run) -> Run:
    """Give a scenario the options that name a server; they reach `run` as keywords, for `reached` or `named`."""
    for option in reversed(_OPTIONS):
        run = option(run)
    return run


def named(where: Mapping[str, Any]) -> Endpoint | None:
    """Give the server that the options name; None if they name none.

    Raises:
        click.UsageError: the others were given without --server.
    """
    if not where["server"]:
        if where["tls"] or where["ca"] or where["allow_plaintext_token"]:
            raise click.UsageError("--tls, --ca and --allow-plaintext-token say how to call --server: name it")
        return None
    return Endpoint(
        where["server"],
        token=os.environ.get(_KEY_VARIABLE) or None,
        tls=where["tls"] or where["ca"] is not None,
        ca=where["ca"],
        plaintext_token=where["allow_plaintext_token"],
    )


@contextmanager
def reached(where: Mapping[str, Any], *flags: str, config: str = "") -> Iterator[tuple[Endpoint, Served | None]]:
    """Give the server that the options name, and None; or one of our own with these flags, and its process."""
    if given := named(where):
        yield given, None
        return
    with serve(*flags, config=config) as server:
        yield Endpoint(server.address), server
