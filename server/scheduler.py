"""The queue of segments before the machine: first in, first out."""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum

from server.clients import Client
from server.errors import DeadlineExceeded
from server.metrics import Metrics
from server.work import Computed, Work


class Priority(Enum):
    """Which class of the queue a segment waits in."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    work: Work
    client: Client
    priority: Priority
    deadline: float
    queued: float
    future: asyncio.Future[Computed]


class Scheduler:
    """Hands waiting segments to the streams, a thread each.

    A segment that is alone gets all threads where its number scheme allows that; when others wait, every stream
    keeps to one. Whatever expired or has no caller left is dropped before it costs anything.
    """

    def __init__(self, streams: int, threads: int, metrics: Metrics) -> None:
        self._streams = streams
        self._threads = threads
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Condition()
        self._busy = 0
        self._executor = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the streams on the running loop."""
        self._tasks = [asyncio.create_task(self._stream(), name=f"stream-{i}") for i in range(self._streams)]

    async def close(self) -> None:
        """Stop the streams; what waits or is being computed is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for item in self._waiting:
            item.future.cancel()
        self._executor.shutdown(wait=True)

    async def submit(self, work: Work, client: Client, priority: Priority, deadline: float) -> Computed:
        """Compute one segment.

        Args:
            work: the segment.
            client: on whose account.
            priority: the class it waits in.
            deadline: of the monotonic clock, in seconds; past it the segment is not computed any more.

        Raises:
            DeadlineExceeded: it was still waiting at its deadline.
        """
        future: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
        item = _Waiting(work, client, priority, deadline, time.monotonic(), future)
        async with self._wake:
            self._waiting.append(item)
            self._metrics.queue_depth.set(len(self._waiting))
            self._wake.notify()
        return await future

    async def _stream(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            async with self._wake:
                await self._wake.wait_for(lambda: bool(self._waiting))
                batch = self._take()
            if not batch:
                continue
            alone = not self._waiting and not self._busy
            self._busy += 1
            try:
                works = [item.work for item in batch]
                threads = self._threads if alone else 1
                done = await loop.run_in_executor(self._executor, works[0].runner.compute, works, threads)
                for item, computed in zip(batch, done, strict=True):
                    self._metrics.queue_wait.observe(computed.started - item.queued)
                    if not item.future.done():
                        item.future.set_result(replace(computed, queued=item.queued))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to hear
                for item in batch:
                    if not item.future.done():
                        item.future.set_exception(error)
            finally:
                self._busy -= 1
                for item in batch:
                    item.future.cancel()  # of those without an answer: the stream is being closed

    def _take(self) -> list[_Waiting]:
        """The next segments that may share a run: same model, window and layers, together within the token budget."""
        batch: list[_Waiting] = []
        room = 0
        now = time.monotonic()
        while self._waiting:
            item = self._waiting[0]
            if item.future.done() or item.deadline <= now:
                self._waiting.popleft()
                if not item.future.done():
                    item.future.set_exception(DeadlineExceeded("the deadline passed while segments were waiting"))
                continue
            if not batch:
                room = item.work.runner.batch_tokens
            elif not _same_run(batch[0].work, item.work) or len(item.work.ids) > room:
                break
            room -= len(item.work.ids)
            batch.append(self._waiting.popleft())
        self._metrics.queue_depth.set(len(self._waiting))
        return batch


def _same_run(one: Work, other: Work) -> bool:
    return (one.runner, one.window, one.start, one.cuts) == (other.runner, other.window, other.start, other.cuts)
