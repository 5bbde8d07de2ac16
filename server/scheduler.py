"""The queue of segments before the machine: fair between clients, interactive before bulk."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product

from server.backlog import Backlog
from server.clients import Client
from server.errors import DeadlineExceeded
from server.fairness import FairQueue
from server.limits import Limiter
from server.metrics import Metrics
from server.priority import Priority
from server.work import Computed, Work


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    work: Work
    client: Client
    priority: Priority
    deadline: float
    queued: float
    future: asyncio.Future[Computed]

    def is_dead(self) -> bool:
        """Whether nobody waits for it any more, or not in time: its caller is told so."""
        if not self.future.done() and self.deadline <= time.monotonic():
            self.future.set_exception(DeadlineExceeded("the deadline passed while segments were waiting"))
        return self.future.done()


class Scheduler:
    """Hands waiting segments to the streams, a thread each.

    A segment that is alone gets all threads where its number scheme allows that; when others wait, every stream
    keeps to one. Within a class clients share by weight, and who asks for less than his share comes before who asks for
    more, so that a flood is not felt. Whatever expired or has no caller left is dropped before it costs anything. Each
    segment is charged in the moment that it is released: one whose client has nothing left waits aside until it can be
    charged.
    """

    def __init__(self, streams: int, threads: int, limiter: Limiter, metrics: Metrics) -> None:
        self.backlog = Backlog(threads)
        self._streams = streams
        self._threads = threads
        self._limiter = limiter
        self._metrics = metrics
        # In the order of service: of each class, first those who ask for no more than their share.
        classes = product(Priority, (True, False))
        self._queues = {each: FairQueue(_Waiting.is_dead) for each in classes}
        self._aside: dict[_Waiting, asyncio.TimerHandle] = {}
        self._news = asyncio.Event()
        self._busy = 0
        self._executor = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self._tasks: list[asyncio.Task[None]] = []
        limiter.on_credit = self._recall

    def start(self) -> None:
        """Start the streams on the running loop."""
        self._tasks = [asyncio.create_task(self._stream(), name=f"stream-{i}") for i in range(self._streams)]

    async def close(self) -> None:
        """Stop the streams; what waits or is being computed is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._recall()
        for queue in self._queues.values():
            for item in queue.drain():
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
        self._enqueue(_Waiting(work, client, priority, deadline, time.monotonic(), future))
        return await future

    def _enqueue(self, item: _Waiting) -> None:
        client = item.client
        # Nobody overtakes himself: behind what waits already, until it is done.
        behind = self._queues[item.priority, False].holds(client.name)
        modest = not behind and self.backlog.is_modest(client, item.priority)
        self._queues[item.priority, modest].push(client.name, client.plan.weight, len(item.work.ids), item)
        self._measure()
        self._news.set()

    async def _stream(self) -> None:
        while True:
            while not (batch := self._take()):
                self._news.clear()
                await self._news.wait()
            alone = not self._busy and self._next() is None
            await self._run(batch, self._threads if alone else 1)

    async def _run(self, batch: list[_Waiting], threads: int) -> None:
        loop = asyncio.get_running_loop()
        self._busy += 1
        try:
            works = [item.work for item in batch]
            done = await loop.run_in_executor(self._executor, works[0].runner.compute, works, threads)
            for item, computed in zip(batch, done, strict=True):
                self._metrics.queue_wait.observe(computed.started - item.queued)
                if not item.future.done():
                    item.future.set_result(replace(computed, queued=item.queued))
            self.backlog.observe(sum(len(work.ids) for work in works), done[0].finished - done[0].started, threads)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the callers' to hear
            for item in batch:
                if not item.future.done():
                    item.future.set_exception(error)
        finally:
            self._busy -= 1
            for item in batch:
                item.future.cancel()  # of those without an answer: the stream is being closed

    def _next(self) -> FairQueue[_Waiting] | None:
        """The queue of the segment whose turn it is."""
        return next((queue for queue in self._queues.values() if queue.peek() is not None), None)

    def _take(self) -> list[_Waiting]:
        """The next segments that may share a run: same model, window and layers, together within the token budget."""
        batch: list[_Waiting] = []
        tokens = 0
        while (queue := self._next()) and (item := queue.peek()):
            room = item.work.runner.batch_tokens - tokens
            if batch and (not _same_run(batch[0].work, item.work) or len(item.work.ids) > room):
                break
            queue.pop()
            if seconds := self._limiter.budget(item.client).charge(len(item.work.ids)):
                self._set_aside(item, seconds)
                continue
            tokens += len(item.work.ids)
            batch.append(item)
        self._measure()
        return batch

    def _set_aside(self, item: _Waiting, seconds: float) -> None:
        """Let an item wait for its client's tokens, or for its deadline if that is nearer."""
        until = min(seconds, max(0.0, item.deadline - time.monotonic()))
        self._aside[item] = asyncio.get_running_loop().call_later(until, self._return, item)

    def _return(self, item: _Waiting) -> None:
        self._aside.pop(item).cancel()
        self._enqueue(item)

    def _recall(self) -> None:
        """Some client has tokens again: whoever waits aside may try."""
        for item in list(self._aside):
            self._return(item)

    def _measure(self) -> None:
        self._metrics.queue_depth.set(sum(len(queue) for queue in self._queues.values()) + len(self._aside))


def _same_run(one: Work, other: Work) -> bool:
    return (one.runner, one.window, one.start, one.cuts) == (other.runner, other.window, other.start, other.cuts)
