"""When a call that failed is tried again. Every method is free of side effects, so each may be."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from octavo.client.errors import DeadlineExceeded, OctavoError


@dataclass(frozen=True, slots=True)
class Retry:
    """How patient a client is.

    A refusal with a hint is waited out for as long as the call's timeout allows, and without a timeout for
    `patience` seconds in all. A server that cannot be reached is tried `attempts` times, with waits that double
    from `first_wait` to `longest_wait` seconds. A stream that breaks after it has given something is worth more: its
    server is sought for `patience` seconds, each time anew. `Retry(attempts=1, patience=0)` never tries again.

    None of this limits how often a stream goes on after the server's default deadline (see `Client.stream`), nor how
    often documents go on in another stream when one is full.
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
        self._begun = False
        self._gave = False  # this attempt

    @property
    def limited(self) -> bool:
        """Whether the caller set a timeout."""
        return self._end is not None

    @property
    def may_go_on(self) -> bool:
        """Whether another attempt follows a deadline: it was the server's own, and this attempt has given something."""
        return self._gave and not self.limited

    def progressed(self) -> None:
        """The call has given something: what failed before is forgotten, what fails from now on is a break."""
        self._failures, self._waited, self._begun, self._gave = 0, 0.0, True, True

    def timeout(self) -> float | None:
        """Seconds left for the next attempt; None when the call has no timeout."""
        return None if self._end is None else max(self._end - self._clock(), 0.0)

    def next_wait(self, error: OctavoError) -> float | None:
        """Seconds to wait before the next attempt; None when there is to be none."""
        full = self._gave and error.retry_after == 0.0  # a stream that has taken as many documents as one may
        if full or (isinstance(error, DeadlineExceeded) and self.may_go_on):
            self._gave = False
            return 0.0
        if not error.transient:
            return None
        if error.retry_after is None:
            self._failures += 1
            if self._failures >= self._retry.attempts and not self._begun:
                return None
            doubled = 2.0 ** min(self._failures - 1, 32)
            longest = min(self._retry.first_wait * doubled, self._retry.longest_wait)
            wait = longest * random.uniform(0.5, 1.0)  # noqa: S311
        else:
            # Never before the time that was asked for, and not all callers at once.
            wait = error.retry_after * random.uniform(1.0, 1.25) + random.uniform(0, 0.01)  # noqa: S311
        if wait >= self._allowed(error):
            return None
        self._waited += wait
        self._gave = False
        return wait

    def _allowed(self, error: OctavoError) -> float:
        """Seconds that the next wait has to stay below."""
        patience, left = self._retry.patience - self._waited, self.timeout()
        if left is None:
            return patience
        # A hint says when it will pass, so that the timeout alone decides, but for callers who never wait.
        return left if error.retry_after is not None and self._retry.patience else min(left, patience)
