"""Sends calls from a separate process: requests are serialised beforehand, and answers are not parsed."""

import asyncio
import gc
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import grpc

from benchmarks.endpoint import Endpoint
from benchmarks.loading.schedule import STREAM, Call
from benchmarks.loading.tally import Answer

_START_SECONDS = 0.2  # between the process' being ready and the schedule's start


@dataclass(frozen=True, slots=True)
class Sent:
    """A schedule that is over.

    Attributes:
        answers: one for each call, in the order in which they ended.
        cores: what the generator itself took of the machine, in cores.
        messages: those that came on the background's streams during the schedule.
    """

    answers: list[Answer]
    cores: float
    messages: int = 0


class Generator:
    """The process; one schedule at a time."""

    def __init__(self) -> None:
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Self:
        self._process.submit(time.monotonic).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown(cancel_futures=True)

    def offer(
        self, callers: Sequence[Endpoint], calls: Sequence[Call], deadline: float, background: Sequence[Call] = ()
    ) -> "Future[Sent]":
        """Send each call at its time, whatever became of those before; each has until `deadline` after it.

        The background's streams go on beside the schedule, one after the other, and are cancelled when it is over;
        theirs begin one second before it.
        """
        return self._process.submit(_run, _offer, callers, calls, deadline, background)

    def saturate(
        self, callers: Sequence[Endpoint], calls: Sequence[Call], in_flight: int, seconds: float = float("inf")
    ) -> "Future[Sent]":
        """Send the calls one after another, always so many of them under way; none is begun after `seconds`."""
        return self._process.submit(_run, _saturate, callers, calls, in_flight, seconds)


def _run(work: Callable[..., Coroutine[Any, Any, Sent]], *arguments: Any) -> Sent:
    gc.collect()
    gc.freeze()  # the requests: nothing that the collector would find
    try:
        return asyncio.run(work(*arguments))
    finally:
        gc.unfreeze()


async def _offer(
    callers: Sequence[Endpoint], calls: Sequence[Call], deadline: float, background: Sequence[Call]
) -> Sent:
    async with _lines(callers) as lines:
        streams = asyncio.create_task(lines.listen(background))
        if background:
            await asyncio.sleep(1.0)
        clock = _Clock(_START_SECONDS)
        before = lines.messages
        async with asyncio.TaskGroup() as group:
            for call in sorted(calls, key=lambda call: call.at):
                await asyncio.sleep(call.at - clock.now())
                group.create_task(lines.make(call, clock, call.at, deadline))
        if background and streams.done():
            streams.result()
            raise RuntimeError("the background ended before the schedule")
        sent = Sent(lines.answers, clock.cores(), lines.messages - before)
        streams.cancel()
        await asyncio.gather(streams, return_exceptions=True)
        return sent


async def _saturate(callers: Sequence[Endpoint], calls: Sequence[Call], in_flight: int, seconds: float) -> Sent:
    async with _lines(callers) as lines:
        clock = _Clock()
        left = iter(calls)

        async def call_on() -> None:
            while clock.now() < seconds and (call := next(left, None)) is not None:
                await lines.make(call, clock, clock.now())

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(call_on())
        return Sent(lines.answers, clock.cores())


class _Clock:
    """Seconds since the start, which may lie a little ahead; and CPU time since then."""

    def __init__(self, ahead: float = 0.0) -> None:
        self._start = time.monotonic() + ahead
        self._cpu = time.process_time()

    def now(self) -> float:
        return time.monotonic() - self._start

    def cores(self) -> float:
        return (time.process_time() - self._cpu) / self.now()


class _Lines:
    """The callers' connections, and what came over them."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], callers: Sequence[Endpoint]) -> None:
        self._channels = channels
        self._metadata = [(("authorization", f"Bearer {caller.token}"),) if caller.token else () for caller in callers]
        self.answers: list[Answer] = []
        self.messages = 0

    async def make(self, call: Call, clock: _Clock, planned: float, deadline: float | None = None) -> None:
        """Make a call; whatever comes of it is an answer."""
        sent, code = clock.now(), "OK"
        seconds = None if deadline is None else max(0.001, planned + deadline - sent)
        try:
            async for _ in self._messages(call, seconds):
                pass
        except grpc.aio.AioRpcError as fault:
            code = fault.code().name
        self.answers.append(Answer(call.caller, call.tokens, planned, sent, clock.now(), code))

    async def listen(self, streams: Sequence[Call]) -> None:
        """Follow streams, one after the other, to the last message of the last."""
        for call in streams:
            async for _ in self._messages(call, None):
                self.messages += 1

    def _messages(self, call: Call, seconds: float | None) -> AsyncIterator[bytes]:
        return messages(
            self._channels[call.caller], call.method, call.request, seconds, metadata=self._metadata[call.caller]
        )


@asynccontextmanager
async def _lines(callers: Sequence[Endpoint]) -> AsyncIterator[_Lines]:
    """Connect all callers, each by a connection of its own, as clients do."""
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.max_send_message_length", -1),
    ]
    channels = [
        grpc.aio.secure_channel(caller.address, credentials, options)
        if (credentials := caller.credentials())
        else grpc.aio.insecure_channel(caller.address, options)
        for caller in callers
    ]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        yield _Lines(channels, callers)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def messages(
    channel: grpc.aio.Channel,
    method: str,
    request: bytes,
    seconds: float | None,
    metadata: Sequence[tuple[str, str]] = (),
) -> AsyncIterator[bytes]:
    """Make a call with bytes; its answers as bytes, one for a unary method.

    Raises:
        grpc.aio.AioRpcError: it was not answered.
    """
    untyped: Any = channel  # the type stubs know no methods without a serialiser
    if method == STREAM:
        async for message in untyped.unary_stream(method)(request, timeout=seconds, metadata=metadata):
            yield message
    else:
        yield await untyped.unary_unary(method)(request, timeout=seconds, metadata=metadata)
