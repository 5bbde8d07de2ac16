"""Retries of failed calls. No method has side effects, so all may be retried."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from octavo.client.errors import DeadlineExceeded, OctavoError


@dataclass(frozen=True, slots=True)
class Retry:
    """When and how long to retry. `Retry(attempts=1, patience=0)` never retries.

    These limits do not apply to a stream that continues after the server's default deadline (see `Client.stream`), or
    to documents that continue in another stream when one is full.

    Attributes:
        attempts: maximum attempts while the server cannot be reached.
        first_wait: seconds before the first of these retries; doubles with each.
        longest_wait: maximum seconds between them.
        patience: seconds to wait in total for a refusal that says when to retry, if the call has no timeout; and to
            reconnect a stream that breaks after it returned something, each time it breaks.
        on_wait: called before each wait with the error and the seconds, in the thread that waits.
    """

    attempts: int = 5
    first_wait: float = 0.1
    longest_wait: float = 5.0
    patience: float = 60.0
    on_wait: Callable[[OctavoError, float], None] | None = None


class Attempts:
    """The attempts of one call: the timeout of the next one and the wait before it."""

    def __init__(self, retry: Retry, timeout: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._retry = retry
        self._clock = clock
        self._end = None if timeout is None else clock() + timeout
        self._failures = 0
        self._waited = 0.0
        self._begun = False
        self._gave = False  # whether this attempt returned something

    @property
    def limited(self) -> bool:
        """Whether the caller set a timeout."""
        return self._end is not None

    @property
    def may_go_on(self) -> bool:
        """Whether to continue after a deadline: it was the server's default, and this attempt returned something."""
        return self._gave and not self.limited

    def progressed(self) -> None:
        """Record that the call returned something: resets failures, and makes later failures a break in the stream."""
        self._failures, self._waited, self._begun, self._gave = 0, 0.0, True, True

    def timeout(self) -> float | None:
        """Seconds left for the next attempt; None: no timeout."""
        return None if self._end is None else max(self._end - self._clock(), 0.0)

    def next_wait(self, error: OctavoError) -> float | None:
        """Seconds to wait before the next attempt; None: do not retry."""
        full = self._gave and error.retry_after == 0.0  # the stream took its maximum of documents
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
            # Never earlier than requested, and spread so that callers do not all return at once.
            wait = error.retry_after * random.uniform(1.0, 1.25) + random.uniform(0, 0.01)  # noqa: S311
        if wait >= self._allowed(error):
            return None
        self._waited += wait
        self._gave = False
        if self._retry.on_wait:
            self._retry.on_wait(error, wait)
        return wait

    def _allowed(self, error: OctavoError) -> float:
        """The next wait must be less than this many seconds."""
        patience, left = self._retry.patience - self._waited, self.timeout()
        if left is None:
            return patience
        # With a retry delay from the server only the timeout limits the wait, unless retries are off (patience 0).
        return left if error.retry_after is not None and self._retry.patience else min(left, patience)
