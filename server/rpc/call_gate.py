"""The way in: who calls, and whether there is room for the call."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

import structlog

from server.auth.authenticator import Authenticator, Caller
from server.auth.clients import ANONYMOUS, Client
from server.errors import DeadlineExceeded
from server.health.drain import Drain
from server.limits import Admission, Slot

if TYPE_CHECKING:
    import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

OPEN = "/grpc.health.v1.Health/"  # who asks whether we live is asked nothing

client_of_call: ContextVar[Client] = ContextVar("client_of_call", default=ANONYMOUS)
"""Who called what the current task serves."""


class CallGate:
    """What every call but a health check passes before a byte of its request is parsed."""

    def __init__(self, authenticator: Authenticator, admission: Admission, drain: Drain) -> None:
        self._doorman = authenticator
        self._admission = admission
        self._drain = drain

    @asynccontextmanager
    async def enter(self, method: str, context: Context, size: int) -> AsyncGenerator[Slot | None, None]:
        """Let a call in, and hold its place while it is answered; None where no place is needed.

        Args:
            method: its full name.
            context: gRPC's.
            size: bytes of its request, 0 for a stream of them.

        Raises:
            Draining, Unauthenticated, RateLimited, QueueFull, DeadlineExceeded: it is not let in.
        """
        if method.startswith(OPEN):
            yield None
            return
        self._drain.check()
        client = self._doorman.identify(caller_of(context))
        client_of_call.set(client)  # both until the call's task ends, so that its last log line has the name too
        structlog.contextvars.bind_contextvars(client=client.name)
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the deadline had passed when the call arrived")
        async with self._admission.enter(client, size) as slot:
            yield slot


def caller_of(context: Context) -> Caller:
    """What a call's connection and metadata show of who calls."""
    # The type stubs know metadata as a mapping; it is a sequence of pairs, in which a key may come twice.
    metadata: Any = context.invocation_metadata() or ()
    values = tuple(str(value) for key, value in metadata if key == "authorization")
    transport = next(iter(context.auth_context().get("transport_security_type", ())), b"insecure")
    return Caller(values, local=is_local_peer(context.peer()), encrypted=transport == b"ssl")


def is_local_peer(peer: str) -> bool:
    """Tell whether gRPC's name of a peer (`ipv6:%5B::1%5D:1`) is one of this machine: loopback or a unix socket."""
    scheme, _, rest = peer.partition(":")
    if scheme in {"unix", "unix-abstract"}:
        return True
    host = unquote(rest).rpartition(":")[0].strip("[]").partition("%")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.is_loopback
