"""Fair queueing, held to what it promises on any order of arrivals."""

import asyncio
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from server.auth.clients import ANONYMOUS
from server.config.schema import LimitSettings
from server.inference.pipeline import Pipeline
from server.limits import Limiter
from server.scheduling.fair_queue import FairQueue
from server.scheduling.scheduler import Scheduler
from server.telemetry.metrics import Metrics
from server.types import Priority

Item = tuple[str, int]
COST = 10.0
SOON = 30.0  # seconds; nothing here takes so long unless it is broken


def queue() -> FairQueue[Item]:
    return FairQueue()


def drained(fair: FairQueue[Item]) -> list[Item]:
    items = []
    while (item := fair.pop()) is not None:
        items.append(item)
    return items


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.1, 100)), max_size=60))
def test_every_item_comes_out_once_and_in_order_within_its_flow(arrivals: list[tuple[str, float]]) -> None:
    fair = queue()
    for number, (flow, cost) in enumerate(arrivals):
        fair.push(flow, 1.0, cost, (flow, number))
    served = drained(fair)
    assert sorted(served) == sorted((flow, n) for n, (flow, _) in enumerate(arrivals))
    for flow in "abc":
        numbers = [n for name, n in served if name == flow]
        assert numbers == sorted(numbers)


def test_whoever_floods_waits_behind_himself() -> None:
    fair = queue()
    for number in range(100):
        fair.push("flood", 1.0, COST, ("flood", number))
    fair.pop()
    fair.push("polite", 1.0, COST, ("polite", 0))
    assert ("polite", 0) in [fair.pop(), fair.pop()]


def test_cost_is_served_in_proportion_to_weight() -> None:
    fair = queue()
    for number in range(300):
        fair.push("heavy", 3.0, COST, ("heavy", number))
        fair.push("light", 1.0, COST, ("light", number))
    first = Counter(flow for flow, _ in (fair.pop() or ("", 0) for _ in range(200)))
    assert abs(first["heavy"] - 150) <= 2


def test_long_items_are_paid_by_their_own_flow() -> None:
    fair = queue()
    for number in range(50):
        fair.push("long", 1.0, 10 * COST, ("long", number))
        fair.push("short", 1.0, COST, ("short", number))
    first = Counter(flow for flow, _ in (fair.pop() or ("", 0) for _ in range(44)))
    assert first["short"] == 40


def test_an_idle_flow_saves_up_no_credit() -> None:
    fair = queue()
    for number in range(100):
        fair.push("steady", 1.0, COST, ("steady", number))
    for _ in range(50):
        fair.pop()
    for number in range(50):
        fair.push("late", 1.0, COST, ("late", number))
    first = Counter(flow for flow, _ in (fair.pop() or ("", 0) for _ in range(20)))
    assert abs(first["late"] - 10) <= 1


def test_discarded_items_are_not_charged_to_their_flow() -> None:
    fair = queue()
    for number in range(21):
        fair.push("a", 1.0, COST, ("a", number))
    fair.push("b", 1.0, COST, ("b", 0))
    for number in range(20):
        fair.discard("a", ("a", number))
        fair.discard("a", ("a", number))  # a second time changes nothing
    assert len(fair) == 2
    assert fair.peek() == ("a", 20)
    assert drained(fair) == [("a", 20), ("b", 0)]
    assert len(fair) == 0


def test_a_parked_flow_keeps_its_items_and_its_order() -> None:
    fair = queue()
    for number in range(3):
        fair.push("a", 1.0, COST, ("a", number))
    fair.push("b", 1.0, COST, ("b", 0))
    fair.park("a")
    fair.push("a", 1.0, COST, ("a", 3))
    assert drained(fair) == [("b", 0)]
    assert len(fair) == 4
    assert fair.holds("a")
    fair.unpark("a")
    assert drained(fair) == [("a", number) for number in range(4)]


def test_a_parked_flow_saves_up_no_credit() -> None:
    fair = queue()
    for number in range(100):
        fair.push("steady", 1.0, COST, ("steady", number))
        fair.push("parked", 1.0, COST, ("parked", number))
    fair.park("parked")
    for _ in range(50):
        fair.pop()
    fair.unpark("parked")
    first = Counter(flow for flow, _ in (fair.pop() or ("", 0) for _ in range(20)))
    assert abs(first["parked"] - 10) <= 1


def test_a_flow_that_was_parked_before_it_had_items_waits_too() -> None:
    fair = queue()
    fair.park("a")
    fair.push("a", 1.0, COST, ("a", 0))
    assert fair.peek() is None
    fair.discard("a", ("a", 0))
    fair.unpark("a")
    assert fair.pop() is None
    assert len(fair) == 0


def test_clients_who_have_gone_leave_nothing_behind() -> None:
    fair = queue()
    for number in range(1000):
        fair.push(f"client {number}", 1.0, COST, ("x", number))
        fair.pop()
    assert len(fair._flows) < 64


@pytest.mark.parametrize(("readers", "for_bulk"), [(1, 1), (2, 1), (3, 2)])
async def test_bulk_leaves_one_of_several_readers_to_interactive_calls(readers: int, for_bulk: int) -> None:
    metrics = Metrics(CollectorRegistry())
    limiter = Limiter(LimitSettings(), metrics)
    pipeline = Pipeline(
        Scheduler(1, 1, limiter, metrics),
        cast("Any", None),
        limiter,
        metrics,
        threads=1,
        tokenizer_threads=readers,
        in_flight=1,
        verify=0.0,
    )
    began, going_on = threading.Semaphore(0), threading.Event()

    def work() -> None:
        began.release()
        assert going_on.wait(SOON)

    bulk, interactive = (cast("Any", SimpleNamespace(client=ANONYMOUS, priority=each)) for each in reversed(Priority))
    tasks = [asyncio.create_task(pipeline.aside(bulk, work)) for _ in range(readers)]
    for _ in range(for_bulk):
        assert await asyncio.to_thread(began.acquire, timeout=SOON)
    if for_bulk < readers:
        async with asyncio.timeout(SOON):
            assert await pipeline.aside(interactive, lambda: "read") == "read"
    assert not began.acquire(blocking=False), "all the others wait"
    going_on.set()
    await asyncio.gather(*tasks)
    await pipeline.close()
