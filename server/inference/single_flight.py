"""Single flight: callers await work that is already in progress instead of starting it again."""

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
    """Work in progress by key. Cancelling a waiter does not affect others; the last one to leave cancels the work."""

    def __init__(self) -> None:
        self._single_flight: dict[bytes, _Flight[T]] = {}

    async def join(self, key: bytes, start: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return the result of the work under this key, and whether this caller started it.

        All waiters get its exception, so work must never fail for a reason that concerns only one of them.
        """
        flight = self._single_flight.get(key)
        if flight is not None and flight.task.done():
            # A finished flight stays listed until its callback runs. Rejoining it after a failure would spin without
            # yielding to the event loop.
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
                self._land(key, flight)  # now, so that no new caller joins work that is being cancelled
                flight.task.cancel()

    def _land(self, key: bytes, flight: _Flight[T]) -> None:
        if self._single_flight.get(key) is flight:
            del self._single_flight[key]
        if flight.task.done() and not flight.task.cancelled():
            flight.task.exception()  # mark as retrieved, as all waiters may have left


async def _run(start: Callable[[], Awaitable[T]]) -> T:
    return await start()
