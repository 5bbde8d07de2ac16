"""Counts of events and faults, for metrics."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cache.key import Kind


class Event(StrEnum):
    """What can happen to an entry; a look-up is exactly one of the first three."""

    MEMORY_HIT = "memory_hit"
    DISK_HIT = "disk_hit"
    MISS = "miss"
    TIMEOUT = "timeout"  # of the misses: the index stayed locked
    CORRUPT = "corrupt"  # of the misses: damaged, forged, or of another key
    OLD_FORMAT = "old_format"  # of the misses
    STORED = "stored"
    DROPPED = "dropped"  # never written: the queue or the disk was full, or the disk out of use
    EVICTED = "evicted"  # left the disk for room
    EXPIRED = "expired"  # left the disk for age
    PURGED = "purged"  # left the disk by request


class Fault(StrEnum):
    """What can be wrong with the disk. The store keeps answering, with misses."""

    CORRUPT_ENTRY = "corrupt_entry"
    CORRUPT_INDEX = "corrupt_index"
    OLD_FORMAT = "old_format"
    DISK_FULL = "disk_full"
    READ_ONLY = "read_only"
    LOCKED = "locked"
    IO_ERROR = "io_error"


@dataclass(frozen=True, slots=True)
class Usage:
    """Disk usage of one kind of entry."""

    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Stats:
    """The store at one moment. Events and faults are counted from the start of this process."""

    events: Mapping[tuple[Event, Kind], int]
    faults: Mapping[Fault, int]
    disk: Mapping[Kind, Usage]  # all processes'; empty while the disk is out of use
    disk_usable: bool
    disk_bytes: int  # values and index: what `size_limit` limits
    memory_entries: int
    memory_bytes: int
    queued_entries: int
    queued_bytes: int


class Counters:
    """Monotonic counts by event and kind, and of faults. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[tuple[Event, Kind]] = Counter()
        self._faults: Counter[Fault] = Counter()

    def add(self, event: Event, kind: Kind, count: int = 1) -> None:
        """Count an event."""
        if count:
            with self._lock:
                self._events[event, kind] += count

    def add_all(self, event: Event, by_kind: Mapping[Kind, int]) -> None:
        """Count an event for several kinds."""
        for kind, count in by_kind.items():
            self.add(event, kind, count)

    def fault(self, fault: Fault) -> bool:
        """Count a fault; true when it is the first of its kind."""
        with self._lock:
            self._faults[fault] += 1
            return self._faults[fault] == 1

    def snapshot(self) -> tuple[dict[tuple[Event, Kind], int], dict[Fault, int]]:
        """Return a copy of all counts."""
        with self._lock:
            return dict(self._events), dict(self._faults)
