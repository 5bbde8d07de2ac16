"""The writer: one thread and a bounded queue, so that a write never delays an answer.

Entries are written in batches, which share a transaction and a wake-up of the thread.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cache.entry import Entry
from cache.tag import Selector

TICK_EVERY = 0.25  # seconds
GATHER = 0.25  # seconds that a batch waits for more; with 0.05 a stream of new texts took 1.5 % longer (Zen 5)
MOST_WRITES = 64  # in a batch, while other processes wait for the index


class Write(NamedTuple):
    """An entry to write, unless it is purged after `position`; a modest one is written only into free room."""

    entry: Entry
    position: int
    modest: bool = False


class Writer:
    """Hands writes to `write` in order, in a thread of its own, and calls `tick` about four times a second.

    At most `limit` bytes wait; a batch has at most `batch_bytes`, unless it is a single entry. The thread calls `done`
    when it ends.
    """

    def __init__(
        self,
        limit: int,
        batch_bytes: int,
        write: Callable[[Sequence[Write]], None],
        tick: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self._limit, self._batch_bytes = limit, batch_bytes
        self._write, self._tick, self._done = write, tick, done
        self._changed = threading.Condition()
        self._queue: deque[Write] = deque()
        self._nbytes = 0
        self._busy = False
        self._flushing = 0  # how many threads wait for the queue to empty
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="octavo-cache-writer", daemon=True)
        self._thread.start()

    def is_alive(self) -> bool:
        """Tell whether entries are still written: false once an unforeseen error has ended the thread."""
        return self._closed or self._thread.is_alive()

    def submit(self, write: Write) -> bool:
        """Queue an entry; false when it does not fit."""
        size = write.entry.nbytes
        with self._changed:
            if self._closed or self._nbytes + size > self._limit:
                return False
            self._queue.append(write)
            self._nbytes += size
            if len(self._queue) == 1 or self._is_due():  # else the thread need not wake
                self._changed.notify_all()
            return True

    def discard(self, selector: Selector) -> int:
        """Drop the queued entries that a purge selects; return how many."""
        with self._changed:
            kept = deque(w for w in self._queue if not selector.matches(w.entry.tag, w.entry.stored_at))
            count = len(self._queue) - len(kept)
            self._queue, self._nbytes = kept, sum(write.entry.nbytes for write in kept)
            self._changed.notify_all()
            return count

    def size(self) -> tuple[int, int]:
        """Return the number of queued entries and their bytes."""
        with self._changed:
            return len(self._queue), self._nbytes

    def flush(self, timeout: float) -> bool:
        """Wait until nothing is queued or being written; false when the time was too short."""
        with self._changed:
            self._flushing += 1
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)
            finally:
                self._flushing -= 1

    def close(self, timeout: float) -> list[Write]:
        """Write what is queued, up to a time, and stop; return what was not written."""
        self.flush(timeout)
        with self._changed:
            self._closed = True
            unwritten = list(self._queue)
            self._queue.clear()
            self._nbytes = 0
            self._changed.notify_all()
        self._thread.join(max(timeout, 1.0))
        return unwritten

    def _run(self) -> None:
        next_tick = time.monotonic() + TICK_EVERY
        backlog = False
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed, max(0.0, next_tick - time.monotonic()))
                if self._queue and not backlog:
                    self._changed.wait_for(self._is_due, GATHER)
                if self._closed:
                    break
                batch = self._take_batch()
                self._busy, backlog = bool(batch), bool(self._queue)
            if batch:
                self._write(batch)
            if time.monotonic() >= next_tick:
                self._tick()
                next_tick = time.monotonic() + TICK_EVERY
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        self._done()

    def _is_due(self) -> bool:
        """Whether to write now what is queued, rather than wait for more. Half of the room is for what comes."""
        full = len(self._queue) >= MOST_WRITES or 2 * self._nbytes >= self._limit
        return full or self._closed or self._flushing > 0

    def _take_batch(self) -> list[Write]:
        batch: list[Write] = []
        nbytes = 0
        while self._queue and len(batch) < MOST_WRITES:
            size = self._queue[0].entry.nbytes
            if batch and nbytes + size > self._batch_bytes:
                break
            batch.append(self._queue.popleft())
            nbytes += size
        self._nbytes -= nbytes
        return batch
