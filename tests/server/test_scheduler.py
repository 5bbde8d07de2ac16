"""The queue before the machine, with a double of the machine at the seam: who computes what, when and with whom."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from server.auth.clients import ANONYMOUS, Client
from server.config.schema import LimitSettings
from server.errors import DeadlineExceeded, QueueFull
from server.limits import Limiter
from server.scheduling.scheduler import Scheduler
from server.telemetry.metrics import Metrics
from server.types import Computed, Priority, Work

if TYPE_CHECKING:
    from server.inference.runner import Runner

SOON = 5.0  # seconds; nothing here takes so long unless it is broken


class Machine:
    """In a runner's place: notes the runs, and holds each back while it is closed."""

    def __init__(self, batch_tokens: int = 100) -> None:
        self.batch_tokens = batch_tokens
        self.runs: list[tuple[list[bytes], int]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.poison: set[bytes] = set()

    def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
        self.runs.append(([work.key for work in works], threads))
        assert self.gate.wait(SOON)
        if self.poison & {work.key for work in works}:
            raise ArithmeticError
        now = time.monotonic()
        return [Computed({1: np.frombuffer(work.key, np.uint8)}, {}, now, now, now) for work in works]

    @property
    def computed(self) -> list[bytes]:
        return [key for keys, _ in self.runs for key in keys]

    @property
    def batches(self) -> list[list[bytes]]:
        return [keys for keys, _ in self.runs]


def key_of(computed: Computed) -> bytes:
    """Whose the answer is."""
    return computed.states[1].tobytes()


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@asynccontextmanager
async def scheduling(metrics: Metrics, streams: int = 1, threads: int = 4) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(streams, threads, Limiter(LimitSettings(), metrics), metrics)
    scheduler.start()
    try:
        yield scheduler
    finally:
        await asyncio.wait_for(scheduler.close(), SOON)


def submitted(  # noqa: PLR0913
    scheduler: Scheduler,
    machine: Machine,
    key: bytes,
    *,
    tokens: int = 10,
    window: int = 0,
    start: int = 0,
    cuts: tuple[int, ...] = (1,),
    seconds: float = 60,
    client: Client = ANONYMOUS,
    priority: Priority = Priority.INTERACTIVE,
) -> asyncio.Task[Computed]:
    ids = np.zeros(tokens, np.int32)
    work = Work(key, cast("Runner", machine), ids, window, start, state=None, cuts=cuts, heads=())
    deadline = time.monotonic() + seconds
    return asyncio.create_task(scheduler.submit(work, client, priority, deadline))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.001)


@asynccontextmanager
async def held(scheduler: Scheduler, machine: Machine, streams: int = 1) -> AsyncIterator[None]:
    """Keep all streams busy inside, and forget those runs."""
    machine.gate.clear()
    held_back = []
    for i in range(streams):  # one by one: together they would be one batch
        held_back.append(submitted(scheduler, machine, b"held", tokens=machine.batch_tokens))
        await until(lambda expected=i + 1: len(machine.runs) == expected)  # type: ignore[misc]
    machine.runs.clear()
    try:
        yield
        await asyncio.sleep(0.01)  # everything that was submitted inside is queued
    finally:
        machine.gate.set()
        await asyncio.gather(*held_back, return_exceptions=True)


async def test_first_in_first_out(machine: Machine, metrics: Metrics) -> None:
    machine.batch_tokens = 1  # each segment is a run of its own
    keys = [b"%d" % i for i in range(20)]
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [submitted(scheduler, machine, key) for key in keys]
        done = await asyncio.gather(*tasks)
    assert machine.computed == keys
    assert [key_of(computed) for computed in done] == keys  # to each its own


async def test_who_asks_for_little_comes_before_who_asks_for_much_and_nobody_overtakes_himself(
    machine: Machine, metrics: Metrics
) -> None:
    machine.batch_tokens = 1
    flood, polite = Client("flood", "flood"), Client("polite", "polite")
    async with scheduling(metrics) as scheduler:
        scheduler.forecast.speed.observe(1000, 1.0, threads=1)
        demand = scheduler.forecast.demand[Priority.INTERACTIVE]
        async with held(scheduler, machine):
            demand.ask(flood, 100_000)
            tasks = [submitted(scheduler, machine, b"f%d" % i, client=flood) for i in range(5)]
            await asyncio.sleep(0)
            for i in range(5):
                demand.ask(polite, 10)
                tasks.append(submitted(scheduler, machine, b"p%d" % i, client=polite))
            await asyncio.sleep(0)
            # It wants more now: what comes after is behind, in turns with the flood.
            demand.ask(polite, 100_000)
            tasks += [submitted(scheduler, machine, b"p%d" % i, client=polite) for i in range(5, 8)]
            await asyncio.sleep(0)
            demand._asked.clear()  # long ago
            tasks.append(submitted(scheduler, machine, b"f5", client=flood))
        await asyncio.gather(*tasks)
    assert machine.computed[:5] == [b"p0", b"p1", b"p2", b"p3", b"p4"]
    rest = machine.computed[5:]
    assert [key for key in rest if key[:1] == b"f"] == [b"f%d" % i for i in range(6)]
    assert [key for key in rest if key[:1] == b"p"] == [b"p5", b"p6", b"p7"]
    assert {key[:1] for key in rest[:4]} == {b"f", b"p"}


async def test_one_run_takes_what_fits_its_token_budget_and_no_more(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [
                submitted(scheduler, machine, b"%d" % i, tokens=tokens)
                for i, tokens in enumerate([40, 60, 1, 99, 50, 51, 200, 30])
            ]
        await asyncio.gather(*tasks)
    assert machine.batches == [[b"0", b"1"], [b"2", b"3"], [b"4"], [b"5"], [b"6"], [b"7"]]


async def test_a_run_has_one_window(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [submitted(scheduler, machine, b"%d" % window, window=window) for window in (0, 0, 64, 64, 0)]
        await asyncio.gather(*tasks)
    assert machine.batches == [[b"0", b"0"], [b"64", b"64"], [b"0"]]


async def test_a_run_goes_through_the_same_layers(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            layers: list[tuple[int, tuple[int, ...]]] = [(0, (6,)), (0, (6,)), (3, (6,)), (3, (6,)), (3, (4, 6))]
            tasks = [submitted(scheduler, machine, b"%d" % i, start=on[0], cuts=on[1]) for i, on in enumerate(layers)]
        await asyncio.gather(*tasks)
    assert machine.batches == [[b"0", b"1"], [b"2", b"3"], [b"4"]]


async def test_an_interactive_segment_does_not_wait_for_bulk_in_its_run(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            bulk = [submitted(scheduler, machine, key, priority=Priority.BULK) for key in (b"a", b"b")]
            interactive = [submitted(scheduler, machine, key) for key in (b"c", b"d")]
        await asyncio.gather(*bulk, *interactive)
    assert machine.batches == [[b"c", b"d"], [b"a", b"b"]]


async def test_a_run_has_one_model(machine: Machine, metrics: Metrics) -> None:
    other = Machine()
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [submitted(scheduler, model, b"-") for model in (machine, other, other, machine)]
        await asyncio.gather(*tasks)
    assert machine.batches == [[b"-"], [b"-"]]
    assert other.batches == [[b"-", b"-"]]


async def test_what_expired_while_it_waited_is_not_computed_and_says_so(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            late = submitted(scheduler, machine, b"late", seconds=0.02)
            punctual = submitted(scheduler, machine, b"punctual")
            await asyncio.sleep(0.03)
        with pytest.raises(DeadlineExceeded):
            await late
        await punctual
    assert machine.computed == [b"punctual"]


async def test_what_expires_in_the_middle_of_the_queue_says_so_at_once(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler, held(scheduler, machine):
        submitted(scheduler, machine, b"before")
        with pytest.raises(DeadlineExceeded):
            await asyncio.wait_for(submitted(scheduler, machine, b"late", seconds=0.02), SOON)
    assert b"late" not in machine.computed


async def test_what_is_not_worth_computing_when_its_turn_comes_is_not_computed(
    machine: Machine, metrics: Metrics
) -> None:
    async with scheduling(metrics) as scheduler, AsyncExitStack() as stack:
        reservation = stack.enter_context(scheduler.forecast.reserve(ANONYMOUS, Priority.INTERACTIVE))
        reservation.promise(10, time.monotonic() + 60)
        async with held(scheduler, machine):
            work = Work(b"late", cast("Runner", machine), np.zeros(10, np.int32), 0, 0, None, (1,), ())
            submitting = scheduler.submit(work, ANONYMOUS, Priority.INTERACTIVE, time.monotonic() + 60, reservation)
            late, mate = asyncio.create_task(submitting), submitted(scheduler, machine, b"mate")
            scheduler.forecast.speed.observe(1, 60.0, threads=1)  # slower than it seemed
        with pytest.raises(QueueFull):
            await late
        await mate
    assert machine.computed == [b"mate"]


async def test_bulk_goes_on_slowly_while_there_is_always_something_interactive(
    machine: Machine, metrics: Metrics
) -> None:
    machine.batch_tokens = 1
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [submitted(scheduler, machine, b"b%d" % i, priority=Priority.BULK) for i in range(20)]
            await asyncio.sleep(0)
            tasks += [submitted(scheduler, machine, b"i%d" % i) for i in range(100)]
        await asyncio.gather(*tasks)
    bulk = [place for place, key in enumerate(machine.computed) if key.startswith(b"b")]
    assert bulk == [*range(10, 110, 11), *range(110, 120)], "a tenth of the others; alone, all there is"
    assert [key for key in machine.computed if key.startswith(b"b")] == [b"b%d" % i for i in range(20)]


async def test_what_nobody_waits_for_any_more_is_not_computed(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [submitted(scheduler, machine, key) for key in (b"gone", b"stays", b"gone", b"stays")]
            await asyncio.sleep(0.01)
            for task in tasks[::2]:
                task.cancel()
        await asyncio.gather(*tasks[1::2])
    assert machine.computed == [b"stays", b"stays"]


async def test_a_queue_of_the_dead_alone_does_not_stop_the_stream(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            dead = [submitted(scheduler, machine, b"dead", seconds=0) for _ in range(3)]
        assert [type(error) for error in await asyncio.gather(*dead, return_exceptions=True)] == [DeadlineExceeded] * 3
        await asyncio.wait_for(submitted(scheduler, machine, b"alive"), SOON)
    assert machine.computed == [b"alive"]


async def test_a_caller_who_leaves_during_the_run_takes_nothing_from_its_mates(
    machine: Machine, metrics: Metrics
) -> None:
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            leaver, mate = submitted(scheduler, machine, b"leaver"), submitted(scheduler, machine, b"mate")
        await until(lambda: machine.runs)
        leaver.cancel()
        assert key_of(await mate) == b"mate"


async def test_a_poisonous_segment_fails_alone(machine: Machine, metrics: Metrics) -> None:
    machine.poison = {b"poison"}
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            before, poison, after = (
                submitted(scheduler, machine, key, tokens=33) for key in (b"before", b"poison", b"after")
            )
        with pytest.raises(ArithmeticError):
            await poison
        assert [key_of(await mate) for mate in (before, after)] == [b"before", b"after"]
        assert key_of(await submitted(scheduler, machine, b"next")) == b"next"
    assert machine.batches == [[b"before", b"poison", b"after"], [b"before"], [b"poison"], [b"after"], [b"next"]]


async def test_a_machine_that_loses_a_segment_fails_it_and_does_not_hang_it(
    machine: Machine, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = machine.compute
    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            monkeypatch.setattr(machine, "compute", lambda works, threads: whole(works, threads)[:-1])
            kept, lost = submitted(scheduler, machine, b"kept"), submitted(scheduler, machine, b"lost")
        assert key_of(await asyncio.wait_for(kept, SOON)) == b"kept"
        with pytest.raises(ValueError, match="zip"):
            await asyncio.wait_for(lost, SOON)
        monkeypatch.setattr(machine, "compute", whole)
        await asyncio.wait_for(submitted(scheduler, machine, b"found"), SOON)


async def test_a_segment_that_is_alone_gets_all_threads(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics, streams=2, threads=4) as scheduler:
        await submitted(scheduler, machine, b"first")
        await submitted(scheduler, machine, b"second")
    assert machine.runs == [([b"first"], 4), ([b"second"], 4)]


async def test_bulk_leaves_threads_to_interactive_calls(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics, streams=2, threads=4) as scheduler:
        await submitted(scheduler, machine, b"bulk", priority=Priority.BULK)
    assert machine.runs == [([b"bulk"], 1)]


async def test_many_segments_get_a_thread_each(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics, streams=2, threads=4) as scheduler:
        async with held(scheduler, machine, streams=2):
            tasks = [submitted(scheduler, machine, b"%d" % i, tokens=100) for i in range(6)]
        await asyncio.gather(*tasks)
    assert len(machine.runs) == 6
    assert {threads for _, threads in machine.runs[:-1]} == {1}  # the last may be alone


async def test_while_another_stream_is_busy_a_segment_gets_one_thread(machine: Machine, metrics: Metrics) -> None:
    async with scheduling(metrics, streams=2, threads=4) as scheduler:
        async with held(scheduler, machine):
            beside = submitted(scheduler, machine, b"beside")
            await until(lambda: machine.runs)
        await beside
    assert machine.runs == [([b"beside"], 1)]


async def test_streams_compute_side_by_side(machine: Machine, metrics: Metrics) -> None:
    machine.gate.clear()
    async with scheduling(metrics, streams=3) as scheduler:
        tasks = [submitted(scheduler, machine, b"%d" % i, tokens=100) for i in range(5)]
        await until(lambda: len(machine.runs) == 3)
        await asyncio.sleep(0.02)
        assert len(machine.runs) == 3  # and not more than there are streams
        machine.gate.set()
        await asyncio.gather(*tasks)


async def test_closing_cancels_what_waits_and_what_is_being_computed(machine: Machine, metrics: Metrics) -> None:
    scheduler = Scheduler(1, 1, Limiter(LimitSettings(), metrics), metrics)
    scheduler.start()
    machine.gate.clear()
    running = submitted(scheduler, machine, b"running", tokens=100)
    await until(lambda: machine.runs)
    waiting = submitted(scheduler, machine, b"waiting", tokens=100)
    await asyncio.sleep(0.01)
    threading.Timer(0.05, machine.gate.set).start()
    await asyncio.wait_for(scheduler.close(), SOON)
    async with asyncio.timeout(SOON):
        done = await asyncio.gather(running, waiting, return_exceptions=True)
    assert [type(error) for error in done] == [asyncio.CancelledError] * 2
    assert machine.computed == [b"running"]


async def test_the_queue_and_its_waits_are_measured(machine: Machine, metrics: Metrics) -> None:
    def sample(name: str) -> float:
        return metrics.registry.get_sample_value(f"octavo_{name}") or 0.0

    async with scheduling(metrics) as scheduler:
        async with held(scheduler, machine):
            tasks = [submitted(scheduler, machine, b"-", tokens=100) for _ in range(3)]
            await until(lambda: sample("queue_depth_segments") == 3)
            assert sample("queue_depth_tokens") == 300
            await asyncio.sleep(0.02)
        done = await asyncio.gather(*tasks)
    assert sample("queue_depth_segments") == sample("queue_depth_tokens") == 0
    assert sample("queue_wait_seconds_count") == 4  # and the one that was held
    assert all(computed.started - computed.queued >= 0.02 for computed in done)
