"""What was answered, by model: Triton's statistics."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Counts:
    """Requests that a model answered or failed, since the server started. Times are in nanoseconds.

    Attributes:
        texts: of requests that were answered.
        last: when the last request ended, in milliseconds since 1970; 0: never.
    """

    texts: int = 0
    succeeded: int = 0
    success_time: int = 0
    failed: int = 0
    failure_time: int = 0
    last: int = 0

    @contextmanager
    def counting(self, texts: int) -> Iterator[None]:
        """Count a request; one that raises has failed."""
        began = time.monotonic_ns()
        try:
            yield
        except BaseException:
            self.failed += 1
            self.failure_time += time.monotonic_ns() - began
            raise
        else:
            self.texts += texts
            self.succeeded += 1
            self.success_time += time.monotonic_ns() - began
        finally:
            self.last = time.time_ns() // 1_000_000
