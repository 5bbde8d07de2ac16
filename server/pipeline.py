"""A document's journey, from its text to its answer.

    text → regions → tokens → segments → queue → layers → head → merge → reply

It is a stream of segments with a bounded number in flight, never a list of a document's states: a million tokens are
the same code as ten. A caller that must know the reply's size first collects `segments`, which are small, and feeds
them to `results`; one that streams feeds the one to the other.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

import chunking
from chunking import Segment
from server.calls import Call, Timings
from server.errors import DeadlineExceeded
from server.flight import Flights
from server.metrics import Metrics
from server.scheduler import Scheduler
from server.work import Computed, Head, Work

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What became of a segment: the numbers of its heads, and from which layer it was resumed for this call."""

    segment: Segment
    digest: bytes
    parts: Mapping[Head, NDArray[np.float32]]
    resumed_from: int | None
    computed: bool


class Pipeline:
    """The verbs of the journey; what they mean in detail is each room's own concern."""

    def __init__(
        self, scheduler: Scheduler, secret: bytes, tokenizer_threads: int, in_flight: int, metrics: Metrics
    ) -> None:
        self._scheduler = scheduler
        self._secret = secret
        self._in_flight = in_flight
        self._metrics = metrics
        self._flights: Flights[Computed] = Flights()
        self._readers = ThreadPoolExecutor(tokenizer_threads, thread_name_prefix="reader")

    def close(self) -> None:
        """End the threads."""
        self._readers.shutdown(wait=True, cancel_futures=True)

    async def segments(self, call: Call, text: str, timings: Timings) -> AsyncGenerator[Segment, None]:
        """Cut a document, region by region; between two regions other calls get their turn."""
        steps = chunking.read(text, call.model.tokenizer, call.cutting, call.prefix)
        while True:
            began = time.monotonic()
            step = await self._read(next, steps, None)
            ended = time.monotonic()
            timings.tokenize.stay(began, ended)
            self._metrics.tokenize_seconds.observe(ended - began)
            if step is None:
                return
            for segment in step:
                yield segment

    def uncomputed(self, call: Call, segment: Segment) -> Result:
        """A segment of which only the cut was asked."""
        return Result(segment, self.digest(call, segment)[: self.DIGEST_BYTES], {}, resumed_from=None, computed=False)

    async def results(
        self, call: Call, segments: AsyncIterable[Segment], timings: Timings
    ) -> AsyncGenerator[Result, None]:
        """Compute segments, several at a time; results come in the document's order."""
        window: deque[asyncio.Task[Result]] = deque()
        try:
            async for segment in segments:
                window.append(asyncio.create_task(self._result(call, segment, timings)))
                while window[0].done() or len(window) >= self._in_flight:
                    yield await window.popleft()
                    if not window:
                        break
            while window:
                yield await window.popleft()
        finally:
            for task in window:
                task.cancel()

    async def _result(self, call: Call, segment: Segment, timings: Timings) -> Result:
        heads = tuple(dict.fromkeys(head for task in call.tasks for head in task.heads(segment)))
        key = self.digest(call, segment)
        work = Work(key, call.model.runner, segment.ids, call.window, heads)
        computed, started = await self._compute(call, work)
        if started:
            timings.computed(computed)
        parts = await self._parts(work, computed)
        self._metrics.segment(call.model.name, segment.processed_tokens, computed=started)
        resumed_from = computed.resumed_from if started else call.model.runner.layers
        return Result(segment, key[: self.DIGEST_BYTES], parts, resumed_from, computed=started)

    async def _compute(self, call: Call, work: Work) -> tuple[Computed, bool]:
        while True:
            try:
                return await self._flights.join(
                    work.key, lambda: self._scheduler.submit(work, call.client, call.priority, call.deadline)
                )
            except DeadlineExceeded:  # perhaps that of whoever started it, while this caller has time left
                if time.monotonic() >= call.deadline:
                    raise

    async def _parts(self, work: Work, computed: Computed) -> Mapping[Head, NDArray[np.float32]]:
        missing = tuple(head for head in work.heads if head not in computed.parts)
        if not missing:
            return computed.parts
        return computed.parts | await self._read(work.runner.apply, computed.state, missing)

    DIGEST_BYTES = 16

    def digest(self, call: Call, segment: Segment) -> bytes:
        """Keyed digest of what decides a segment's state: tenant, model, window and the ids that the model reads."""
        key = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in (call.client.tenant.encode(), call.model.digest.encode(), b"%d" % call.window):
            key.update(b"%d:" % len(part) + part)
        key.update(segment.ids.astype("<i4").tobytes())
        return key.digest()

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: function(*args, **kwargs))


async def collect(segments: AsyncGenerator[Segment, None]) -> list[Segment]:
    """All segments of a document."""
    async with aclosing(segments) as stream:
        return [segment async for segment in stream]
