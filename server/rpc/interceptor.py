"""The outermost layer of every method, ours or not: whatever happens further in, the caller gets a status of ours.

By itself gRPC would read a request before anybody is asked, answer a frame that does not parse with UNKNOWN, put an
exception's text (a user's text!) into the status's details, and let an escaping CancelledError hang the caller. So each
method is served as a stream of bytes, which is the same on the wire: the call is let in first, then its request is read
and parsed here, and whatever a handler raises becomes a status. A place ends when the reply has gone.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, cast

import grpc
import structlog

from server.errors import DeadlineExceeded, InvalidCall, Malformed, QueueFull
from server.inference.call import within
from server.limits import Context, Slot
from server.rpc.call_gate import BUSY_SECONDS, HEALTH, HEALTH_CLIENT, MAX_HEALTH_BYTES, CallGate, GrpcContext
from server.rpc.hang_up import hang_up
from server.rpc.status import CODES, trailers_of
from server.status import Reason, reason_of, status_of
from server.telemetry.logs import report
from server.telemetry.metrics import Metrics
from server.v1.messages import parse

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # None: no such method

CANCEL_SECONDS = 5.0  # in which gRPC cancels a call whose connection has closed

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Method:
    """A method's handler, apart from how gRPC would call it.

    Attributes:
        behaviour: takes a message, or an iterator of them, and a context; returns an awaitable or an async generator.
        ours: whether the context is ours, and not gRPC's.
    """

    name: str
    behaviour: Callable[[Any, Any], Any]
    deserializer: Callable[[bytes], Any] | None
    streams_requests: bool
    streams_responses: bool
    ours: bool

    @classmethod
    def of(cls, name: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "_Method":
        behaviour: Any = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
        return cls(
            name,
            behaviour,
            handler.request_deserializer,
            handler.request_streaming,
            handler.response_streaming,
            ours=not name.startswith("/grpc."),
        )


class _Writer:
    """Writes messages, each within a time.

    Attributes:
        pending: a message was handed to gRPC and has not gone.
    """

    def __init__(self, context: GrpcContext, seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self.pending = False

    async def write(self, message: Any) -> None:
        self.pending = True
        try:
            async with within(time.monotonic() + self._seconds, "the reply was not read in time"):
                await self._context.write(message)
        except DeadlineExceeded:
            raise
        except Exception:  # gRPC did not take it
            self.pending = False
            raise
        self.pending = False


class Outermost(grpc.aio.ServerInterceptor):
    """Wraps the handler of every method.

    Args:
        metrics: where calls are counted.
        gate: what each call passes.
        context_of: what handlers take as their context; gRPC's own services take gRPC's.

    Attributes:
        ports: that the server listens on, once it does.
    """

    def __init__(
        self,
        metrics: Metrics,
        gate: CallGate,
        context_of: Callable[[Context, GrpcContext], Any] = lambda call, _: call,
    ) -> None:
        self._metrics = metrics
        self._gate = gate
        self._context_of = context_of
        self.ports: set[int] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Replace a method's handler by one that takes bytes and is guarded."""
        handler = await continuation(handler_call_details)
        if handler is None:  # gRPC answers UNIMPLEMENTED by itself
            return handler
        method = _Method.of(handler_call_details.method, handler)

        async def serve(_: Any, context: GrpcContext) -> None:
            await self._guard(method, context)

        make: Any = grpc.stream_stream_rpc_method_handler
        return cast("Handler", make(serve, None, _serializer(handler.response_serializer)))

    async def _guard(self, method: _Method, context: GrpcContext) -> None:
        request_id = uuid.uuid4().hex
        began = time.monotonic()
        code, reason = grpc.StatusCode.OK, ""
        writer = _Writer(context, self._gate.default_deadline)
        self._metrics.requests_in_flight.labels(method.name).inc()
        with structlog.contextvars.bound_contextvars(request_id=request_id, method=method.name):
            try:
                await self._let_in(method, context, writer, request_id)
            except grpc.aio.AbortError:  # a handler that is not ours has set its status
                code = context.code()
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                if _is_being_cancelled():  # by gRPC: the caller has gone, or its deadline has passed
                    raise
                code, reason = grpc.StatusCode.INTERNAL, Reason.INTERNAL
                log.error("internal error", error="CancelledError")  # noqa: TRY400
                await _abort(context, RuntimeError(), request_id)
            except grpc.aio.InternalError as error:
                code = grpc.StatusCode.CANCELLED
                if context.code():  # a status could not be sent: the caller has gone
                    return
                await asyncio.sleep(CANCEL_SECONDS)  # a write failed: the connection has closed, and gRPC will cancel
                code, reason = grpc.StatusCode.INTERNAL, Reason.INTERNAL
                report(error)
                await _abort(context, error, request_id)
            except Exception as error:  # noqa: BLE001 - this is where everything ends
                number, reason = reason_of(error)
                code = CODES[number]
                if reason is Reason.INTERNAL:
                    report(error)
                if writer.pending:
                    await _leave_unread(context, self.ports)
                await _abort(context, error, request_id)
            finally:
                seconds = time.monotonic() - began
                self._metrics.requests_in_flight.labels(method.name).dec()
                self._metrics.observe_request(method.name, code.name, reason, seconds)
                tell = log.debug if method.name.startswith(HEALTH) else log.info  # probes come every few seconds
                line = partial(tell, "call", code=code.name, reason=reason, seconds=round(seconds, 4))
                asyncio.get_running_loop().call_soon(line)  # once the status is on its way: a line takes 0.1 ms

    async def _let_in(self, method: _Method, context: GrpcContext, writer: _Writer, request_id: str) -> None:
        entering = self._gate.enter(method.name, context, request_id, streams_requests=method.streams_requests)
        async with entering as call:
            try:
                async with within(call.deadline):
                    await self._answer(method, context, writer, call)
            except Exception:
                if writer.pending:  # gRPC holds the reply for as long as the connection lasts
                    call.slot.lingers = True
                    release: Any = lambda _: call.slot.release()  # noqa: E731 - the type stubs' protocol fits no function
                    context.add_done_callback(release)
                raise

    async def _answer(self, method: _Method, context: GrpcContext, writer: _Writer, call: Context) -> None:
        requests: Any
        async with within(time.monotonic() + self._gate.default_deadline, "the request did not arrive in time"):
            first = await call.slot.receive(context.read)
        if method.streams_requests:
            requests = _each(method, context, call.slot, first, self._gate.default_deadline)
        elif first is grpc.aio.EOF:
            raise Malformed
        elif call.client is HEALTH_CLIENT and len(first) > MAX_HEALTH_BYTES:
            raise InvalidCall("service", f"a health request has at most {MAX_HEALTH_BYTES:,} bytes")
        else:
            call.slot.hold(len(first))
            requests = parse(first, method.deserializer)
        del first
        answers = method.behaviour(requests, self._context_of(call, context) if method.ours else context)
        if hasattr(answers, "__aiter__"):
            async with contextlib.aclosing(answers):
                async for message in answers:
                    await writer.write(message)
        elif method.streams_responses:  # writes by itself
            await answers
        else:
            await writer.write(await answers)


def _serializer(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes]:
    """What makes a message's bytes; bytes are one already."""
    return lambda message: message if serialize is None or isinstance(message, bytes) else serialize(message)


async def _each(
    method: _Method, context: GrpcContext, slot: Slot, data: Any, stall_seconds: float
) -> AsyncGenerator[Any, None]:
    """A stream's messages, the first of which is `data`; each waits for room, and holds it until the next is asked for.

    Raises:
        DeadlineExceeded: none came for a long time in which nothing else happened.
        QueueFull: there was no room for the next one for as long.
    """
    while data is not grpc.aio.EOF:
        size = len(data)
        try:
            async with asyncio.timeout(stall_seconds):
                await slot.hold_soon(size)
        except TimeoutError:
            raise QueueFull("the server had no room for the stream's next message", BUSY_SECONDS) from None
        message = parse(data, method.deserializer)
        del data
        yield message
        del message
        slot.give_back(size)
        data = await _next(context, slot, stall_seconds)


async def _next(context: GrpcContext, slot: Slot, stall_seconds: float) -> Any:
    reading = asyncio.ensure_future(cast("Awaitable[Any]", context.read()))
    try:
        while not (await asyncio.wait({reading}, timeout=stall_seconds))[0]:
            if not slot.busy:
                raise DeadlineExceeded(f"nothing was sent for {stall_seconds:g} s")
        return reading.result()
    finally:
        reading.cancel()


async def _leave_unread(context: GrpcContext, ports: set[int]) -> None:
    """Close the connection of a call whose reply is not read, and give gRPC the time to cancel it.

    A caller whose connection cannot be closed gets the status behind the reply, once it reads that.
    """
    log.warning("reply not read", connection_closed=hang_up(context.peer(), ports))
    await asyncio.sleep(CANCEL_SECONDS)


async def _abort(context: GrpcContext, error: BaseException, request_id: str) -> None:
    status = status_of(error, request_id)
    with contextlib.suppress(grpc.aio.InternalError):  # the caller has gone
        await context.abort(CODES[status.code], status.message, trailers_of(status))


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
