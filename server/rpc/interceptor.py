"""The outermost layer of every method, ours or not: nothing leaves it that is not a status of ours.

gRPC itself would answer a frame that does not parse with UNKNOWN, would put an exception's text (a user's text!) into
the status's details, and would let an escaping CancelledError hang the caller. So this interceptor takes the bytes,
parses them itself, gives the call its id, and turns whatever a handler raises into a status.
"""

import asyncio
import contextlib
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn, TypeAlias, cast

import grpc
import structlog

from server.errors import Malformed
from server.limits import Slot
from server.rpc.call_gate import CallGate
from server.rpc.status import CODES, Reason, reason_of, status_of, trailers_of
from server.telemetry.metrics import Metrics

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"  # None: no such method

request_id: ContextVar[str] = ContextVar("request_id")
"""Of the call that the current task serves; 32 hexadecimal digits."""

log = structlog.get_logger(__name__)


class Outermost(grpc.aio.ServerInterceptor):
    """Wraps the deserialiser and the handler of every method."""

    def __init__(self, metrics: Metrics, entrance: CallGate | None = None) -> None:
        self._metrics = metrics
        self._entrance = entrance

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        """Replace a method's handler by one that takes bytes and is guarded."""
        handler = await continuation(handler_call_details)
        if handler is None:  # gRPC answers UNIMPLEMENTED by itself
            return handler
        method = handler_call_details.method
        parse = _parser(handler)
        # The type stubs know a handler's functions in their synchronous form alone.
        behaviour: Any = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary

        async def unary(request: Any, context: Context) -> Any:
            return await self._guard(method, context, request, lambda slot: behaviour(parse(request, slot), context))

        async def stream(request: Any, context: Context) -> None:
            await self._guard(
                method, context, request, lambda slot: _write_all(behaviour(parse(request, slot), context), context)
            )

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return cast(
            "Handler",
            make(
                stream if handler.response_streaming else unary,
                request_deserializer=None,
                response_serializer=handler.response_serializer,
            ),
        )

    async def _guard(
        self, method: str, context: Context, request: Any, run: Callable[[Slot | None], Awaitable[Any]]
    ) -> Any:
        call_id = uuid.uuid4().hex
        request_id.set(call_id)
        began = time.monotonic()
        code, reason = grpc.StatusCode.OK, ""
        self._metrics.requests_in_flight.labels(method).inc()
        with structlog.contextvars.bound_contextvars(request_id=call_id, method=method):
            try:
                size = len(request) if isinstance(request, bytes) else 0  # a stream's messages come later
                entered = self._entrance.enter(method, context, size) if self._entrance else contextlib.nullcontext()
                async with entered as slot:
                    return await run(slot)
            except grpc.aio.AbortError:  # a handler that is not ours has set its status
                code = context.code()
                raise
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                if _is_being_cancelled():  # by gRPC: the caller has gone, or its deadline has passed
                    raise
                code, reason = grpc.StatusCode.INTERNAL, Reason.INTERNAL
                log.error("internal error", error="CancelledError")  # noqa: TRY400
                await _abort(context, RuntimeError(), call_id)
            except Exception as error:  # noqa: BLE001 - this is where everything ends
                number, reason = reason_of(error)
                code = CODES[number]
                if reason is Reason.INTERNAL:
                    report(error)
                await _abort(context, error, call_id)
            finally:
                seconds = time.monotonic() - began
                self._metrics.requests_in_flight.labels(method).dec()
                self._metrics.observe_request(method, code.name, reason, seconds)
                log.info("call", code=code.name, reason=reason, seconds=round(seconds, 4))


def _parser(handler: "grpc.RpcMethodHandler[Any, Any]") -> Callable[[Any, Slot | None], Any]:
    """What makes messages of a method's bytes: of the one request, or of each of a stream of them."""

    def one(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data) if handler.request_deserializer else data
        except Exception as error:
            raise Malformed from error

    async def each(stream: AsyncIterator[bytes], slot: Slot | None) -> AsyncIterator[Any]:
        async for data in slot.following(stream) if slot else stream:
            yield one(data)

    return each if handler.request_streaming else lambda data, _: one(data)


async def _write_all(answers: Any, context: Context) -> None:
    """Send a stream's messages; handlers come as async generators, or as coroutines that write by themselves."""
    if not hasattr(answers, "__aiter__"):
        await answers
        return
    async with contextlib.aclosing(answers):
        async for message in answers:
            await context.write(message)


async def _abort(context: Context, error: BaseException, call_id: str) -> NoReturn:
    status = status_of(error, call_id)
    await context.abort(CODES[status.code], status.message, trailers_of(status))


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def report(error: BaseException) -> None:
    """Log a bug of ours: what it was and where it came from, without its message and the values of anything."""
    log.error("internal error", error=type(error).__qualname__, frames=_frames(error))


def _frames(error: BaseException) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
