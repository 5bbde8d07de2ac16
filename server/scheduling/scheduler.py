"""The queue of segments before the machine: fair between clients, interactive before bulk."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from server.auth.clients import Client
from server.errors import CallError, DeadlineExceeded
from server.limits import Limiter
from server.scheduling.fair_queue import PriorityFairQueue
from server.scheduling.forecast import Forecast, Reservation
from server.telemetry import loops
from server.telemetry.metrics import Metrics
from server.types import Computed, Priority, Work

BULK_PAUSE_SECONDS = 1.0
"""At least, between a bulk client's runs once it is out of credit: what it is granted meanwhile shares a run."""


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """What waits to be charged, and to be computed unless it is a cached answer, which has no work."""

    work: Work | None
    price: float
    client: Client
    priority: Priority
    queued: float
    reservation: Reservation | None
    future: asyncio.Future[Computed | None]
    expiry: asyncio.TimerHandle

    @property
    def cost(self) -> int:
        """Tokens that the machine has to read."""
        return len(self.work.ids) if self.work else 0


@dataclass(frozen=True, slots=True)
class _Parked:
    """A client without credit, until its timer ends or it is woken."""

    priority: Priority  # of the item that could not be charged
    timer: asyncio.TimerHandle


class Scheduler:
    """Hands waiting segments to the streams, a thread each.

    An interactive segment that is alone gets all threads where its number scheme allows that. When others wait, and
    for bulk, a stream uses one thread: bulk would keep the next interactive call waiting. Items that expired or have no
    caller left cost nothing. Each item is charged when it is released. A client that cannot be charged is parked: its
    items keep their places until it has credit again.
    """

    def __init__(self, streams: int, threads: int, limiter: Limiter, metrics: Metrics) -> None:
        self.forecast = Forecast(threads)
        self._streams = streams
        self._threads = threads
        self._limiter = limiter
        self._metrics = metrics
        self._queue: PriorityFairQueue[_Waiting] = PriorityFairQueue()
        self._parked: dict[str, _Parked] = {}
        self._news = asyncio.Event()
        self._busy = 0
        self._executor = ThreadPoolExecutor(streams, thread_name_prefix="stream")
        self._tasks: list[asyncio.Task[None]] = []
        metrics.queue_depth.set_function(lambda: len(self._queue))
        metrics.queue_tokens.set_function(lambda: self.queued_tokens)

    def start(self) -> None:
        """Start the streams on the running loop."""
        self._tasks = [
            asyncio.create_task(loops.repeat("stream", self._step, self._metrics), name=f"stream-{i}")
            for i in range(self._streams)
        ]

    def is_alive(self) -> bool:
        """Whether no stream has ended; may be asked from any thread."""
        return not any(task.done() for task in self._tasks)

    @property
    def queued_tokens(self) -> float:
        """Tokens that could be computed now, were there more streams."""
        return self._queue.ready_cost

    async def close(self) -> None:
        """Stop the streams; whatever waits or is being computed is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for name in list(self._parked):
            self._unpark(name)
        for item in self._queue.drain():
            item.future.cancel()
        self._executor.shutdown(wait=True)

    async def submit(
        self,
        work: Work,
        client: Client,
        priority: Priority,
        deadline: float,
        reservation: Reservation | None = None,
    ) -> Computed:
        """Compute one segment.

        Args:
            work: the segment.
            client: who is charged.
            priority: the class it waits in.
            deadline: of the monotonic clock, in seconds; past it the segment is not computed any more.
            reservation: the call's; it is reconsidered when the segment's turn has come.

        Raises:
            DeadlineExceeded: the segment was still waiting at its deadline.
            RateLimited: limits cannot be checked, and `limits.when_storage_fails` is `closed`.
            QueueFull: the reservation cannot be kept.
        """
        computed = await self._wait(work, len(work.ids), client, priority, deadline, reservation)
        assert computed is not None
        return computed

    async def pay(self, price: float, client: Client, priority: Priority, deadline: float) -> None:
        """Charge a cached answer. Without credit it waits in line with the client's segments.

        Raises:
            DeadlineExceeded: it was still waiting at its deadline; nothing was charged.
            RateLimited: limits cannot be checked, and `limits.when_storage_fails` is `closed`.
        """
        if client.name in self._parked or self._limiter.budget(client).charge(price):
            await self._wait(None, price, client, priority, deadline, None)

    async def _wait(
        self,
        work: Work | None,
        price: float,
        client: Client,
        priority: Priority,
        deadline: float,
        reservation: Reservation | None,
    ) -> Computed | None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Computed | None] = loop.create_future()
        expiry = loop.call_at(deadline, _expire, future)
        item = _Waiting(work, price, client, priority, time.monotonic(), reservation, future, expiry)
        self._push(item)
        try:
            return await future
        finally:
            expiry.cancel()
            self._remove(item)

    def _push(self, item: _Waiting) -> None:
        client, priority = item.client, item.priority
        within_share = self.forecast.within_share(client, priority)
        self._queue.push(item, item.cost, priority, client.name, client.plan.weight, within_share=within_share)
        parked = self._parked.get(client.name)
        if parked and parked.priority is Priority.BULK and priority is Priority.INTERACTIVE:
            self._unpark(client.name)  # there may be credit enough for this one
        elif not parked:
            self._news.set()

    def _remove(self, item: _Waiting) -> None:
        """Remove an item, if it still waits; a client without items need not be woken."""
        name = item.client.name
        self._queue.discard(item, item.priority, name)
        if name in self._parked and not self._queue.holds(name):
            self._unpark(name)

    async def _step(self) -> None:
        """Compute the next segments, once there are some."""
        if batch := self._take():
            urgent = any(item.priority is Priority.INTERACTIVE for item in batch)
            alone = urgent and not self._busy and self._queue.peek() is None
            await self._run(batch, self._threads if alone else 1)
        else:
            self._news.clear()
            await self._news.wait()

    async def _run(self, batch: list[_Waiting], threads: int) -> None:
        """Run segments together; if that fails, one by one, so that only a faulty segment fails."""
        self._busy += 1
        try:
            await self._compute(batch, threads)
        except Exception as error:  # noqa: BLE001 - whatever it is, the callers are told
            for item in batch:
                if item.future.done():
                    continue
                if len(batch) > 1:
                    await self._run([item], threads)
                else:
                    item.future.set_exception(error)
        finally:
            self._busy -= 1
            for item in batch:
                item.future.cancel()  # unanswered only when the stream is being closed

    async def _compute(self, batch: list[_Waiting], threads: int) -> None:
        works = [item.work for item in batch if item.work]
        run = works[0].runner.compute
        done = await asyncio.get_running_loop().run_in_executor(self._executor, run, works, threads)
        for item, computed in zip(batch, done, strict=True):
            self._metrics.queue_wait.observe(computed.started - item.queued)
            if not item.future.done():
                item.future.set_result(replace(computed, queued=item.queued))
        self.forecast.speed.observe(sum(item.cost for item in batch), done[0].layers_seconds, threads)

    def _take(self) -> list[_Waiting]:
        """The next segments that may share a run: of one kind, together within the token budget."""
        batch: list[_Waiting] = []
        tokens = 0
        try:
            while (item := self._queue.peek()) and _fits(batch, tokens, item):
                if not self._release(item):
                    continue
                if item.work:
                    batch.append(item)
                    tokens += item.cost
                else:
                    item.future.set_result(None)
        except Exception as error:
            for item in batch:
                item.future.set_exception(error)
            raise
        return batch

    def _release(self, item: _Waiting) -> bool:
        """Charge the item whose turn it is and take it from the queue; else remove it, or park its client."""
        if item.future.done():  # cancelled or expired a moment ago
            self._remove(item)
            return False
        try:
            if item.reservation:
                item.reservation.reconsider()
            wake = partial(self._unpark, item.client.name)
            seconds = self._limiter.budget(item.client).charge(item.price, wake)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            if not isinstance(error, CallError):
                loops.report("stream", error, self._metrics)
            item.future.set_exception(error)
            self._remove(item)
            return False
        if seconds:
            self._park(item, seconds)
            return False
        self._queue.pop()
        item.expiry.cancel()  # what runs is finished: others may want it
        return True

    def _park(self, item: _Waiting, seconds: float) -> None:
        name = item.client.name
        self._queue.park(name)
        if item.priority is Priority.BULK:
            seconds = max(seconds, BULK_PAUSE_SECONDS)
        timer = asyncio.get_running_loop().call_later(seconds, self._unpark, name)
        self._parked[name] = _Parked(item.priority, timer)

    def _unpark(self, name: str) -> None:
        """Let a client try again; does nothing for one that is not parked."""
        if parked := self._parked.pop(name, None):
            parked.timer.cancel()
            self._queue.unpark(name)
            self._news.set()


def _expire(future: asyncio.Future[Computed | None]) -> None:
    if not future.done():
        future.set_exception(DeadlineExceeded("the deadline passed while segments were waiting"))


def _fits(batch: list[_Waiting], tokens: int, item: _Waiting) -> bool:
    """Whether an item may join a batch of so many tokens; a cached answer takes no place in it."""
    if not batch or item.work is None:
        return True
    return _kind(batch[0]) == _kind(item) and tokens + item.cost <= item.work.runner.batch_tokens


def _kind(item: _Waiting) -> tuple[object, ...]:
    """What the items of one run have in common: an interactive segment does not wait for bulk that could share it."""
    work = item.work
    return (item.priority, *((work.runner, work.window, work.start, work.cuts) if work else ()))
