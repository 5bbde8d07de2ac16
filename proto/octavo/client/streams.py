"""Streams of segments, for threads and asyncio."""

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from octavo.client import replies
from octavo.client.errors import DeadlineExceeded, IncompleteStream, OctavoError, from_call
from octavo.client.results import Entities, Redaction, SegmentResult, StreamHeader, StreamSummary, TaskResult
from octavo.client.retry import Attempts
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    SyncCall = grpc._CallIterator[pb.StreamSegmentsResponse]  # noqa: SLF001
    AsyncCall = grpc.aio.UnaryStreamCall[pb.StreamSegmentsRequest, pb.StreamSegmentsResponse]


class _Progress:
    """The progress of a stream. `header` is set with the first segment, `summary` after the last."""

    header: StreamHeader | None = None
    summary: StreamSummary | None = None

    def __init__(self, attempts: Attempts, known: bytes, *, resume: bool, partial: bool) -> None:
        self._attempts = attempts
        self._known = known
        self._tiles: defaultdict[int, replies.Tiles] = defaultdict(lambda: replies.Tiles(known))  # by trunk
        self._ready: deque[SegmentResult] = deque()
        self._resume = resume
        self._partial = partial
        self._segments = 0
        self._cursor: str | None = None  # of the last segment; None before the first
        self._pieces: dict[str, list[TaskResult]] = {}  # by task; the summary does not repeat them

    def _take(self, event: pb.StreamSegmentsResponse) -> None:
        """Store what a message has: segments, a header or a summary.

        Raises:
            DeadlineExceeded: the summary is partial, and partial results were not requested.
        """
        match event.WhichOneof("event"):
            case "segment":
                self._cursor = event.segment.cursor
                self._attempts.progressed()
                found = replies.segment_results(event.segment, self._tiles[event.segment.trunk])
                self._segments += len(found)
                self._ready.extend(found)
                self._keep(found[-1])
            case "header":
                self.header = replies.stream_header(event.header)
            case "summary":
                self.summary = replies.stream_summary(event.summary, self._pieces, self._known)
                if self.summary.partial and not self._partial:
                    raise self._out_of_time()

    def _keep(self, result: SegmentResult) -> None:
        for name, piece in result.results.items():
            if isinstance(piece, Entities | Redaction):
                self._pieces.setdefault(name, []).append(piece)

    def _goes_on_after(self, event: pb.StreamSegmentsResponse) -> bool:
        """Whether this is a partial summary and another call should continue."""
        return event.summary.partial and self._resume and bool(self._cursor) and self._attempts.may_go_on

    def _out_of_time(self) -> DeadlineExceeded:
        whose = "timeout" if self._attempts.limited else "server's default deadline (set a timeout to replace it)"
        return DeadlineExceeded(
            f"the {whose} passed before the document's end, after {self._segments:,} segments",
            code=grpc.StatusCode.DEADLINE_EXCEEDED,
            reason="DEADLINE",
        )

    def _seconds_to_wait(self, error: OctavoError) -> float | None:
        """Seconds to wait before the stream restarts or resumes; None: raise the error."""
        if self.header is not None and not self._resume:
            return None
        if self._cursor == "":  # this server cannot resume: it would send all segments again
            return None
        return self._attempts.next_wait(error)


class SegmentStream(_Progress, Iterator[SegmentResult]):
    """Yields a document's segments in order, each as soon as it is ready. Leaving the context cancels the rest.

    The call starts when the first segment is requested, and is retried until it returns something. If it breaks later
    or reaches the server's default deadline, it resumes after the last segment, unless resuming is off. A deadline that
    ends the stream raises DeadlineExceeded, with `summary` set to the partial results.
    """

    def __init__(
        self,
        start: Callable[[str, float | None], "SyncCall"],
        attempts: Attempts,
        known: bytes,
        *,
        resume: bool = True,
        partial: bool = False,
    ) -> None:
        super().__init__(attempts, known, resume=resume, partial=partial)
        self._start = start
        self._call: SyncCall | None = None

    def __next__(self) -> SegmentResult:
        """Return the next segment. Raises OctavoError if the stream ends early."""
        while not self._ready:
            if (event := self._next_event()) is None:
                raise StopIteration
            self._take(event)
        return self._ready.popleft()

    def _next_event(self) -> pb.StreamSegmentsResponse | None:
        """The next message; None after the summary."""
        while True:
            try:
                if self._call is None:
                    self._call = self._start(self._cursor or "", self._attempts.timeout())
                event = next(self._call, None)
                if event is not None and self._goes_on_after(event):
                    raise self._out_of_time()
                if event is not None or self.summary is not None:
                    return event
                raise _cut_short()
            except (grpc.RpcError, OctavoError) as fault:
                if self.summary is not None:
                    return None
                error = fault if isinstance(fault, OctavoError) else from_call(fault)
                wait = self._seconds_to_wait(error)
                if wait is None:
                    raise error from (None if error is fault else fault)
            self._call = None
            time.sleep(wait)

    def close(self) -> None:
        """Cancel the rest of the stream."""
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

    def __init__(
        self,
        start: Callable[[str, float | None], "AsyncCall"],
        attempts: Attempts,
        known: bytes,
        *,
        resume: bool = True,
        partial: bool = False,
    ) -> None:
        super().__init__(attempts, known, resume=resume, partial=partial)
        self._start = start
        self._call: AsyncCall | None = None

    async def __anext__(self) -> SegmentResult:
        """Return the next segment. Raises OctavoError if the stream ends early."""
        while not self._ready:
            if (event := await self._next_event()) is None:
                raise StopAsyncIteration
            self._take(event)
        return self._ready.popleft()

    async def _next_event(self) -> pb.StreamSegmentsResponse | None:
        """The next message; None after the summary."""
        while True:
            try:
                if self._call is None:
                    self._call = self._start(self._cursor or "", self._attempts.timeout())
                event = await self._call.read()
                if isinstance(event, pb.StreamSegmentsResponse):
                    if self._goes_on_after(event):
                        raise self._out_of_time()
                    return event
                if self.summary is not None:
                    return None
                raise _cut_short()
            except (grpc.aio.AioRpcError, OctavoError) as fault:
                if self.summary is not None:
                    return None
                error = fault if isinstance(fault, OctavoError) else from_call(fault)
                wait = self._seconds_to_wait(error)
                if wait is None:
                    raise error from (None if error is fault else fault)
            self._call = None
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Cancel the rest of the stream."""
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _cut_short() -> IncompleteStream:
    return IncompleteStream("the stream ended without its summary: segments may be missing", transient=True)
