"""Streams of segments: what both clients' streams share, and the two forms."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from octavo.client import replies
from octavo.client.errors import IncompleteStream, from_call
from octavo.client.results import SegmentResult, StreamHeader, StreamSummary
from octavo.client.retry import Attempts
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    SyncCall = grpc._CallIterator[pb.StreamSegmentsResponse]  # noqa: SLF001
    AsyncCall = grpc.aio.UnaryStreamCall[pb.StreamSegmentsRequest, pb.StreamSegmentsResponse]


class _Progress:
    """What a stream has said so far. `header` comes with the first segment, `summary` after the last."""

    header: StreamHeader | None = None
    summary: StreamSummary | None = None

    def _take(self, event: pb.StreamSegmentsResponse) -> SegmentResult | None:
        """Keeps a header or a summary; returns a segment."""
        match event.WhichOneof("event"):
            case "segment":
                return replies.segment_result(event.segment)
            case "header":
                self.header = replies.stream_header(event.header)
            case "summary":
                self.summary = replies.stream_summary(event.summary)
        return None

    def _check_end(self) -> None:
        if self.summary is None:
            raise IncompleteStream("the stream ended without its summary: segments may be missing")


class SegmentStream(_Progress, Iterator[SegmentResult]):
    """A document's segments, in its order, each as soon as it is ready. Leaving it as a context cancels the rest.

    The call begins with the first segment that is asked for, and is tried again until it has said something.
    """

    def __init__(self, start: Callable[[float | None], "SyncCall"], attempts: Attempts) -> None:
        self._start = start
        self._attempts = attempts
        self._call: SyncCall | None = None

    def __next__(self) -> SegmentResult:
        """The next segment. Raises what ends the stream early, as an OctavoError."""
        while (event := self._next_event()) is not None:
            if (result := self._take(event)) is not None:
                return result
        self._check_end()
        raise StopIteration

    def _next_event(self) -> pb.StreamSegmentsResponse | None:
        while True:
            try:
                if self._call is None:
                    self._call = self._start(self._attempts.timeout())
                return next(self._call, None)
            except grpc.RpcError as fault:
                error = from_call(fault)
                wait = self._attempts.next_wait(error) if self.header is None else None
                if wait is None:
                    raise error from fault
            self._call = None
            time.sleep(wait)

    def close(self) -> None:
        """Cancels what has not come yet."""
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncSegmentStream(_Progress, AsyncIterator[SegmentResult]):
    """`SegmentStream` for asyncio: `async for`, `async with`."""

    def __init__(self, start: Callable[[float | None], "AsyncCall"], attempts: Attempts) -> None:
        self._start = start
        self._attempts = attempts
        self._call: AsyncCall | None = None

    async def __anext__(self) -> SegmentResult:
        """The next segment. Raises what ends the stream early, as an OctavoError."""
        while (event := await self._next_event()) is not None:
            if (result := self._take(event)) is not None:
                return result
        self._check_end()
        raise StopAsyncIteration

    async def _next_event(self) -> pb.StreamSegmentsResponse | None:
        while True:
            try:
                if self._call is None:
                    self._call = self._start(self._attempts.timeout())
                event = await self._call.read()
                return event if isinstance(event, pb.StreamSegmentsResponse) else None
            except grpc.aio.AioRpcError as fault:
                error = from_call(fault)
                wait = self._attempts.next_wait(error) if self.header is None else None
                if wait is None:
                    raise error from fault
            self._call = None
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Cancels what has not come yet."""
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
