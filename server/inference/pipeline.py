"""The pipeline from a document's text to its results.

    text → regions → tokens → segments → look-up → queue → layers → store → head → merge → reply

It streams segments, with a bounded number in flight, and never holds a whole document's states, so any length works.
Blocking work (tokenising, disk) runs in a thread for all segments of a region at once, because a thread hop costs as
much as answering ten segments from the cache.

A caller that must know the reply's size first collects `read`, whose items are small, then passes them to `results`; a
streaming caller pipes `read` into `results`.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, aclosing, suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Barrier, BrokenBarrierError
from typing import ParamSpec, TypeVar

import chunking
from cache import Key
from chunking import Segment
from server.errors import DeadlineExceeded, QueueFull
from server.inference.cache_view import CacheView, LayerCache, Parts
from server.inference.call import Call, Timings, Usage
from server.inference.known import DIGEST_BYTES
from server.inference.single_flight import SingleFlight
from server.inference.verify import Verifier
from server.limits import Limiter
from server.scheduling.fair_queue import FairGate
from server.scheduling.forecast import Reservation
from server.scheduling.scheduler import Scheduler
from server.telemetry import loops
from server.telemetry.metrics import Metrics
from server.types import Computed, Head, Priority, StateArray, Work

P = ParamSpec("P")
T = TypeVar("T")

STEP_SECONDS = 0.004  # of tokenising and cutting before yielding to other calls; a thread hop takes 0.1 ms
PREPARE_SECONDS = 1.0  # at most, that reader threads wait for each other at the start
LOOP_STEP_SECONDS = 0.001  # of a call's work on the event loop before yielding: every other call waits for it


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A segment that was cut and looked up in the cache.

    Attributes:
        key: cache key of its state after the last layer.
        heads: the heads that the call's tasks need.
        parts: cached results of heads.
        kept: where the caller has its digest, if the caller holds its vector.
        layer: the layer to resume from.
        state: the state at that layer; None if nothing is cached.
        sought: whether its state was looked up; not if all results were known without it.
    """

    segment: Segment
    key: Key
    heads: tuple[Head, ...]
    parts: Parts
    kept: int | None = None
    layer: int = 0
    state: StateArray | None = None
    sought: bool = False

    @property
    def is_read(self) -> bool:
        """Whether the model reads it for this call, now or earlier; not if the caller holds all that is wanted."""
        return self.kept is None or bool(self.heads)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to compute."""
        return len(self.parts) == len(self.heads)

    @property
    def digest(self) -> bytes:
        """The segment's digest in replies, over everything that determines its state."""
        return _digest(self.key)

    def usage(self, *, computed: bool) -> Usage:
        """What it adds to a call's usage."""
        segment = self.segment
        if not self.is_read:
            return Usage(segment.tokens, kept=segment.processed_tokens)
        return Usage(segment.tokens, segment.processed_tokens, segment.processed_tokens if computed else 0)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """A segment's results: the output of its heads, and how many layers were not run for this call."""

    prepared: Prepared
    parts: Parts
    resumed_from: int


@dataclass(frozen=True, slots=True, eq=False)
class Document:
    """A text being processed for a call."""

    call: Call
    text: str
    timings: Timings
    view: CacheView
    reservation: Reservation


class Pipeline:
    """Runs documents through reading, cache look-up, scheduling and computing."""

    def __init__(
        self,
        scheduler: Scheduler,
        layer_cache: LayerCache,
        limiter: Limiter,
        metrics: Metrics,
        *,
        threads: int,
        tokenizer_threads: int,
        in_flight: int,
        verify: float,
    ) -> None:
        self._scheduler = scheduler
        self._layer_cache = layer_cache
        self._limiter = limiter
        self._metrics = metrics
        self._threads = threads
        self._in_flight = in_flight
        self._verifier = Verifier(scheduler, metrics, share=verify)
        self._single_flight: SingleFlight[Computed] = SingleFlight()
        self._gate = FairGate(tokenizer_threads)
        self._bulk_gate = FairGate(max(1, tokenizer_threads - 1))
        self._reader_count = tokenizer_threads
        self._readers = ThreadPoolExecutor(tokenizer_threads, thread_name_prefix="reader")
        self._keeper = ThreadPoolExecutor(1, thread_name_prefix="keeper")

    async def close(self) -> None:
        """Stop the threads, after handing computed results to the store."""
        await self._verifier.close()
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._keeper.shutdown(wait=True)

    async def prepare(self) -> None:
        """Start the reader threads and connect each to the cache, which takes a millisecond of a first call."""
        all_started = Barrier(self._reader_count)  # else a quick thread would serve twice, and another not be started

        def connect() -> None:
            self._layer_cache.connect()
            with suppress(BrokenBarrierError):
                all_started.wait(PREPARE_SECONDS)

        loop = asyncio.get_running_loop()
        await asyncio.gather(*(loop.run_in_executor(self._readers, connect) for _ in range(self._reader_count)))

    def reserve(self, call: Call) -> AbstractContextManager[Reservation]:
        """Reserve machine time for a call while it lasts."""
        return self._scheduler.forecast.reserve(call.client, call.priority)

    def open(self, call: Call, text: str, timings: Timings, reservation: Reservation) -> Document:
        """Start a document."""
        self._metrics.documents.labels(call.model.name).inc()
        return Document(call, text, timings, self._layer_cache.view(call, text), reservation)

    async def read(self, document: Document, *, eager: bool) -> AsyncGenerator[list[Prepared], None]:
        """Tokenise, cut and look up region by region, yielding to other calls in between.

        If `eager`, states are looked up in the first step: most documents have no other, and it saves a thread hop.
        It is not for a call of several documents, of which one may compute what another needs.
        """
        steps, more = self._steps(document, eager=eager), True
        while more:
            group, more = await self.aside(document.call, next, steps)
            yield group

    async def results(self, document: Document, groups: AsyncIterable[list[Prepared]]) -> AsyncGenerator[Result, None]:
        """Compute what is not cached, several segments at a time; results are in document order."""
        window: deque[Result | asyncio.Task[Result]] = deque()
        computing = False
        turn = time.monotonic()
        try:
            async with aclosing(self._resume(document, groups)) as parts:
                async for part in parts:
                    await self._pay(document.call, part)
                    for prepared in part:
                        computing = computing or not prepared.complete
                        window.append(self._begin(document, prepared))
                        while window and (len(window) >= self._in_flight or _is_here(window[0])):
                            yield await _arrival(window.popleft())
                        if time.monotonic() - turn > LOOP_STEP_SECONDS:  # cached segments never await: yield to others
                            await asyncio.sleep(0)
                            turn = time.monotonic()
            while window:
                yield await _arrival(window.popleft())
            if computing:
                await self._settle()
        finally:
            for item in window:
                if isinstance(item, asyncio.Task):
                    item.cancel()

    async def admit(self, call: Call, reservation: Reservation, uncached: int, cached: int) -> None:
        """Check a call with known token counts against its client's budget and the queue, before computing anything.

        Raises:
            RateLimited: the client's limit would not allow it before its deadline.
            QueueFull: the queue would not finish it before its deadline.
        """
        await self._limiter.budget(call.client).check(self.price(uncached + reservation.waiting, cached), call.deadline)
        reservation.promise(uncached, call.deadline)

    def price(self, uncached: int, cached: int) -> float:
        """The price of tokens."""
        return self._limiter.price(uncached, cached)

    async def known(self, document: Document, group: Sequence[Prepared]) -> list[bool]:
        """Whether each segment could be answered without running a layer."""
        states = await self.aside(document.call, document.view.holds, [prepared.key for prepared in group])
        return [prepared.complete or held for prepared, held in zip(group, states, strict=True)]

    async def aside(self, call: Call, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function that takes long in a reader thread, fairly between clients.

        There are few of these: each thread that runs Python makes the others wait for the interpreter's lock. So bulk
        leaves one of them, if there are several, to interactive calls.
        """
        if call.priority is Priority.INTERACTIVE:
            return await self._aside(call, partial(function, *args, **kwargs))
        async with self._bulk_gate.entered(call.client, call.priority):
            return await self._aside(call, partial(function, *args, **kwargs))

    async def _aside(self, call: Call, work: Callable[[], T]) -> T:
        async with self._gate.entered(call.client, call.priority):
            return await asyncio.get_running_loop().run_in_executor(self._readers, work)

    def _steps(self, document: Document, *, eager: bool) -> Iterator[tuple[list[Prepared], bool]]:
        """The blocking part of `read`. A step reads regions for `STEP_SECONDS`, at least one.

        Each step says whether more follow: another thread hop to find out would cost as much as five segments.
        """
        call, view = document.call, document.view
        regions = chunking.read(document.text, call.model.tokenizer, call.cutting, call.frame, view)
        more = True
        while more:
            began = time.monotonic()
            segments: list[Segment] = []
            for region in regions:
                segments += region
                if time.monotonic() - began > STEP_SECONDS:
                    break
            else:
                more = False
            ended = time.monotonic()
            document.timings.tokenize.stay(began, ended)
            self._metrics.tokenize_seconds.observe(ended - began)
            keys = [view.key(segment) for segment in segments]
            kept = [call.known.position(_digest(key)) for key in keys]
            heads = [call.heads(segment, kept=place is not None) for segment, place in zip(segments, kept, strict=True)]
            known = view.results(list(zip(keys, heads, strict=True)))
            document.timings.cache.stay(ended, time.monotonic())
            read = zip(segments, keys, heads, known, kept, strict=True)
            group = [Prepared(*each) for each in read]
            yield self._resumed(document, group) if eager else group, more
            eager = False

    async def _resume(
        self, document: Document, groups: AsyncIterable[list[Prepared]]
    ) -> AsyncGenerator[list[Prepared], None]:
        """Look up states of the segments whose results are not all cached, unless `read` has done so."""
        async for group in groups:
            if all(prepared.sought or prepared.complete for prepared in group):
                yield group
            else:
                yield await self.aside(document.call, self._resumed, document, group)

    def _resumed(self, document: Document, group: list[Prepared]) -> list[Prepared]:
        if all(prepared.complete for prepared in group):
            return group
        began = time.monotonic()
        view, runner = document.view, document.call.model.runner
        resumed = [prepared if prepared.complete else replace(prepared, sought=True) for prepared in group]

        def last_states() -> Iterator[tuple[int, StateArray, list[Head]]]:
            missing = [i for i, prepared in enumerate(group) if not prepared.complete]
            for place, layer, state in view.states([(group[i].segment, group[i].key) for i in missing]):
                i = missing[place]
                if layer < runner.layers:
                    resumed[i] = replace(resumed[i], layer=layer, state=state.copy())
                else:
                    yield i, state, [head for head in group[i].heads if head not in group[i].parts]

        for i, made in runner.apply_each(last_states(), self._threads):
            each = group[i]
            view.keep_results(each.key, made)
            resumed[i] = Prepared(each.segment, each.key, each.heads, {**each.parts, **made}, each.kept)
        document.timings.cache.stay(began, time.monotonic())
        return resumed

    async def _pay(self, call: Call, group: Sequence[Prepared]) -> None:
        """Charge cached segments; the others are charged when the scheduler releases them."""
        cached = (prepared.segment.processed_tokens for prepared in group if prepared.complete and prepared.is_read)
        if tokens := sum(cached):
            await self._scheduler.pay(self.price(0, tokens), call.client, call.priority, call.deadline)

    def _begin(self, document: Document, prepared: Prepared) -> Result | asyncio.Task[Result]:
        if not prepared.complete:
            return asyncio.create_task(self._compute(document, prepared))
        if prepared.is_read:
            self._verifier.consider(document.call, prepared.segment, prepared.key, prepared.parts)
        return self._result(document, prepared, prepared.parts, document.call.model.runner.layers)

    async def _compute(self, document: Document, prepared: Prepared) -> Result:
        call, runner, tokens = document.call, document.call.model.runner, prepared.segment.processed_tokens
        document.reservation.begin(tokens)
        try:
            computed, started = await self._fly(call, prepared, document.reservation)
        finally:
            document.reservation.settle(tokens)
        if started:
            document.timings.computed(computed)
            # Not awaited: replies do not wait for the cache.
            self._keep(document.view.keep_computed, prepared.segment, prepared.key, computed.states, computed.parts)
        parts = {**prepared.parts, **computed.parts}
        if missing := [head for head in prepared.heads if head not in parts]:
            parts |= await self.aside(call, runner.apply, computed.states[runner.layers], missing)
        return self._result(document, prepared, parts, prepared.layer if started else runner.layers)

    def _keep(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> Future[object] | None:
        """Run a function in the keeper; None if it cannot start. That is reported, and does not fail the call."""
        try:
            keeping: Future[object] = self._keeper.submit(function, *args, **kwargs)
        except RuntimeError as error:  # no thread can be started
            loops.report("keeper", error, self._metrics)
            return None
        keeping.add_done_callback(self._report)
        return keeping

    def _report(self, keeping: Future[object]) -> None:
        """Report a segment that could not be stored, since nothing awaits the future."""
        if not keeping.cancelled() and (error := keeping.exception()):
            loops.report("keeper", error, self._metrics)

    async def _settle(self) -> None:
        """Wait until everything computed so far can be looked up, so that an immediate repeat hits the cache.

        The keeper is a single FIFO thread, which copies and queues but never waits for the disk.
        """
        if keeping := self._keep(int):
            await asyncio.wrap_future(keeping)

    async def _fly(self, call: Call, prepared: Prepared, reservation: Reservation) -> tuple[Computed, bool]:
        """Get the segment's states, computed by this call or awaited from another call that is computing them."""
        model = call.model
        # Flights are shared only within a client and a class, so that no call waits for another client's queue or
        # tokens, and within a cache mode: a bypassing call must not get a cached state, and a writing call must store.
        key = bytes(prepared.key) + f"{call.priority.value} {call.cache_mode.value} {call.client.name}".encode()
        cuts = tuple(cut for cut in model.cuts if cut > prepared.layer)
        ids, second = prepared.segment.ids, prepared.segment.second
        work = Work(key, model.runner, ids, call.window, prepared.layer, prepared.state, cuts, prepared.heads, second)
        while True:
            try:
                return await self._single_flight.join(
                    key,
                    lambda: self._scheduler.submit(work, call.client, call.priority, call.deadline, reservation),
                )
            except (DeadlineExceeded, QueueFull):  # perhaps of the call that started it, while this one has time left
                reservation.reconsider()
                if time.monotonic() >= call.deadline:
                    raise

    def _result(self, document: Document, prepared: Prepared, parts: Parts, resumed_from: int) -> Result:
        model = document.call.model
        if prepared.is_read:
            tokens = prepared.segment.processed_tokens
            self._metrics.segment(model.name, tokens, computed=resumed_from < model.runner.layers)
        else:
            self._metrics.kept_segment(model.name)
        dropped = prepared if prepared.state is None else replace(prepared, state=None)
        return Result(dropped, parts, resumed_from)


def _digest(key: Key) -> bytes:
    return key.digest[:DIGEST_BYTES]


def _is_here(item: Result | asyncio.Task[Result]) -> bool:
    return isinstance(item, Result) or item.done()


async def _arrival(item: Result | asyncio.Task[Result]) -> Result:
    return item if isinstance(item, Result) else await item
