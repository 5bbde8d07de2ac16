"""The queue of segments before the machine: fair between clients, interactive before bulk."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from server.auth.clients import Client
from server.errors import CallError, DeadlineExceeded
from server.limits import Limiter
from server.scheduling.backlog import Backlog
from server.scheduling.fair_queue import PriorityFairQueue
from server.telemetry.metrics import Metrics
from server.types import Computed, Priority, Work


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    work: Work
    client: Client
    priority: Priority
    queued: float
    reconsider: Callable[[], None]
    future: asyncio.Future[Computed]
    expiry: asyncio.TimerHandle

    def is_dead(self) -> bool:
        """Whether nobody waits for it any more, or not in time. Changes between two steps of the loop alone."""
        return self.future.done()


class Scheduler:
    """Hands waiting segments to the streams, a thread each.

    A segment that is alone gets all threads where its number scheme allows that; when others wait, every stream
    keeps to one. Whatever expired or has no caller left is dropped before it costs anything. Each segment is charged in
    the moment that it is released: one whose client has nothing left waits aside until it can be charged.
    """

    def __init__(self, streams: int, threads: int, limiter: Limiter, metrics: Metrics) -> None:
        self.backlog = Backlog(threads)
        self._streams = streams
        self._threads = threads
        self._limiter = limiter
        self._metrics = metrics
        self._waiting = PriorityFairQueue(_Waiting.is_dead)
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
        for item in self._waiting.drain():
            item.future.cancel()
        self._executor.shutdown(wait=True)

    async def submit(
        self,
        work: Work,
        client: Client,
        priority: Priority,
        deadline: float,
        reconsider: Callable[[], None] = lambda: None,
    ) -> Computed:
        """Compute one segment.

        Args:
            work: the segment.
            client: on whose account.
            priority: the class it waits in.
            deadline: of the monotonic clock, in seconds; past it the segment is not computed any more.
            reconsider: asked when its turn has come; raises a CallError if it is not to be computed after all.

        Raises:
            DeadlineExceeded: it was still waiting at its deadline.
            CallError: that of `reconsider`.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Computed] = loop.create_future()
        expiry = loop.call_at(deadline, _expire, future)
        item = _Waiting(work, client, priority, time.monotonic(), reconsider, future, expiry)
        self._enqueue(item)
        try:
            return await future
        finally:
            expiry.cancel()
            if aside := self._aside.pop(item, None):
                aside.cancel()

    def _enqueue(self, item: _Waiting) -> None:
        client, cost = item.client, len(item.work.ids)
        modest = self.backlog.is_modest(client, item.priority)
        self._waiting.push(item, cost, item.priority, client.name, client.plan.weight, modest=modest)
        self._measure()
        self._news.set()

    async def _stream(self) -> None:
        while True:
            while not (batch := self._take()):
                self._news.clear()
                await self._news.wait()
            alone = not self._busy and self._waiting.peek() is None
            await self._run(batch, self._threads if alone else 1)

    async def _run(self, batch: list[_Waiting], threads: int) -> None:
        """Run segments together; should that fail, one by one: a poisonous one fails alone."""
        self._busy += 1
        try:
            await self._compute(batch, threads)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's to hear
            for item in batch:
                if item.is_dead():
                    continue
                if len(batch) > 1:
                    await self._run([item], threads)
                else:
                    item.future.set_exception(error)
        finally:
            self._busy -= 1
            for item in batch:
                item.future.cancel()  # of those without an answer: the stream is being closed

    async def _compute(self, batch: list[_Waiting], threads: int) -> None:
        works = [item.work for item in batch]
        run = works[0].runner.compute
        done = await asyncio.get_running_loop().run_in_executor(self._executor, run, works, threads)
        for item, computed in zip(batch, done, strict=True):
            self._metrics.queue_wait.observe(computed.started - item.queued)
            if not item.future.done():
                item.future.set_result(replace(computed, queued=item.queued))
        self.backlog.speed.observe(sum(len(work.ids) for work in works), done[0].finished - done[0].started, threads)

    def _take(self) -> list[_Waiting]:
        """The next segments that may share a run: same model, window and layers, together within the token budget."""
        batch: list[_Waiting] = []
        tokens = 0
        while item := self._waiting.peek():
            room = item.work.runner.batch_tokens - tokens
            if batch and (not _same_run(batch[0].work, item.work) or len(item.work.ids) > room):
                break
            self._waiting.pop()
            try:
                item.reconsider()
            except CallError as refusal:
                item.future.set_exception(refusal)
                continue
            if seconds := self._limiter.budget(item.client).charge(len(item.work.ids)):
                self._set_aside(item, seconds)
                continue
            item.expiry.cancel()  # what runs is finished: others may want it
            tokens += len(item.work.ids)
            batch.append(item)
        self._measure()
        return batch

    def _set_aside(self, item: _Waiting, seconds: float) -> None:
        """Let an item wait for its client's tokens."""
        self._aside[item] = asyncio.get_running_loop().call_later(seconds, self._return, item)

    def _return(self, item: _Waiting) -> None:
        self._aside.pop(item).cancel()
        self._enqueue(item)

    def _recall(self) -> None:
        """Some client has tokens again: whoever waits aside may try."""
        for item in list(self._aside):
            self._return(item)

    def _measure(self) -> None:
        self._metrics.queue_depth.set(len(self._waiting) + len(self._aside))


def _expire(future: asyncio.Future[Computed]) -> None:
    if not future.done():
        future.set_exception(DeadlineExceeded("the deadline passed while segments were waiting"))


def _same_run(one: Work, other: Work) -> bool:
    return (one.runner, one.window, one.start, one.cuts) == (other.runner, other.window, other.start, other.cuts)
