"""The ledger: tells processes that share a folder of each other's purges.

An append-only file of fixed-size records. A purge appends its selector *before* it deletes. Every process compares the
file's size with what it has read, at each look-up (one `fstat`, under a microsecond) and again under the index's write
lock before each write. So a queued entry is either written before the purge deletes, and is deleted, or is written
after the record was appended, and is dropped.

The file also carries the lock that tells a process whether it is alone in the folder (flock(2), released when the
process ends). Only a process that is alone truncates the file.
"""

import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from cache.tag import RECORD_BYTES, Selector

EVERYTHING = Selector()
KEPT = 1024


class Ledger:
    """One process's view of the ledger. Safe between threads."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lock = threading.Lock()
        self._recent: deque[Selector] = deque(maxlen=KEPT)
        self._noticed = 0  # records noticed since the start: the ledger's position in this process
        self._seen = 0

    def claim(self) -> bool:
        """Try to lock the folder exclusively, and empty the ledger if so. Ends with `share`."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._descriptor, 0)
        return True

    def share(self) -> None:
        """Lock the folder shared, and notice purges from here on."""
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)
        self._seen = os.fstat(self._descriptor).st_size

    @property
    def lost(self) -> bool:
        """Whether the file was deleted or replaced, so that the folder is no longer the one opened."""
        return os.fstat(self._descriptor).st_nlink == 0

    @property
    def position(self) -> int:
        """How many records this process has noticed."""
        return self._noticed

    def append(self, selector: Selector) -> None:
        """Tell all processes to drop the selected entries.

        Raises:
            OSError: when the record cannot be written.
        """
        record = selector.pack()
        if os.write(self._descriptor, record) != len(record):
            raise OSError("the ledger's record was cut short")

    def changed(self) -> bool:
        """Whether there is something to notice; cheap enough for every look-up."""
        return os.fstat(self._descriptor).st_size != self._seen

    def notice(self, apply: Callable[[Selector], None]) -> None:
        """Apply what was appended since; a damaged or shortened ledger reads as a purge of everything.

        The position moves first and `changed` turns false last: an entry that was admitted meanwhile is found either
        by `apply` or by its admitter's `since`, and no caller proceeds before all is applied.
        """
        with self._lock:
            size = os.fstat(self._descriptor).st_size
            if size == self._seen:
                return
            new = self._read(size)
            self._recent.extend(new)
            self._noticed += len(new)
            for selector in new:
                apply(selector)
            self._seen = size

    def since(self, position: int) -> list[Selector]:
        """Return the selectors noticed after a position; more than are kept reads as a purge of everything."""
        if position == self._noticed:
            return []
        with self._lock:
            count = self._noticed - position
            if not 0 <= count <= len(self._recent):
                return [EVERYTHING]
            return list(self._recent)[len(self._recent) - count :]

    def close(self) -> None:
        """Leave the folder."""
        os.close(self._descriptor)

    def _read(self, size: int) -> list[Selector]:
        try:
            content = os.pread(self._descriptor, size - self._seen, self._seen)
            return [Selector.unpack(content[at : at + RECORD_BYTES]) for at in range(0, len(content), RECORD_BYTES)]
        except (ValueError, OSError):  # a record is damaged; the file is shorter than it was, or cannot be read
            return [EVERYTHING]
