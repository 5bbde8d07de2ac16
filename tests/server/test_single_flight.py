"""Single flight: work under a key happens once, for all who ask while it goes on."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable

import pytest

from server.inference.single_flight import SingleFlight

KEY = b"key"


class Work:
    """Work that counts its starts and its cancellations, and ends when it is told to."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.outcome: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def __call__(self) -> str:
        self.started += 1
        try:
            return await asyncio.shield(self.outcome)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def ticks(count: int = 5) -> None:
    """Let everything that can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


async def board(
    flights: SingleFlight[str], start: Callable[[], Awaitable[str]], waiters: int
) -> list[asyncio.Task[tuple[str, bool]]]:
    tasks = [asyncio.create_task(flights.join(KEY, start)) for _ in range(waiters)]
    await ticks()
    return tasks


async def test_many_share_what_one_computes_and_only_the_first_started_it() -> None:
    flights, work = SingleFlight[str](), Work()
    tasks = await board(flights, work, 5)
    work.outcome.set_result("done")
    assert await asyncio.gather(*tasks) == [("done", True), *[("done", False)] * 4]
    assert work.started == 1


async def test_other_keys_are_other_work() -> None:
    flights, one, other = SingleFlight[str](), Work(), Work()
    tasks = [asyncio.create_task(flights.join(b"one", one)), asyncio.create_task(flights.join(b"other", other))]
    one.outcome.set_result("1")
    other.outcome.set_result("2")
    assert [await task for task in tasks] == [("1", True), ("2", True)]


async def test_what_has_landed_is_computed_anew() -> None:
    flights, first, second = SingleFlight[str](), Work(), Work()
    first.outcome.set_result("first")
    second.outcome.set_result("second")
    assert await flights.join(KEY, first) == ("first", True)
    assert await flights.join(KEY, second) == ("second", True)


@pytest.mark.parametrize("leaving", [0, 1], ids=["the one who started", "one who joined"])
async def test_a_cancelled_passenger_leaves_the_others_on_board(leaving: int) -> None:
    flights, work = SingleFlight[str](), Work()
    tasks = await board(flights, work, 2)
    tasks[leaving].cancel()
    await ticks()
    assert tasks[leaving].cancelled()
    assert not work.cancelled
    work.outcome.set_result("done")
    assert (await tasks[1 - leaving])[0] == "done"


async def test_the_last_to_leave_cancels_the_work() -> None:
    flights, work = SingleFlight[str](), Work()
    tasks = await board(flights, work, 3)
    for task in tasks[:2]:
        task.cancel()
    await ticks()
    assert work.cancelled == 0
    tasks[2].cancel()
    await ticks()
    assert work.cancelled == 1


async def test_a_failure_reaches_all_and_is_forgotten() -> None:
    flights, work = SingleFlight[str](), Work()
    tasks = await board(flights, work, 3)
    work.outcome.set_exception(ValueError("broken"))
    assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [ValueError] * 3
    again = Work()
    again.outcome.set_result("mended")
    assert await flights.join(KEY, again) == ("mended", True)


async def test_a_newcomer_never_boards_what_is_being_cancelled() -> None:
    flights, slow = SingleFlight[str](), Work()
    stubborn = asyncio.Event()

    async def slow_to_die() -> str:
        try:
            return await slow()
        finally:
            await stubborn.wait()

    (leaver,) = await board(flights, slow_to_die, 1)
    leaver.cancel()
    await ticks()  # the work is unwinding, and takes its time
    fresh = Work()
    (newcomer,) = await board(flights, fresh, 1)
    stubborn.set()
    await ticks()
    fresh.outcome.set_result("fresh")
    assert await newcomer == ("fresh", True)


async def test_the_end_of_a_cancelled_flight_does_not_end_its_successor() -> None:
    flights, first, second, third = SingleFlight[str](), Work(), Work(), Work()
    (leaver,) = await board(flights, first, 1)
    leaver.cancel()
    await asyncio.sleep(0)
    (one,) = await board(flights, second, 1)  # lands on the dict while the first still unwinds
    await ticks()
    (two,) = await board(flights, third, 1)
    assert third.started == 0
    second.outcome.set_result("second")
    assert [await one, await two] == [("second", True), ("second", False)]


async def test_a_newcomer_of_the_very_tick_of_a_failure_starts_afresh() -> None:
    """Else one who tries again after a failure meets the same failure, without the loop ever going round."""
    flights = SingleFlight[str]()
    failed = asyncio.Event()
    attempts = 0

    async def fail() -> str:
        failed.set()
        raise ValueError("broken")

    async def succeed() -> str:
        return "done"

    async def stubborn() -> str:
        nonlocal attempts
        await failed.wait()
        while True:
            attempts += 1
            assert attempts < 100, "the loop is blocked"
            try:
                return (await flights.join(KEY, succeed))[0]
            except ValueError:
                continue

    newcomer = asyncio.create_task(stubborn())
    await ticks()
    with pytest.raises(ValueError, match="broken"):
        await flights.join(KEY, fail)
    began = time.monotonic()
    assert await newcomer == "done"
    assert attempts == 1
    assert time.monotonic() - began < 1


async def test_a_failure_that_nobody_waits_for_any_more_is_not_reported_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    flights, work = SingleFlight[str](), Work()

    async def fail_when_cancelled() -> str:
        try:
            return await work()
        except asyncio.CancelledError:
            raise ValueError("SECRET TEXT") from None

    (leaver,) = await board(flights, fail_when_cancelled, 1)
    leaver.cancel()
    await ticks()
    assert work.cancelled
    del leaver
    gc.collect()
    assert "SECRET" not in caplog.text
    assert "never retrieved" not in caplog.text
