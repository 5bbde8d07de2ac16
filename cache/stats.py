"""What the store reports: counts of events and faults, its usage, and the results of a purge and of a check."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from cache.errors import Fault
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
    EVICTED = "evicted"  # removed from the disk for room
    EXPIRED = "expired"  # removed from the disk for age
    PURGED = "purged"  # removed from the disk by request


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


@dataclass(frozen=True, slots=True)
class Purged:
    """Entries that a purge removed: from disk for all processes, from memory and the queue in this one."""

    disk: Mapping[Kind, int]
    memory: int
    queued: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found, in entries."""

    valid: int = 0
    invalid: int = 0
    orphans: int = 0
    index_sound: bool = False
    finished: bool = False  # false: a fault ended it, or some values could not be read


class Counters:
    """Monotonic counts of events, by kind of entry, and of faults. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[tuple[Event, Kind]] = Counter()
        self._faults: Counter[Fault] = Counter()

    def add(self, event: Event, counts: Mapping[Kind, int]) -> None:
        """Count an event."""
        with self._lock:
            for kind, count in counts.items():
                self._events[event, kind] += count

    def fault(self, fault: Fault) -> bool:
        """Count a fault; true when it is the first of its kind."""
        with self._lock:
            self._faults[fault] += 1
            return self._faults[fault] == 1

    def snapshot(self) -> tuple[dict[tuple[Event, Kind], int], dict[Fault, int]]:
        """Return a copy of all counts."""
        with self._lock:
            return dict(self._events), dict(self._faults)
