"""Calls, hang-ups, faults and pauses in any order: every call ends, nothing stays behind, and charges are exact.

The pipeline, scheduler, limits, admission and forecast are real, on a simulated clock. Replaced are the model, the
cache, and the script that runs in Redis.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from cache import Key, Kind
from chunking import Segment
from server.auth.clients import Client, Plan
from server.config.schema import LimitSettings
from server.errors import CallError, DeadlineExceeded
from server.inference.cache_view import CacheView, Parts
from server.inference.call import CacheMode, Call, Timings, within
from server.inference.pipeline import Document, Pipeline, Prepared, Result
from server.limits import Admission, Limiter
from server.limits.windows import MICROSECONDS, LocalWindows, Quota, Rate
from server.scheduling.forecast import Reservation
from server.scheduling.scheduler import Scheduler
from server.telemetry.metrics import Metrics
from server.types import Computed, Head, Pool, Priority, StateArray, Work
from tests.server.simulated import SameThread, Simulation

MINUTE = 60.0
PATIENCE = 100 * 24 * 3600.0  # seconds: longer than any queue here
ENOUGH = 10 * 24 * 3600.0  # for whatever these machines can pile up
BATCH_TOKENS = 512
READERS = 1
CACHED_PRICE = 0.25
REQUEST_BYTES = 1 << 20

CLIENTS = {
    client.name: client
    for client in (
        Client("free", "t"),
        Client("heavy", "t", Plan("heavy", weight=4.0)),
        Client("slow", "t", Plan("slow", tokens_per_minute=600)),
        Client("large", "t", Plan("large", tokens_per_minute=6_000, max_concurrent=6)),
        Client("tiny", "t", Plan("tiny", tokens_per_minute=150)),  # less than its longest segments
        Client("rare", "t", Plan("rare", tokens_per_minute=2_000, requests_per_second=0.5)),
    )
}
SIZES = (2, 30, 75, 150, 300, 512)  # tokens of each segment, by its number

segments = st.lists(
    st.tuples(st.integers(0, len(SIZES) - 1), st.sampled_from(("new", "new", "new", "state", "result"))),
    min_size=1,
    max_size=5,
)
deadlines = st.sampled_from((0.02, 1.0, 20.0, 61.0, 600.0, PATIENCE, PATIENCE, PATIENCE))
pauses = st.sampled_from((0.0, 0.001, 0.005, 0.02, 0.02, 0.3, 5.0, 45.0, 61.0))
faults = st.sampled_from((0.0, 0.001, 0.02, 0.5))
steps = st.integers(0, 4)  # of the loop, before time may pass


class Model:
    """In a runner's place: some segments fail."""

    layers = 1
    batch_tokens = BATCH_TOKENS

    def __init__(self, simulation: Simulation) -> None:
        self.poison: set[int] = set()
        self.poisoned: set[int] = set()  # at any time
        self._simulation = simulation

    def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
        now, seconds = time.monotonic(), self._simulation.loop.run_seconds
        assert sum(len(work.ids) for work in works) <= BATCH_TOKENS
        if self.poison & {int(work.ids[0]) for work in works}:
            raise ArithmeticError
        return [
            Computed({1: work.ids}, self.apply(work.ids, work.heads), now, now, now + seconds, seconds)
            for work in works
        ]

    def apply_each(
        self, wanted: Iterable[tuple[int, StateArray, Sequence[Head]]], threads: int
    ) -> Iterator[tuple[int, dict[Head, NDArray[Any]]]]:
        assert threads
        return ((number, self.apply(state, heads)) for number, state, heads in wanted)

    def apply(self, state: StateArray, heads: Sequence[Head]) -> dict[Head, NDArray[Any]]:
        return {head: vector(int(state[0]), cast("Pool", head)) for head in heads}


def vector(number: int, head: Pool) -> NDArray[Any]:
    """What is right for a segment."""
    return np.array([number, SIZES[number], head.pooling == "cls"], np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """In a served model's place."""

    runner: Model
    name: str = "model"
    cuts: tuple[int, ...] = (1,)


class Cache:
    """In a cache view's place: knows the states of some segments."""

    def __init__(self, known: set[Key]) -> None:
        self._known = known

    def states(self, wanted: Sequence[tuple[Segment, Key]]) -> Iterator[tuple[int, int, StateArray]]:
        return ((i, 1, segment.ids) for i, (segment, key) in enumerate(wanted) if key in self._known)

    def keep_computed(self, segment: Segment, key: Key, states: Mapping[int, StateArray], parts: Parts) -> None:
        assert states[1][0] == segment.ids[0]

    def keep_results(self, key: Key, parts: Parts) -> None:
        assert parts


class Redis:
    """In the place of the script that runs in Redis: the same windows, after a round trip."""

    def __init__(self) -> None:
        self.round_trip = 0.002
        self.down_until = 0.0
        self._windows = LocalWindows()

    async def __call__(self, keys: list[str], arguments: list[int]) -> float:
        units, window, wanted, take = arguments
        await asyncio.sleep(self.round_trip)
        if time.monotonic() < self.down_until:
            raise ConnectionError
        quota = Quota(keys[0], Rate(units, window))
        if take and self._windows.take(quota, wanted):
            return 0.0
        return self._windows.wait(quota, wanted) * MICROSECONDS


class NotingScheduler(Scheduler):
    """Notes what was submitted, released and paid, in which order."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.turns: dict[Work, int] = {}
        self.released: dict[Work, float] = {}  # when
        self.paid: list[tuple[float, str, float]] = []
        self.perhaps_paid = Counter[str]()  # by callers who left: they may have been charged in the same moment

    async def submit(self, work: Work, *arguments: Any) -> Computed:
        self.turns[work] = len(self.turns)
        return await super().submit(work, *arguments)

    async def _run(self, batch: Any, threads: int) -> None:
        for item in batch:  # alone again, if the run fails
            self.released.setdefault(item.work, time.monotonic())
        await super()._run(batch, threads)

    async def pay(self, price: float, client: Client, priority: Priority, deadline: float) -> None:
        try:
            await super().pay(price, client, priority, deadline)
        except asyncio.CancelledError:
            self.perhaps_paid[client.name] += price  # type: ignore[assignment]
            raise
        self.paid.append((time.monotonic(), client.name, price))


@dataclass(slots=True, eq=False)
class Caller:
    """A call, what it wants, and how it ended."""

    call: Call
    wanted: list[tuple[int, str]]
    task: "asyncio.Task[list[Result]]"
    has_left: bool = False
    ended: float = 0.0

    def __post_init__(self) -> None:
        self.task.add_done_callback(self._end)

    def leave(self) -> None:
        self.has_left = True
        self.task.cancel()

    def _end(self, _: object) -> None:
        self.ended = time.monotonic()


class States(RuleBasedStateMachine):
    """Rules are what callers, the machine and Redis may do."""

    def __init__(self) -> None:
        super().__init__()
        self.simulation = Simulation(run_seconds=0.05)
        self.loop = self.simulation.loop
        self.model = Model(self.simulation)
        self.callers: list[Caller] = []
        self.is_closed = False
        self.owed: dict[str, float] = defaultdict(float)  # for known segments of calls that were answered
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))

    @initialize(
        streams=st.integers(1, 3),
        storage=st.sampled_from(("memory", "memory", "redis://redis")),
        when_storage_fails=st.sampled_from(("open", "closed")),
        ending=st.sampled_from(("wait", "wait", "close", "stop")),
    )
    def start(self, streams: int, storage: str, when_storage_fails: str, ending: str) -> None:
        configured = LimitSettings.model_validate(
            {
                "storage": storage,
                "when_storage_fails": when_storage_fails,
                "cached_token_price": CACHED_PRICE,
                "max_concurrent": 50,
                "max_bytes_in_flight": 40 * REQUEST_BYTES,
            }
        )
        self.ending, self.redis, self.metrics = ending, Redis(), Metrics(CollectorRegistry())
        self.run(self._start(configured, streams))

    async def _start(self, configured: LimitSettings, streams: int) -> None:
        self.limiter = Limiter(configured, self.metrics)
        if shared := self.limiter._shared:
            shared._script, shared._clock = self.redis, self.simulation.clock.time  # type: ignore[assignment]
        self.admission = Admission(self.limiter, configured, self.metrics)
        self.scheduler = NotingScheduler(streams, streams, self.limiter, self.metrics)
        self.pipeline = Pipeline(
            self.scheduler,
            cast("Any", None),
            self.limiter,
            self.metrics,
            threads=streams,
            tokenizer_threads=READERS,
            in_flight=3,
            verify=0.0,
        )
        self.pipeline._keeper = SameThread(self.loop)  # type: ignore[assignment]
        self.scheduler.start()

    @rule(
        name=st.sampled_from(sorted(CLIENTS)),
        priority=st.sampled_from(Priority),
        mode=st.sampled_from((CacheMode.READ_WRITE, CacheMode.READ_WRITE, CacheMode.REFRESH)),
        seconds=st.lists(deadlines, min_size=1, max_size=3),
        wanted=segments,
        is_cls=st.booleans(),
        is_promised=st.booleans(),
        steps=steps,
        pause=pauses,
    )
    def call(  # noqa: PLR0913 - what Hypothesis draws
        self,
        name: str,
        priority: Priority,
        mode: CacheMode,
        seconds: list[float],
        wanted: list[tuple[int, str]],
        *,
        is_cls: bool,
        is_promised: bool,
        steps: int,
        pause: float,
    ) -> None:
        """Some callers want the same, each in its own time."""
        heads = (Pool("mean"), Pool("cls")) if is_cls else (Pool("mean"),)
        for each in seconds:
            call = self._call(CLIENTS[name], priority, mode, time.monotonic() + each)
            answer = self._answer(call, wanted, heads, is_promised=is_promised)
            self.callers.append(Caller(call, wanted, self.loop.create_task(answer)))
        self.run(passing(steps, pause))

    @precondition(lambda self: self.callers)
    @rule(which=st.integers(0), steps=steps, pause=pauses)
    def hang_up(self, which: int, steps: int, pause: float) -> None:
        self.callers[which % len(self.callers)].leave()
        self.run(passing(steps, pause))

    @rule(seconds=st.sampled_from((0.001, 0.05, 0.05, 2.0)))
    def runs_take(self, seconds: float) -> None:
        self.loop.run_seconds = seconds

    @rule(number=st.sampled_from((1, 3)))
    def poison(self, number: int) -> None:
        """A segment begins to fail, or ceases to."""
        self.model.poison ^= {number}
        self.model.poisoned |= {number}

    @rule(seconds=faults)
    def run_out_of_threads(self, seconds: float) -> None:
        self.loop.no_threads_until = time.monotonic() + seconds

    @precondition(lambda self: self.limiter._shared)
    @rule(seconds=faults, round_trip=st.sampled_from((0.0, 0.002, 0.2)))
    def lose_redis(self, seconds: float, round_trip: float) -> None:
        self.redis.down_until, self.redis.round_trip = time.monotonic() + seconds, round_trip

    @invariant()
    def calls_end_as_they_should(self) -> None:
        """And none outlives its deadline."""
        waiting = []
        self.run(ticks(2))  # the callbacks of those who have just ended
        for caller in self.callers:
            if caller.ended:
                self._check(caller)
            else:
                assert time.monotonic() <= caller.call.deadline + 0.001
                waiting.append(caller)
        self.callers = waiting

    @invariant()
    def nothing_is_lost(self) -> None:
        """Whatever raised where nobody awaits it."""
        assert not self.faults
        assert self.scheduler.is_alive()

    @invariant()
    def no_stream_sleeps_over_work(self) -> None:
        """A stream that nobody wakes while something can be served."""
        scheduler = self.scheduler
        self.run(ticks(10))
        assert scheduler._queue.peek() is None or scheduler._news.is_set() or scheduler._busy

    @invariant()
    def the_queue_is_as_deep_as_is_told(self) -> None:
        depth = self.metrics.registry.get_sample_value("octavo_queue_depth_segments")
        assert depth == len(self.scheduler._queue)
        ready = self.metrics.registry.get_sample_value("octavo_queue_depth_tokens")
        queues, parked = self.scheduler._queue._queues.values(), self.scheduler._parked
        flows = (flow for queue in queues for name, flow in queue._flows.items() if name not in parked)
        assert ready == sum(item.cost for flow in flows for item in flow.items)

    @invariant()
    def who_came_first_is_served_first(self) -> None:
        """Within a client and class."""
        last: dict[str, int] = {}
        for work in self.scheduler.released:
            turn = self.scheduler.turns[work]
            assert turn > last.get(line_of(work), -1)
            last[line_of(work)] = turn

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        self.run(ticks(10))  # segments of a caller who left do so a moment later
        if all(caller.task.done() for caller in self.callers):
            self._check_nothing_is_held()

    @invariant()
    def charges_are_what_was_released(self) -> None:
        grants = self._grants()
        for name, owed in self.owed.items():
            assert sum(price for _, payer, price in self.scheduler.paid if payer == name) >= owed - 1e-6
        for name in CLIENTS:
            total = sum(amount for _, amount in grants[name])
            charged = self.metrics.registry.get_sample_value("octavo_charged_tokens_total", {"client": name}) or 0.0
            assert total - 1e-6 <= charged <= total + self.scheduler.perhaps_paid[name] + 1e-6

    @invariant()
    def no_minute_has_more_than_the_rate(self) -> None:
        for name, grants in self._grants().items():
            rate = CLIENTS[name].plan.tokens_per_minute
            if rate is None:
                continue
            # A segment longer than the window is a debt. A unit is left over, and what was bought from Redis for one
            # who left.
            left_over = max(SIZES) if self.limiter._shared else 1.0 + max(0, max(SIZES) - rate)
            for i, (start, _) in enumerate(grants):
                within_minute = sum(amount for at, amount in grants[i:] if at < start + MINUTE - 1e-6)
                assert within_minute <= rate + left_over + 1e-6

    def teardown(self) -> None:
        """Whatever still goes on ends."""
        try:
            if hasattr(self, "scheduler"):
                self._end()
        finally:
            self.simulation.close()

    def _end(self) -> None:
        self.loop.no_threads_until = min(self.loop.no_threads_until, time.monotonic())
        self.redis.down_until = 0.0
        if self.ending == "wait":
            self._end_in_time()
        elif self.ending == "stop":
            for caller in self.callers:
                caller.leave()
            self.run(ticks(5))
            assert all(caller.task.done() for caller in self.callers)
        queues = self.scheduler._queue._queues.values()
        waiting = [item for queue in queues for flow in queue._flows.values() for item in flow.items]
        self.run(self._close())
        self.is_closed = True
        assert not self.scheduler._parked
        assert all(item.future.done() for item in waiting)
        if self.callers:
            self.run(asyncio.wait([caller.task for caller in self.callers], timeout=2 * PATIENCE))
        self.run(asyncio.sleep(MINUTE))  # runs that nobody waits for end
        for check_again in (
            self.calls_end_as_they_should,
            self.who_came_first_is_served_first,
            self.charges_are_what_was_released,
        ):
            check_again()
        assert not self.callers
        assert not self.faults
        self._check_nothing_is_held()
        assert asyncio.all_tasks(self.loop) == set()
        timers = [handle for handle in self.loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
        assert not timers

    def _end_in_time(self) -> None:
        """Calls that have the time for it are answered."""
        patient = [caller for caller in self.callers if caller.call.deadline > time.monotonic() + ENOUGH]
        if self.callers:
            self.run(asyncio.wait([caller.task for caller in self.callers], timeout=ENOUGH))
        assert all(caller.task.done() for caller in self.callers)
        for caller in patient:
            assert caller.task.cancelled() or not isinstance(caller.task.exception(), DeadlineExceeded)
        self.run(asyncio.sleep(MINUTE))
        self.calls_end_as_they_should()
        self.nothing_is_lost()
        self.no_minute_has_more_than_the_rate()
        self._check_nothing_is_held()

    async def _close(self) -> None:
        await self.pipeline.close()
        await self.scheduler.close()
        await self.limiter.close()

    def _check_nothing_is_held(self) -> None:
        scheduler, forecast = self.scheduler, self.scheduler.forecast
        assert len(scheduler._queue) == 0
        assert not scheduler._parked
        for queue in scheduler._queue._queues.values():
            assert not queue._flows
            assert not queue._parked
        assert not any(forecast._tokens.values())
        assert not forecast._weights
        assert not self.pipeline._single_flight._single_flight
        assert self.pipeline._gate._free == READERS
        assert not self.admission._calls
        assert not self.admission._bytes

    def _check(self, caller: Caller) -> None:
        """Its answers are its own segments', in their order; or there is a reason why there are none."""
        numbers = [number for number, _ in caller.wanted]
        if caller.task.cancelled():
            assert caller.has_left or self.is_closed
        elif error := caller.task.exception():
            assert isinstance(error, CallError | ArithmeticError | RuntimeError)
            assert not isinstance(error, ArithmeticError) or self.model.poisoned & set(numbers)
            assert not isinstance(error, RuntimeError) or self.loop.no_threads_until
            assert not isinstance(error, DeadlineExceeded) or caller.ended >= caller.call.deadline - 0.001
        else:
            results = caller.task.result()
            assert [number_of(result.prepared.segment) for result in results] == numbers
            states = {number for number, known in caller.wanted if known == "state"}
            for number, known in caller.wanted:
                if known == "result" or number in states:
                    self.owed[caller.call.client.name] += CACHED_PRICE * SIZES[number]
            for result in results:
                assert set(result.parts) >= set(result.prepared.heads)  # perhaps more: it shared a run
                for head, part in result.parts.items():
                    assert np.array_equal(part, vector(number_of(result.prepared.segment), cast("Pool", head)))

    def _grants(self) -> dict[str, list[tuple[float, float]]]:
        """What each client was given, and when."""
        grants: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for work, at in self.scheduler.released.items():
            grants[line_of(work).rpartition(" ")[2]].append((at, len(work.ids)))
        for at, name, price in self.scheduler.paid:
            grants[name].append((at, price))
        return defaultdict(list, {name: sorted(each) for name, each in grants.items()})

    def _call(self, client: Client, priority: Priority, mode: CacheMode, deadline: float) -> Call:
        served = cast("Any", Served(self.model))
        return Call(
            "", client, priority, deadline, served, served, cast("Any", None), cast("Any", None), 0, mode, (), ""
        )

    async def _answer(
        self, call: Call, wanted: list[tuple[int, str]], heads: tuple[Pool, ...], *, is_promised: bool
    ) -> list[Result]:
        """What the door and the service do."""
        group = [prepared(number, known, heads) for number, known in wanted]
        states = {each.key for each, (_, known) in zip(group, wanted, strict=True) if known == "state"}
        async with within(call.deadline), self.admission.enter(call.client) as slot:  # gRPC ends what waits for Redis
            slot.hold(REQUEST_BYTES)
            with self.pipeline.reserve(call) as reservation:
                async with within(call.deadline):
                    if is_promised:
                        await self._admit(call, group, states, reservation)
                    document = Document(call, "", Timings(), cast("CacheView", Cache(states)), reservation)
                    async with aclosing(self.pipeline.results(document, halves(group))) as results:
                        answer = [result async for result in results]
                assert not reservation._open
                return answer

    async def _admit(self, call: Call, group: list[Prepared], states: set[Key], reservation: Reservation) -> None:
        tokens = Counter[bool]()
        for each in group:
            tokens[each.complete or each.key in states] += each.segment.processed_tokens
        await self.pipeline.admit(call, reservation, tokens[False], tokens[True])

    def run(self, main: Any) -> Any:
        return self.simulation.run(main)


async def passing(steps: int, seconds: float) -> None:
    await ticks(steps)
    await asyncio.sleep(seconds)


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def halves(group: list[Prepared]) -> AsyncIterator[list[Prepared]]:
    """Two groups, as of two regions."""
    for half in (group[:2], group[2:]):
        if half:
            yield half


def prepared(number: int, known: str, heads: tuple[Pool, ...]) -> Prepared:
    ids = np.full(SIZES[number], number, np.int32)
    nothing = np.zeros(0, np.int64)
    parts: Parts = {head: vector(number, head) for head in heads} if known == "result" else {}
    return Prepared(Segment(0, 0, 0, ids, slice(0), nothing, nothing), Key(Kind.STATE, b"%d" % number), heads, parts)


def number_of(segment: Segment) -> int:
    return int(segment.ids[0])


def line_of(work: Work) -> str:
    """The client and class that a segment waits for."""
    priority, _, client = work.key.decode().lstrip("s0123456789").split(" ")
    return f"{priority} {client}"


TestStates = States.TestCase
TestStates.settings = settings(
    derandomize=True,
    deadline=None,
    max_examples=160,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
