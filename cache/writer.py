"""The writer: one thread and a bounded queue, so that a write never delays an answer.

Jobs are done in batches, which share a transaction and a wake-up of the thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache.entry import Entry
from cache.index import Row
from cache.key import Key
from cache.tag import Selector

TICK_EVERY = 0.25  # seconds
GATHER = 0.05  # seconds that a batch waits for more jobs
MOST_JOBS = 64  # in a batch, while other processes wait for the index


class Write(NamedTuple):
    """An entry to write, unless it is purged after `position` of the ledger; a modest one only into free room."""

    entry: Entry
    position: int
    modest: bool = False


class Forget(NamedTuple):
    """A row to remove, because it has no valid value."""

    key: Key
    row: Row


Job = Write | Forget


class Writer:
    """Does jobs in order, in a thread of its own, and calls `tick` about four times a second.

    At most `limit` bytes wait; a batch has at most `batch_bytes`, unless it is a single job.
    """

    def __init__(
        self,
        limit: int,
        batch_bytes: int,
        work: Callable[[Sequence[Job]], None],
        tick: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self._limit, self._batch_bytes = limit, batch_bytes
        self._work, self._tick, self._done = work, tick, done
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._nbytes = 0
        self._busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="octavo-cache-writer", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether jobs are still done: false once a fault that nobody foresaw has ended the thread."""
        return self._closed or self._thread.is_alive()

    def submit(self, job: Job) -> bool:
        """Queue a job; false when it does not fit."""
        size = _size(job)
        with self._changed:
            if self._closed or self._nbytes + size > self._limit:
                return False
            self._jobs.append(job)
            self._nbytes += size
            if len(self._jobs) in (1, MOST_JOBS):  # else the thread is already awake
                self._changed.notify_all()
            return True

    def discard(self, selector: Selector) -> int:
        """Drop the queued writes that a purge selects; return how many."""
        with self._changed:
            kept = deque(
                job for job in self._jobs
                if isinstance(job, Forget) or not selector.matches(job.entry.tag, job.entry.stored_at)
            )  # fmt: skip
            count = len(self._jobs) - len(kept)
            self._jobs, self._nbytes = kept, sum(map(_size, kept))
            self._changed.notify_all()
            return count

    def size(self) -> tuple[int, int]:
        """Return the number of queued jobs and their bytes."""
        with self._changed:
            return len(self._jobs), self._nbytes

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is queued or under way; false when the time was too short."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._jobs and not self._busy, timeout)

    def close(self, timeout: float) -> list[Job]:
        """Do what is queued, up to a time, and stop; return what was not done."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            undone = list(self._jobs)
            self._jobs.clear()
            self._nbytes = 0
            self._changed.notify_all()
        self._thread.join(max(timeout, 1.0))
        return undone

    def _run(self) -> None:
        next_tick = time.monotonic() + TICK_EVERY
        backlog = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._jobs or self._closed, max(0.0, next_tick - time.monotonic()))
                if self._jobs and not backlog:
                    self._changed.wait_for(lambda: self._closed or len(self._jobs) >= MOST_JOBS, GATHER)
                if self._closed:
                    break
                batch = self._take()
                self._busy, backlog = bool(batch), bool(self._jobs)
            if batch:
                self._work(batch)
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + TICK_EVERY
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        self._done()

    def _take(self) -> list[Job]:
        """The next batch, out of the queue."""
        batch: list[Job] = []
        nbytes = 0
        while self._jobs and len(batch) < MOST_JOBS:
            size = _size(self._jobs[0])
            if batch and nbytes + size > self._batch_bytes:
                break
            batch.append(self._jobs.popleft())
            nbytes += size
        self._nbytes -= nbytes
        return batch


def _size(job: Job) -> int:
    return job.entry.nbytes if isinstance(job, Write) else 0
