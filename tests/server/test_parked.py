"""Clients without credit: the client waits, not each of its segments. On a simulated clock, but for the Redis."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.redis_server import NoRedis, Redis, running
from server.auth.clients import Client, Plan
from server.config.schema import LimitSettings
from server.errors import DeadlineExceeded, RateLimited
from server.limits import Limiter
from server.limits.budget import Budget
from server.scheduling.scheduler import Scheduler
from server.telemetry.metrics import Metrics
from server.types import Computed, Priority, Work
from tests.server.simulated import START, Machine, simulate

if TYPE_CHECKING:
    from server.inference.runner import Runner

PLAN = Plan("free", tokens_per_minute=6_000)
ACME, OTHER, FREE = Client("acme", "t", PLAN), Client("other", "t", PLAN), Client("free", "t")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    try:
        with running(tmp_path) as redis:
            yield redis
    except NoRedis as reason:
        pytest.skip(str(reason))


@asynccontextmanager
async def scheduling(streams: int = 1, **limits: object) -> AsyncIterator[Scheduler]:
    metrics = Metrics(CollectorRegistry())
    limiter = Limiter(LimitSettings.model_validate(limits), metrics)
    scheduler = Scheduler(streams, 1, limiter, metrics)
    scheduler.start()
    try:
        yield scheduler
    finally:
        await scheduler.close()
        await limiter.close()


def submitted(
    scheduler: Scheduler,
    machine: Machine,
    key: bytes,
    tokens: int,
    client: Client = ACME,
    priority: Priority = Priority.INTERACTIVE,
    seconds: float = 3600,
) -> asyncio.Task[Computed]:
    work = Work(key, cast("Runner", machine), np.zeros(tokens, np.int32), 0, 0, state=None, cuts=(1,), heads=())
    return asyncio.create_task(scheduler.submit(work, client, priority, time.monotonic() + seconds))


def test_a_large_segment_is_not_overtaken_by_its_clients_small_ones() -> None:
    async def main() -> None:
        machine = Machine()
        async with scheduling() as scheduler:
            await submitted(scheduler, machine, b"first", 6_000)
            large = submitted(scheduler, machine, b"large", 5_000)
            await asyncio.sleep(30)
            small = [submitted(scheduler, machine, b"%d" % i, 1) for i in range(10)]
            paying = asyncio.create_task(scheduler.pay(1, ACME, Priority.INTERACTIVE, time.monotonic() + 3600))
            last = submitted(scheduler, machine, b"last", 1)
            await asyncio.sleep(29)
            assert not any(each.done() for each in (*small, paying, last))
            await large
            assert time.monotonic() == pytest.approx(START + 60, abs=0.1)
            await asyncio.gather(*small, paying, last)
        assert machine.computed == [b"first", b"large", *(b"%d" % i for i in range(10)), b"last"]

    simulate(main())


def test_three_thousand_waiting_segments_cost_no_more_than_what_is_granted(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = 0
    charge = Budget.charge

    def counted(budget: Budget, *arguments: object) -> float:
        nonlocal attempts
        attempts += 1
        return charge(budget, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Budget, "charge", counted)

    async def main() -> None:
        nonlocal attempts
        machine = Machine()
        async with scheduling() as scheduler:
            tasks = [submitted(scheduler, machine, b"%d" % i, 10) for i in range(3_000)]
            await asyncio.sleep(75)
            assert 0 < len(machine.computed) < 3_000
            before, attempts = len(machine.computed), 0
            await asyncio.sleep(44)
            assert attempts <= 2 * (len(machine.computed) - before) + 2
            assert len(scheduler._parked) == 1
            await asyncio.gather(*tasks)
        assert machine.computed == [b"%d" % i for i in range(3_000)]

    simulate(main())


def test_a_bulk_client_out_of_credit_runs_once_a_second_and_loses_nothing() -> None:
    runs: list[tuple[float, int]] = []

    class Noting(Machine):
        def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
            runs.append((time.monotonic() - START, len(works)))
            return super().compute(works, threads)

    async def main() -> None:
        machine = Noting(batch_tokens=1_000)
        async with scheduling() as scheduler:
            for number in range(600):  # what it may have, a tenth of a second apart: so it comes back
                await asyncio.sleep(START + number / 10 - time.monotonic())
                await submitted(scheduler, machine, b"%d" % number, 10, priority=Priority.BULK)
            waiting = [submitted(scheduler, machine, b"%d" % i, 10, priority=Priority.BULK) for i in range(600, 1_200)]
            await asyncio.gather(*waiting)
        assert machine.computed == [b"%d" % i for i in range(1_200)]

    simulate(main())
    later = [run for run in runs if run[0] > 62]
    assert len(later) == pytest.approx(58, abs=3)
    assert all(after - before >= 1 for (before, _), (after, _) in pairwise(later))
    assert runs[-1][0] < 122, "the second minute's tokens were granted within it"


def test_what_expires_while_its_client_is_parked_says_so_at_once() -> None:
    async def main() -> None:
        machine = Machine()
        async with scheduling() as scheduler:
            await submitted(scheduler, machine, b"first", 6_000)
            stays = submitted(scheduler, machine, b"stays", 10)
            late = submitted(scheduler, machine, b"late", 10, seconds=20)
            paying = asyncio.create_task(scheduler.pay(1, ACME, Priority.INTERACTIVE, time.monotonic() + 21))
            for each, seconds in ((late, 20), (paying, 21)):
                with pytest.raises(DeadlineExceeded):
                    await each
                assert time.monotonic() == pytest.approx(START + seconds, abs=0.1)
            assert len(scheduler._queue) == 1
            await stays
        assert machine.computed == [b"first", b"stays"]

    simulate(main())


def test_a_parked_client_whose_callers_leave_leaves_nothing() -> None:
    async def main() -> None:
        machine = Machine()
        async with scheduling() as scheduler:
            await submitted(scheduler, machine, b"first", 6_000)
            tasks = [submitted(scheduler, machine, b"%d" % i, 10) for i in range(5)]
            await asyncio.sleep(1)
            assert scheduler._parked
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert not scheduler._parked
            assert len(scheduler._queue) == 0

    simulate(main())


def test_others_do_not_wait_for_a_parked_client() -> None:
    async def main() -> None:
        machine = Machine()
        async with scheduling() as scheduler:
            await submitted(scheduler, machine, b"first", 6_000)
            submitted(scheduler, machine, b"parked", 10)
            await submitted(scheduler, machine, b"other", 10, OTHER)
            await submitted(scheduler, machine, b"free", 10, FREE)
            assert time.monotonic() < START + 1
        assert machine.computed == [b"first", b"other", b"free"]

    simulate(main())


def test_interactive_segments_do_not_wait_for_credit_that_a_bulk_one_lacks() -> None:
    async def main() -> None:
        machine = Machine()
        async with scheduling() as scheduler:
            await submitted(scheduler, machine, b"first", 5_000)
            bulk = submitted(scheduler, machine, b"bulk", 5_000, priority=Priority.BULK)
            await asyncio.sleep(1)
            assert scheduler._parked
            await submitted(scheduler, machine, b"interactive", 10)
            assert time.monotonic() < START + 2
            await bulk
        assert machine.computed == [b"first", b"interactive", b"bulk"]

    simulate(main())


async def test_a_purchase_wakes_its_client_alone(redis: Redis) -> None:
    machine = Machine()
    async with scheduling(storage=redis.url) as scheduler:
        woken: list[str] = []
        unpark = scheduler._unpark
        await submitted(scheduler, machine, b"first", 6_000)
        waiting = submitted(scheduler, machine, b"waiting", 10)
        while ACME.name not in scheduler._parked or scheduler._limiter.budget(ACME).meter._purchase:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)

        def noted(name: str) -> None:
            woken.append(name)
            unpark(name)

        scheduler._unpark = noted  # type: ignore[method-assign]
        await submitted(scheduler, machine, b"other", 10, OTHER)
        assert woken
        assert set(woken) == {OTHER.name}
        waiting.cancel()


async def test_what_waits_is_refused_when_the_storage_goes(redis: Redis) -> None:
    machine = Machine()
    async with scheduling(storage=redis.url, when_storage_fails="closed") as scheduler:
        await submitted(scheduler, machine, b"first", 450)
        redis.stop()
        deadline = time.monotonic() + 3600
        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(
                submitted(scheduler, machine, b"a", 450),
                submitted(scheduler, machine, b"b", 450),
                scheduler.pay(450, ACME, Priority.INTERACTIVE, deadline),
                submitted(scheduler, machine, b"c", 450, FREE),
                return_exceptions=True,
            )
        for outcome in outcomes[:3]:
            assert isinstance(outcome, RateLimited)
            assert outcome.retry_after == 1.0
        assert not scheduler._parked
    assert machine.computed == [b"first", b"c"]
