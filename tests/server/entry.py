"""A server whose handlers do next to nothing behind the real interceptor, so that what is tested is the way in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from server.auth.authenticator import Authenticator
from server.config.schema import Settings
from server.health.drain import Drain
from server.limits import Admission, Context, Gate, Limiter
from server.rpc.call_gate import CallGate
from server.rpc.interceptor import Outermost
from server.telemetry.metrics import Metrics

METHOD = "/test.Echo/Echo"
STREAM = "/test.Echo/Stream"


@dataclass
class Entry:
    """A server that runs; `Echo` answers with the client's name, once `open` is set."""

    address: str
    registry: CollectorRegistry
    parsed: list[bytes] = field(default_factory=list)
    open: asyncio.Event = field(default_factory=asyncio.Event)

    def channel(self, **options: Any) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            self.address, options=[("grpc.use_local_subchannel_pool", 1), *options.items()]
        )

    async def call(self, data: bytes = b"", *, token: str | None = None, seconds: float = 10.0) -> str:
        """Call `Echo` over a connection of its own."""
        async with self.channel() as channel:
            return await echo(channel, data, token=token, seconds=seconds)


async def echo(channel: grpc.aio.Channel, data: bytes = b"", *, token: str | None = None, seconds: float = 10.0) -> str:
    call: Any = channel.unary_unary(METHOD)
    reply: bytes = await call(data, metadata=bearer(token), timeout=seconds)
    return reply.decode()


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token is not None else ()


def gate_of(settings: Settings, metrics: Metrics, limiter: Limiter) -> CallGate:
    """The gate of a server with such settings."""
    admission = Admission(limiter, settings.limits, metrics)
    gate = Gate(Authenticator(settings), admission, Drain(1.0), settings.server.default_deadline_seconds)
    return CallGate(gate, admission)


@asynccontextmanager
async def entry(
    settings: Settings, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> AsyncIterator[Entry]:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    limiter = Limiter(settings.limits, metrics)
    server = grpc.aio.server(interceptors=[Outermost(metrics, gate_of(settings, metrics, limiter))])
    made = Entry("", registry)

    def parse(data: bytes) -> bytes:
        made.parsed.append(data)
        return data

    async def answer(request: bytes, context: Context) -> bytes:
        if request.startswith(b"wait"):
            await made.open.wait()
        return context.client.name.encode()

    async def stream(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[:4]

    handlers: Any = {
        "Echo": grpc.unary_unary_rpc_method_handler(answer, request_deserializer=parse),
        "Stream": grpc.stream_stream_rpc_method_handler(stream, request_deserializer=parse),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", handlers),))
    alive = health.aio.HealthServicer()
    await alive.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(alive, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    made.address = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    try:
        yield made
    finally:
        made.open.set()
        await server.stop(0)
        await limiter.close()


@dataclass(frozen=True)
class Refusal:
    """What a refused call carries."""

    code: grpc.StatusCode
    message: str
    reason: str
    pushback: str | None
    retry_after: float | None
    quota: tuple[str, str] | None  # subject, and the plan's setting
    status: Status


def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """Read it as a client would."""
    trailers = dict(error.trailing_metadata() or ())
    packed = trailers["grpc-status-details-bin"]
    assert isinstance(packed, bytes)
    status, info, retry, quota = Status.FromString(packed), ErrorInfo(), RetryInfo(), QuotaFailure()
    waits, limits = False, False
    for detail in status.details:
        detail.Unpack(info)
        waits |= detail.Unpack(retry)
        limits |= detail.Unpack(quota)
    pushback = trailers.get("grpc-retry-pushback-ms")
    return Refusal(
        error.code(),
        error.details() or "",
        info.reason,
        str(pushback) if pushback is not None else None,
        retry.retry_delay.ToMilliseconds() / 1000 if waits else None,
        (quota.violations[0].subject, info.metadata["quota"]) if limits else None,
        status,
    )
