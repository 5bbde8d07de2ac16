"""What a gRPC call shows of its caller, and the places of health checks, which need no client."""

import math
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from server.auth.authenticator import Caller
from server.auth.clients import Client
from server.errors import QueueFull
from server.limits import Admission, Arrivals, Context, Gate, Slot

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


class CallGate:
    """What every gRPC call passes before its request is read. Health checks bypass authentication and limits.

    Attributes:
        default_deadline: see `Gate`.
    """

    def __init__(self, gate: Gate, admission: Admission) -> None:
        self._gate = gate
        self._admission = admission
        self.default_deadline = gate.default_deadline
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
        client = self._gate.identify(caller_of(context))
        left = context.time_remaining()
        async with self._gate.enter(client, left, request_id, streams_requests=streams_requests) as call:
            yield call

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
