"""The outermost layer of every path: whatever happens further in, the caller gets an error in its own dialect.

As over gRPC, the caller is authenticated and admitted before its body is read, the body counts as in flight, and the
call's place ends when the reply has gone. A call whose peer has gone is cancelled.
"""

import asyncio
import math
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Protocol

import structlog
from google.rpc.code_pb2 import Code
from starlette.types import Receive, Scope, Send

from server.auth.authenticator import Caller
from server.auth.clients import Client
from server.errors import InvalidCall, PermissionDenied
from server.http.errors import Disconnected, Headers, limit_headers, retry_headers
from server.http.reading import Incoming, read
from server.inference.call import within
from server.limits import Context, Gate, Limiter
from server.status import MAPPING, Row, row_of
from server.telemetry.logs import report
from server.telemetry.metrics import Metrics

JSON = b"application/json"
EVENTS = b"text/event-stream"
TOKEN = "oct_"  # noqa: S105 - what our keys begin with
TIMEOUTS = (b"x-octavo-timeout", b"x-stainless-read-timeout")  # in seconds; the latter is of OpenAI's clients
LONGEST_SECONDS = 1e6
LARGE_BYTES = 64 << 10

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A request that was let in.

    Attributes:
        path: its variable parts.
        body: all of it; empty where it is read as it comes in.
        incoming: reads it then.
        stall_seconds: the longest that a peer may stall.
    """

    path: Mapping[str, str]
    body: bytes
    context: Context
    incoming: Incoming
    stall_seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """A reply, whole or in parts."""

    body: bytes | AsyncGenerator[bytes, None]
    headers: Headers = field(default_factory=list)
    media_type: bytes = JSON
    status: int = 200


class Dialect(Protocol):
    """How a dialect tells an error."""

    def __call__(self, error: BaseException, row: Row, request_id: str) -> tuple[int, bytes]:
        """Status and body."""


@dataclass(frozen=True, slots=True, eq=False)
class Entrance:
    """What all paths share.

    Attributes:
        max_body_bytes: of a request.
        cors_origins: whose pages may call.
    """

    gate: Gate
    limiter: Limiter
    metrics: Metrics
    max_body_bytes: int
    cors_origins: tuple[str, ...] = ()

    def check_origin(self, headers: Headers) -> None:
        """Refuse what a browser sends for a page of another site, which could otherwise call as who browses.

        Raises:
            PermissionDenied: it does.
        """
        given = dict(headers)
        origin = given.get(b"origin", b"").decode("latin-1")
        host = given.get(b"host", b"").decode("latin-1")
        own = not origin or origin.partition("://")[2] == host
        if not (own or "*" in self.cors_origins or origin in self.cors_origins):
            raise PermissionDenied("pages of this origin may not call; see server.http_cors_origins")


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """An ASGI application of one path.

    Attributes:
        name: for metrics and the log.
        streams_requests: its body is a stream of requests, which it reads by itself.
    """

    name: str
    entrance: Entrance
    dialect: Dialect
    answer: Callable[[Request], Awaitable[Reply]]
    streams_requests: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request_id = uuid.uuid4().hex
        began = time.monotonic()
        writer = _Writer(send, request_id)
        code, reason = Code.OK, ""
        metrics = self.entrance.metrics
        metrics.requests_in_flight.labels(self.name).inc()
        with structlog.contextvars.bound_contextvars(request_id=request_id, method=self.name):
            try:
                await self._let_in(scope, receive, writer)
            except Disconnected:
                code = Code.CANCELLED
            except asyncio.CancelledError:
                code = Code.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001 - this is where everything ends
                row = row_of(error)
                code, reason = row.code, row.reason
                if row is MAPPING[-1]:
                    report(error)
                await writer.fail(error, row, self.dialect)
            finally:
                seconds = time.monotonic() - began
                metrics.requests_in_flight.labels(self.name).dec()
                metrics.observe_request(self.name, Code.Name(code), reason, seconds)
                log.info("call", code=Code.Name(code), reason=reason, seconds=round(seconds, 4))

    async def _let_in(self, scope: Scope, receive: Receive, writer: "_Writer") -> None:
        gate, headers = self.entrance.gate, scope["headers"]
        self.entrance.check_origin(headers)
        writer.client = client = gate.identify(caller_of(scope))
        writer.limiter = self.entrance.limiter
        left = _time_left(headers)
        entering = gate.enter(client, left, writer.request_id, streams_requests=self.streams_requests)
        async with entering as call, within(call.deadline):
            body, incoming = b"", Incoming(receive)
            if not self.streams_requests:
                body = await read(incoming, call.slot, self.entrance.max_body_bytes)
            request = Request(scope["path_params"], body, call, incoming, gate.default_deadline)
            async with _cancelled_by(receive, incoming.ended):
                reply = await self.answer(request)
                if not isinstance(reply.body, bytes):
                    await writer.write(reply)
            if isinstance(reply.body, bytes):
                call.slot.hold_again(len(reply.body))
                await writer.write(reply)


class _Writer:
    """Writes the one reply of a request."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._begun = self._streams = False
        self.request_id = request_id
        self.client: Client | None = None
        self.limiter: Limiter | None = None

    async def write(self, reply: Reply) -> None:
        """Write a reply; a stream's faults are raised."""
        if isinstance(reply.body, bytes):
            await self._begin(reply, [(b"content-length", b"%d" % len(reply.body))])
            if len(reply.body) > LARGE_BYTES:  # the end is sent once the peer has read nearly all
                await self._send({"type": "http.response.body", "body": reply.body, "more_body": True})
                await self._send({"type": "http.response.body", "body": b""})
            else:
                await self._send({"type": "http.response.body", "body": reply.body})
            return
        async with aclosing(reply.body) as parts:
            async for part in parts:
                if not self._begun:
                    self._streams = True
                    await self._begin(reply, [(b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")])
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
        if not self._begun:
            await self._begin(reply, [])
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: Exception, row: Row, dialect: Dialect) -> None:
        """Tell an error; within a stream as its last event."""
        status, body = dialect(error, row, self.request_id)
        if self._streams:
            await self._send({"type": "http.response.body", "body": b"event: error\ndata: %b\n\n" % body})
        if self._begun:
            return  # and the connection is closed within the reply
        await self.write(Reply(body, retry_headers(error, row), status=status))

    async def _begin(self, reply: Reply, more: Headers) -> None:
        self._begun = True
        limits = self.limiter.standing(self.client) if self.limiter and self.client else {}
        headers = [
            (b"content-type", reply.media_type),
            (b"x-request-id", self.request_id.encode()),
            *more,
            *reply.headers,
            *limit_headers(limits),
        ]
        await self._send({"type": "http.response.start", "status": reply.status, "headers": headers})


@asynccontextmanager
async def _cancelled_by(receive: Receive, ended: asyncio.Event) -> AsyncIterator[None]:
    """Cancel what happens inside once the peer has gone; until its body has ended, who reads that sees it.

    Raises:
        Disconnected: it has.
    """
    task = asyncio.current_task()
    assert task
    gone = False

    async def watch() -> None:
        nonlocal gone
        await ended.wait()
        while (await receive())["type"] != "http.disconnect":
            pass
        gone = True
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if gone and task.uncancel() == 0:
            raise Disconnected from None
        raise
    finally:
        watching.cancel()


def caller_of(scope: Scope) -> Caller:
    """What a request shows of who calls.

    A bearer token that is none of ours, such as the one that OpenAI's clients must be given, is no credential: the call
    is anonymous, which gives nothing that no header at all would not give.
    """
    values = [value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"]
    foreign = len(values) == 1 and not values[0].partition(" ")[2].strip().startswith(TOKEN)
    host = (scope["client"] or ("",))[0]
    return Caller(() if foreign else tuple(values), local=_is_local(host), encrypted=scope["scheme"] == "https")


def _is_local(host: str) -> bool:
    try:
        address: Any = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return bool((getattr(address, "ipv4_mapped", None) or address).is_loopback)


def _time_left(headers: Headers) -> float | None:
    """Seconds until the caller's deadline; None if it set none."""
    given = dict(headers)
    for name in TIMEOUTS:
        if name in given:
            try:
                seconds = float(given[name])
            except ValueError:
                seconds = math.nan
            if 0 < seconds < LONGEST_SECONDS:
                return seconds
            if name is TIMEOUTS[0]:
                raise InvalidCall(name.decode(), "a timeout is a positive number of seconds")
    return None
