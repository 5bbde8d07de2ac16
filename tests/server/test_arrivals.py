"""Requests that are still arriving: few at a time, and whoever stalls delays himself."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from server.errors import QueueFull
from server.limits.arrivals import QUICK_PLACES, SLOW_PLACES, Arrivals

Stalled = list["asyncio.Future[bytes]"]


def stall(arrivals: Arrivals, client: str, count: int, stalled: Stalled) -> list["asyncio.Task[bytes]"]:
    """Begin to receive messages that do not come."""
    loop = asyncio.get_running_loop()
    messages: Stalled = [loop.create_future() for _ in range(count)]
    stalled += messages
    return [asyncio.create_task(arrivals.receive(client, partial(_same, message))) for message in messages]


def soon(value: bytes) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return value

    return read


def _same(message: "asyncio.Future[bytes]") -> "asyncio.Future[bytes]":
    return message


async def outcome(task: Awaitable[Any]) -> str:
    try:
        await task
    except QueueFull:
        return "refused"
    return "received"


async def settled(arrivals: Arrivals, slow: int) -> None:
    """Wait until so many messages hold slow places and nobody waits for a quick one."""
    async with asyncio.timeout(10):
        while len(arrivals._slow) != slow or arrivals._waiting or arrivals._free != QUICK_PLACES:
            await asyncio.sleep(0.005)


async def test_stalled_messages_take_the_slow_places_and_the_others_are_refused() -> None:
    arrivals, stalled = Arrivals(), Stalled()
    tasks = stall(arrivals, "flood", 20, stalled)
    await settled(arrivals, SLOW_PLACES)
    assert await arrivals.receive("polite", soon(b"small")) == b"small"
    for message in stalled:
        if not message.done():
            message.set_result(b"late")
    outcomes = [await outcome(task) for task in tasks]
    assert outcomes.count("received") == SLOW_PLACES
    assert outcomes.count("refused") == 20 - SLOW_PLACES
    await settled(arrivals, 0)


async def test_a_client_that_holds_more_slow_places_than_others_loses_its_oldest() -> None:
    arrivals, stalled = Arrivals(), Stalled()
    greedy = stall(arrivals, "greedy", SLOW_PLACES, stalled)
    await settled(arrivals, SLOW_PLACES)
    (modest,) = stall(arrivals, "modest", 1, stalled)
    assert await outcome(greedy[0]) == "refused"
    await settled(arrivals, SLOW_PLACES)
    (again,) = stall(arrivals, "greedy", 1, stalled)
    assert await outcome(again) == "refused", "it still holds more than the other"
    stalled[SLOW_PLACES].set_result(b"whole")
    assert await modest == b"whole"
    for task in greedy[1:]:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    await settled(arrivals, 0)


@pytest.mark.parametrize(
    ("clients", "order"),
    [(("polite",) * 3, [2, 1, 0]), (("polite", "flood", "flood"), [0, 2, 1])],
    ids=["a client's newest is served first", "clients take turns"],
)
async def test_who_is_served_first(clients: tuple[str, ...], order: list[int]) -> None:
    arrivals, stalled = Arrivals(), Stalled()
    served: list[int] = []

    async def receive(client: str, number: int) -> None:
        async def read() -> None:
            served.append(number)

        await arrivals.receive(client, read)

    tasks = stall(arrivals, "flood", QUICK_PLACES, stalled)
    await asyncio.sleep(0)
    waiting = []
    for number, client in enumerate(clients):
        waiting.append(asyncio.create_task(receive(client, number)))
        await asyncio.sleep(0)
    await asyncio.gather(*waiting)
    assert served == order
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settled(arrivals, 0)


async def test_whoever_leaves_gives_its_place_back() -> None:
    arrivals, stalled = Arrivals(), Stalled()
    for _ in range(3):
        tasks = stall(arrivals, "gone", 2 * QUICK_PLACES, stalled)
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await settled(arrivals, 0)
    assert sum(message.cancelled() for message in stalled) == 3 * QUICK_PLACES, "the others were not begun"


async def test_a_message_that_fails_says_so() -> None:
    async def broken() -> bytes:
        raise ConnectionResetError

    arrivals = Arrivals()
    with pytest.raises(ConnectionResetError):
        await arrivals.receive("anyone", broken)
    await settled(arrivals, 0)


async def test_whoever_gives_up_waiting_leaves_nothing_behind() -> None:
    arrivals, stalled = Arrivals(), Stalled()
    tasks = stall(arrivals, "flood", QUICK_PLACES, stalled)
    await asyncio.sleep(0)
    gone = stall(arrivals, "flood", 50, Stalled())
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    assert not arrivals._waiting
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await settled(arrivals, 0)
