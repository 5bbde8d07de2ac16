"""The disk tier: finds, writes and removes entries in the folder's index. Whatever goes wrong on the disk is a miss.

Faults are counted, and the first of each kind is reported. A failing index is closed by the thread that notices it,
and reopened by the writer's thread, first immediately, then with growing delays.
"""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from cache.entry import MAX_FILE_BYTES, Entry, decode, encode
from cache.errors import (
    CacheError,
    CorruptEntryError,
    EntryError,
    ExpiredEntryError,
    Fault,
    OldFormatError,
    PurgeIncompleteError,
    classify,
)
from cache.folder import CacheSettings, Folder
from cache.index import FANOUT, WRITE_PATIENCE, Index, Placed, Row, patiently
from cache.key import Key, Kind
from cache.stats import Counters, Event, Report, Usage
from cache.tag import Selector
from cache.writer import Write

FaultHandler = Callable[[Fault, str], None]

PURGE_PATIENCE = 30.0  # seconds that a purge waits for other processes' locks
SWEEP_EVERY = 3600.0
EXPIRE_EVERY = 60.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # between attempts to open
ROW_BYTES = 2048  # of the index, that an entry may take beside its own bytes: 290 to 2,070 were measured

_HARMLESS = frozenset({Fault.LOCKED, Fault.DISK_FULL, Fault.CORRUPT_ENTRY, Fault.OLD_FORMAT})


class Disk:
    """Entries on disk, shared between processes. Safe between threads; `write` and `tick` belong to one.

    Raises:
        ForeignFolderError, UntrustedFolderError, SettingsConflictError: the folder must not be used.
    """

    def __init__(
        self,
        settings: CacheSettings,
        folder: Folder,
        sealing_key: bytes,
        counters: Counters,
        on_fault: FaultHandler,
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._sealing_key = sealing_key
        self._counters = counters
        self._on_fault = on_fault
        self._opening = threading.Lock()
        self._of_thread = threading.local()
        self._index: Index | None = None
        self._invalid: dict[Key, Row] = {}  # rows that led to no valid value, to be removed
        self._pause, self._next_attempt = 0.0, 0.0
        self._opened_at = math.inf  # when the last attempt to open succeeded, if it did
        self._next_expiry, self._next_sweep = 0.0, 0.0
        self._sweep_part = 0
        self.open()

    @property
    def usable(self) -> bool:
        """Whether entries can be found and written at all."""
        return self._index is not None

    def notice(self) -> None:
        """Apply other processes' purges; takes under a microsecond when there are none."""
        if self._folder.notice():
            try:
                self._follow()
            except OSError as error:  # e.g. too many open files: reopening finds the newest index
                self._index = None
                self._report(error, classify(error))

    # Look-ups.

    def find(self, keys: Sequence[Key], now: float, *, in_place: bool = False) -> Iterator[Entry | None]:
        """Yield the valid entry of each key, or None. Values are read one by one, in one thread.

        Those that are read `in_place` lie in the thread's two buffers in turn: each array is valid only until the
        thread reads the one after the next.
        """
        done = 0
        with self._faults(keys) as index:
            if index is not None:
                names = [bytes(key) for key in keys]
                rows = index.find(names)
                rooms = self._rooms(max(map(_file_bytes, rows.values()), default=0)) if in_place else []
                for key, name in zip(keys, names, strict=True):
                    row = rows.get(name)
                    entry = None if row is None else self._read(index, key, row, now, rooms[0] if rooms else None)
                    if entry is not None:
                        rooms.reverse()
                    done += 1
                    yield entry
        yield from [None] * (len(keys) - done)

    def holds(self, keys: Sequence[Key]) -> set[bytes]:
        """Return the keys, encoded as on disk, that the index has. Does not read files."""
        with self._faults(keys) as index:
            if index is not None:
                return set(index.find([bytes(key) for key in keys]))
        return set()

    def _rooms(self, nbytes: int) -> list[NDArray[np.uint8]]:
        """The thread's two buffers, the next one first: in new pages, reading 393 kB takes 105 µs, not 13 (Zen 5)."""
        rooms: list[NDArray[np.uint8]] | None = getattr(self._of_thread, "rooms", None)
        if rooms is None or min(room.nbytes for room in rooms) < nbytes:
            rooms = self._of_thread.rooms = [np.empty(nbytes, np.uint8) for _ in range(2)]
        return rooms

    def _read(self, index: Index, key: Key, row: Row, now: float, room: NDArray[np.uint8] | None) -> Entry | None:
        try:
            return decode(index.fetch(row, room), key, now, self._sealing_key)
        except ExpiredEntryError:
            pass  # `tick` removes it
        except (EntryError, FileNotFoundError) as error:
            self._invalid[key] = row
            if isinstance(error, CorruptEntryError):
                self._counters.add(Event.CORRUPT, {key.kind: 1})
                self._report(error, Fault.CORRUPT_ENTRY)
            elif isinstance(error, OldFormatError):
                self._counters.add(Event.OLD_FORMAT, {key.kind: 1})
                self._report(error, Fault.OLD_FORMAT)
        except OSError as error:  # e.g. too many open files: the entry may be valid
            self._report(error, classify(error))
        return None

    # Writes.

    def write(self, writes: Sequence[Write]) -> None:
        """Write entries together, except those that were purged since their position.

        Entries that cannot be written are dropped and counted. Modest entries are dropped if others had to be evicted.
        """
        self._forget_invalid()
        for modest in (False, True):
            self._write_alike([write for write in writes if write.modest is modest], modest=modest)

    def _write_alike(self, writes: Sequence[Write], *, modest: bool) -> None:
        """Write entries that are all modest or all not; in halves, if there is no room for all of them."""
        if not writes:
            return
        events = [Event.DROPPED] * len(writes)
        nbytes = sum(write.entry.nbytes + ROW_BYTES for write in writes)
        with self._faults() as index:
            if index is not None and index.intact():
                if self._make_room(index, nbytes, modest=modest):
                    events = self._write(index, writes)
                elif len(writes) > 1:
                    middle = len(writes) // 2
                    self._write_alike(writes[:middle], modest=modest)
                    self._write_alike(writes[middle:], modest=modest)
                    return
        for event, write in zip(events, writes, strict=True):
            self._counters.add(event, {write.entry.key.kind: 1})

    def _write(self, index: Index, writes: Sequence[Write]) -> list[Event]:
        placed: list[Placed] = []
        try:
            placed.extend(index.place(write.entry.key, *encode(write.entry, self._sealing_key)) for write in writes)
            return patiently(WRITE_PATIENCE, lambda: self._commit(index, writes, placed))
        except BaseException:
            for value in placed:
                index.discard(value)
            raise

    def _commit(self, index: Index, writes: Sequence[Write], placed: Sequence[Placed]) -> list[Event]:
        events = []
        with index.transaction():
            # Under the write lock, a purge has either appended its record, noticed here, or will delete these rows.
            self.notice()
            closed = not self._folder.entered  # purges could not be noticed
            for (entry, position, _), value in zip(writes, placed, strict=True):
                if closed or any(
                    selector.matches(entry.tag, entry.stored_at) for selector in self._folder.since(position)
                ):
                    index.discard(value)
                    events.append(Event.DROPPED if closed else Event.PURGED)
                else:
                    index.write(entry, value)
                    events.append(Event.STORED)
        return events

    def _make_room(self, index: Index, nbytes: int, *, modest: bool) -> bool:
        """Evict the oldest entries until `nbytes` fit, none for a modest entry; false when they cannot fit."""
        limit = self._settings.size_limit
        if nbytes > limit:
            return False
        if modest:
            return self._disk_has(nbytes) and index.volume() + nbytes <= limit
        if not self._disk_has(nbytes):  # others fill the disk: shrink a little at each write
            self._counters.add(Event.EVICTED, patiently(WRITE_PATIENCE, index.take_oldest))
            if not self._disk_has(nbytes):
                self._report(OSError("less than min_free_bytes are free"), Fault.DISK_FULL)
                return False
        recounted = False
        while index.volume() + nbytes > limit:
            taken = patiently(WRITE_PATIENCE, index.take_oldest)
            self._counters.add(Event.EVICTED, taken)
            if not taken:
                if recounted:
                    return False
                patiently(WRITE_PATIENCE, index.recount)  # the recorded size may be damaged
                recounted = True
        return True

    def _disk_has(self, nbytes: int) -> bool:
        status = os.statvfs(self._settings.folder)
        return status.f_bavail * status.f_frsize >= nbytes + self._settings.min_free_bytes

    def _forget_invalid(self) -> None:
        with self._faults() as index:
            while index is not None and self._invalid:
                key, row = self._invalid.popitem()
                index.forget(bytes(key), row)

    # Purges and maintenance.

    def purge(self, selector: Selector) -> Counter[Kind]:
        """Remove the selected entries, for all processes; return how many of each kind.

        Raises:
            PurgeIncompleteError: the disk could not be written.
        """
        try:
            self._follow()
            self.open()
            self._folder.announce(selector)
            self.notice()
            index = self.open()  # a generation that begins after the record has no older entries
            if index is None:
                raise PurgeIncompleteError("memory was purged, but the disk is out of use")  # noqa: TRY301
            self._folder.remove_older(index)
            taken = patiently(PURGE_PATIENCE, lambda: index.take_all(*selector.where()))
            self._counters.add(Event.PURGED, taken)
            patiently(PURGE_PATIENCE, index.truncate_wal)
        except CacheError:
            raise
        except Exception as error:
            self._report(error, classify(error))
            raise PurgeIncompleteError(
                f"memory was purged, the disk was not, or only in part: {classify(error)}"
            ) from error
        return taken

    def usage(self) -> tuple[dict[Kind, Usage], int]:
        """Return the usage of each kind, and the bytes of all files."""
        with self._faults() as index:
            if index is not None:
                return index.usage(), index.volume()
        return {}, 0

    def check(self, *, fix: bool) -> Report:
        """Read every entry and look for files without a row; `fix` removes what is invalid.

        A fault ends the check; the report then holds what was found so far.
        """
        report = Report()
        with self._faults() as index:
            if index is not None:
                for report in index.check(self._sealing_key, fix=fix):  # noqa: B007 (the last one counts)
                    pass
        return report

    def tick(self) -> None:
        """Maintain the disk for a few milliseconds: reopen, forget, expire, sweep."""
        now = time.time()
        try:
            self._follow()
            self.notice()
            if self._index is None and time.monotonic() >= self._next_attempt:
                self.open()
        except (CacheError, OSError) as error:  # the folder is now another's, or not trusted
            self._report(error, Fault.IO_ERROR)
        self._forget_invalid()
        with self._faults() as index:
            if index is not None:
                if now >= self._next_expiry:
                    taken = index.take_expired(now)
                    self._counters.add(Event.EXPIRED, taken)
                    self._next_expiry = now if taken else now + EXPIRE_EVERY
                if now >= self._next_sweep:
                    index.sweep(self._sweep_part, now)
                    self._sweep_part = (self._sweep_part + 1) % FANOUT
                    self._next_sweep = now if self._sweep_part else now + SWEEP_EVERY
                    self._folder.remove_older(index)
                    if self._sweep_part == 0 and index.is_miscounted():
                        patiently(WRITE_PATIENCE, index.recount)

    # Opening and closing.

    def open(self) -> Index | None:
        """Open the folder and the index, unless they are open; None when they cannot be used now.

        Raises:
            ForeignFolderError, UntrustedFolderError, SettingsConflictError: the folder must not be used.
        """
        with self._opening:
            if self._index is not None:
                return self._index
            now = time.monotonic()
            if now - self._opened_at > LONGEST_PAUSE:
                self._pause = 0.0
            self._next_attempt, self._opened_at = now + self._pause, math.inf
            self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
            try:
                if not self._folder.entered:
                    self._folder.enter()
                self._index = self._folder.open_index(self._report)
                self._opened_at = time.monotonic()
            except CacheError:
                raise
            except Exception as error:  # noqa: BLE001 (the store serves without a disk)
                self._report(error, classify(error))
            return self._index

    def disconnect(self) -> None:
        """Close this thread's connection to the index."""
        if self._index is not None:
            self._index.close()

    def close(self) -> None:
        """Leave the folder."""
        self.disconnect()
        self._index = None
        self._folder.leave()

    def _follow(self) -> None:
        """Close an index that another process has abandoned, or that was deleted or replaced."""
        index = self._index
        if self._folder.leave_if_deleted() or (index is not None and not self._folder.is_newest(index)):
            self._index = None
        elif index is not None and not index.intact():
            self._folder.abandon(index)
            self._index = None
            self._report(FileNotFoundError("the index was deleted or replaced"), Fault.CORRUPT_INDEX)

    @contextmanager
    def _faults(self, looked_up: Sequence[Key] = ()) -> Iterator[Index | None]:
        """Yield the index; count and swallow what is raised, and close the index if it is broken."""
        index = self._index
        try:
            yield index
        except Exception as error:  # noqa: BLE001 (the rule of this tier)
            fault = classify(error)
            self._report(error, fault)
            if fault is Fault.LOCKED:
                self._counters.add(Event.TIMEOUT, Counter(key.kind for key in looked_up))
            if index is not None and fault not in _HARMLESS:
                if fault is Fault.CORRUPT_INDEX:
                    self._folder.abandon(index)
                if self._index is index:
                    self._index = None

    def _report(self, error: BaseException, fault: Fault) -> None:
        """Count a fault, and report the first of its kind."""
        if self._counters.fault(fault):
            self._on_fault(fault, f"{type(error).__name__}: {error}")


def _file_bytes(row: Row) -> int:
    """The size of a row's file, as far as the row can be trusted."""
    size = row.size
    return size if row.filename is not None and type(size) is int and 0 < size <= MAX_FILE_BYTES else 0
