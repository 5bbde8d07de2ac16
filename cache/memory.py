"""The memory tier: a bounded, least-recently-used map in front of the disk. Recency is tracked only here."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from cache.entry import Array, Entry
from cache.key import Key
from cache.tag import Selector


class Memory:
    """Entries of this process, bounded in bytes. Safe between threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._nbytes = 0

    def get_many(self, keys: Sequence[Key], now: float) -> list[Array | None]:
        """Return the arrays that are present and not expired, in the order of the keys."""
        with self._lock:
            return [self._get(key, now) for key in keys]

    def put(self, entry: Entry, *, modest: bool = False) -> None:
        """Keep an entry if it fits, evicting the least recently used; a modest one evicts nothing."""
        with self._lock:
            self._remove(entry.key)
            if entry.nbytes + (self._nbytes if modest else 0) > self._limit:
                return
            self._entries[entry.key] = entry
            self._nbytes += entry.nbytes
            while self._nbytes > self._limit:
                self._remove(next(iter(self._entries)))

    def purge(self, selector: Selector) -> int:
        """Drop the selected entries; return how many."""
        with self._lock:
            taken = [k for k, entry in self._entries.items() if selector.matches(entry.tag, entry.stored_at)]
            for key in taken:
                self._remove(key)
            return len(taken)

    def size(self) -> tuple[int, int]:
        """Return the number of entries and their bytes."""
        with self._lock:
            return len(self._entries), self._nbytes

    def _get(self, key: Key, now: float) -> Array | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry.array

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._nbytes -= entry.nbytes
