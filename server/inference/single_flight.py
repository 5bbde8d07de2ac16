"""Single flight: what is being computed is awaited, not computed twice."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Flight(Generic[T]):
    task: asyncio.Task[T]
    waiters: int = 0


class SingleFlight(Generic[T]):
    """Work in progress by key. A waiter's cancellation is its own; the last to leave cancels the work."""

    def __init__(self) -> None:
        self._single_flight: dict[bytes, _Flight[T]] = {}

    async def join(self, key: bytes, start: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of the work under this key, and whether this caller started it.

        A failure reaches all waiters: work must fail for reasons of its own alone, never for one waiter's.
        """
        flight = self._single_flight.get(key)
        if flight is not None and flight.task.done():
            # Listed until its callback runs, in the loop's next round. Whoever tries again after its failure would fail
            # again at once, for ever, and the loop would never go round.
            flight = None
        started = flight is None
        if flight is None:
            flight = _Flight(asyncio.ensure_future(_run(start)))
            self._single_flight[key] = flight
            flight.task.add_done_callback(lambda _: self._land(key, flight))
        flight.waiters += 1
        try:
            return await asyncio.shield(flight.task), started
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                self._land(key, flight)  # at once: a newcomer must not board what is being cancelled
                flight.task.cancel()

    def _land(self, key: bytes, flight: _Flight[T]) -> None:
        if self._single_flight.get(key) is flight:
            del self._single_flight[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # seen, though the last waiter may have left


async def _run(start: Callable[[], Awaitable[T]]) -> T:
    return await start()
