"""How late the event loop is: whatever blocks it delays every call, and nothing else would show it."""

import asyncio
from collections.abc import Callable

PERIOD_SECONDS = 0.02  # at 5 ms, a third of the loop's wake-ups under load were the watch's
MOST_SILENT_SECONDS = 30.0  # a loop that is blocked for longer will not recover by itself


class LoopWatch:
    """A timer that asks to be woken every 20 ms and reports how late it was.

    A timer rather than a task: re-arming costs no future and no context switch. A loop that was blocked for long
    reports once, with the whole delay less one period at most.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, report: Callable[[float], None]) -> None:
        self._loop = loop
        self._report = report
        self._due = self._woken = loop.time()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start; called on the loop's own thread."""
        self._woken = self._loop.time()
        self._due = self._woken + PERIOD_SECONDS
        self._timer = self._loop.call_at(self._due, self._wake)

    def stop(self) -> None:
        """Stop, on the loop's own thread; may be called twice."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def silent_seconds(self) -> float:
        """How long ago the loop last woke; may be asked from any thread, also while the loop is blocked."""
        return self._loop.time() - self._woken

    def is_alive(self) -> bool:
        """Whether the loop woke lately; may be asked from any thread."""
        return self.silent_seconds <= MOST_SILENT_SECONDS

    def _wake(self) -> None:
        late = max(0.0, self._loop.time() - self._due)
        self.start()  # first: a report that fails must not end the watch
        self._report(late)
