"""When a call that failed is tried again. Every method is free of side effects, so each may be."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from octavo.client.errors import OctavoError


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is.

    A refusal with a hint is waited out for as long as the call's timeout allows, and without a timeout for
    `patience` seconds in all. A server that cannot be reached is tried `attempts` times, with waits that double
    from `first_wait` to `longest_wait` seconds. `Retry(attempts=1, patience=0)` never tries again.
    """

    attempts: int = 5
    first_wait: float = 0.1
    longest_wait: float = 5.0
    patience: float = 60.0


class Attempts:
    """The attempts of one call: how long the next one may take, and how long to wait before it."""

    def __init__(self, retry: Retry, timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry = retry
        self._clock = clock
        self._end = None if timeout is None else clock() + timeout
        self._failures = 0
        self._waited = 0.0

    def timeout(self) -> float | None:
        """Seconds left for the next attempt; None when the call has no timeout."""
        return None if self._end is None else max(self._end - self._clock(), 0.0)

    def next_wait(self, error: OctavoError) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        if not error.transient:
            return None
        if error.retry_after is None:
            self._failures += 1
            if self._failures >= self._retry.attempts:
                return None
            longest = min(self._retry.first_wait * 2.0 ** (self._failures - 1), self._retry.longest_wait)
            wait = longest * random.uniform(0.5, 1.0)  # noqa: S311
        else:
            # Never before the time that was asked for, and not all callers at once.
            wait = error.retry_after * random.uniform(1.0, 1.25) + random.uniform(0, 0.01)  # noqa: S311
        left = self.timeout()
        if wait >= (self._retry.patience - self._waited if left is None else left):
            return None
        self._waited += wait
        return wait
