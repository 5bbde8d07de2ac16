"""Who calls, and whether there is room for the call: settled before a byte of its request is read."""

import math
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

import structlog

from server.auth.authenticator import Authenticator, Caller
from server.auth.clients import Client
from server.errors import DeadlineExceeded, QueueFull
from server.health.drain import Drain
from server.limits import Admission, Arrivals, Slot

if TYPE_CHECKING:
    import grpc

GrpcContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

HEALTH = (
    "/grpc.health.v1.Health/",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
)
HEALTH_PLACES = 64  # of health checks and watches together, apart from those of calls
HEALTH_CLIENT = Client("~health", "~health")  # settings allow no such name
MAX_HEALTH_BYTES = 1024
BUSY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """What a call has beside its messages.

    Attributes:
        request_id: 32 hexadecimal digits, also in the server's log.
        deadline: of the monotonic clock, in seconds: the caller's, else the server's default. A stream of requests
            whose caller set none has no end, but may not stall.
    """

    request_id: str
    client: Client
    deadline: float
    slot: Slot


class CallGate:
    """What every call passes before its request is read. Health checks bypass authentication and limits.

    Attributes:
        default_deadline: seconds that a call has whose caller set no deadline, and the longest that a peer may stall.
    """

    def __init__(
        self, authenticator: Authenticator, admission: Admission, drain: Drain, default_deadline_seconds: float
    ) -> None:
        self._authenticator = authenticator
        self._admission = admission
        self._drain = drain
        self.default_deadline = default_deadline_seconds
        self._health_calls = 0
        self._health_arrivals = Arrivals()

    @asynccontextmanager
    async def enter(
        self, method: str, context: GrpcContext, request_id: str, *, streams_requests: bool
    ) -> AsyncGenerator[Context, None]:
        """Let a call in, and hold its place while it is answered.

        Raises:
            Draining, Unauthenticated, RateLimited, QueueFull, DeadlineExceeded: it is not let in.
        """
        if method.startswith(HEALTH):
            with self._health_place() as slot:
                yield Context(request_id, HEALTH_CLIENT, math.inf, slot)
            return
        self._drain.check()
        client = self._authenticator.identify(caller_of(context))
        structlog.contextvars.bind_contextvars(client=client.name)  # until the task ends: for its last log line too
        left = context.time_remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the deadline had passed when the call arrived")
        default = math.inf if streams_requests else self.default_deadline
        deadline = time.monotonic() + (default if left is None else left)
        async with self._admission.enter(client, streams_requests=streams_requests) as slot:
            yield Context(request_id, client, deadline, slot)

    @contextmanager
    def _health_place(self) -> Iterator[Slot]:
        if self._health_calls >= HEALTH_PLACES:
            raise QueueFull(f"the server answers {HEALTH_PLACES} health checks already", BUSY_SECONDS)
        slot = Slot(self._admission, HEALTH_CLIENT, self._health_arrivals)
        self._health_calls += 1
        try:
            yield slot
        finally:
            self._health_calls -= 1
            if not slot.lingers:
                slot.release()


def caller_of(context: GrpcContext) -> Caller:
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
