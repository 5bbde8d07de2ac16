"""Measures event loop lag: anything that blocks the loop delays every call, and no other metric shows it."""

import asyncio
from collections.abc import Callable

PERIOD_SECONDS = 0.02  # with 5 ms, a third of the loop's wake-ups under load were for this timer
MOST_SILENT_SECONDS = 30.0  # a loop blocked for longer will not recover


class LoopWatch:
    """A timer that fires every 20 ms and reports how late it was.

    A timer is cheaper than a task: re-arming it needs no future and no context switch. After a long block it reports
    once, with the delay less at most one period.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Callable[[float], None]) -> None:
        self._loop = loop
        self._report = report
        self._due = self._woken = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start. Call on the loop's thread."""
        self._woken = self._loop.time()
        self._due = self._woken + PERIOD_SECONDS
        self._timer = self._loop.call_at(self._due, self._wake)

    def stop(self) -> None:
        """Stop. Call on the loop's thread; idempotent."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def silent_seconds(self) -> float:
        """Seconds since the timer last fired. Thread-safe, also while the loop is blocked."""
        return self._loop.time() - self._woken

    def is_alive(self) -> bool:
        """Whether the timer fired recently. Thread-safe."""
        return self.silent_seconds <= MOST_SILENT_SECONDS

    def _wake(self) -> None:
        late = max(0.0, self._loop.time() - self._due)
        self.start()  # before reporting: an exception there must not end the watch
        self._report(late)
