"""The store: arrays under a key, in memory and on disk.

    get_many   purges are noticed → memory → disk: rows, values, verified → kept in memory
    each       the same for large values, one at a time, not kept in memory
    put        a copy in memory → queued → written by the writer's thread: values, then rows

Faults of the disk are never raised: what cannot be read is a miss, what cannot be written is dropped.
"""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from cache.disk import Disk, FaultHandler
from cache.entry import Array, Entry, check_storable
from cache.folder import CacheSettings, Folder
from cache.key import Key, KeyMaker, Kind
from cache.memory import Memory
from cache.stats import Counters, Event, Purged, Report, Stats
from cache.tag import Selector, Tag, name_digest
from cache.writer import Write, Writer


class Store:
    """Arrays under a key. Safe between threads, and between processes that share the folder and the secret.

    Opens the folder, which is created if needed. `on_fault(fault, detail)` is called once for each kind of fault, from
    the thread that meets it first. A folder that cannot be used now is such a fault, and is tried again later.

    Raises:
        SettingsConflictError: a live process uses the folder under other settings.
        ForeignFolderError: the folder holds other things.
        UntrustedFolderError: other users may write to the folder.
    """

    def __init__(self, settings: CacheSettings, keys: KeyMaker, on_fault: FaultHandler = lambda *_: None) -> None:
        self.settings = settings
        self._counters = Counters()
        self._memory = Memory(settings.memory_bytes)
        self._folder = Folder(settings, self._drop)
        self._disk = disk = Disk(settings, self._folder, keys.sealing_key(), self._counters, on_fault)
        batch_bytes = settings.size_limit // 8  # what is written together leaves most of the rest in its place
        self._writer = Writer(settings.queue_bytes, batch_bytes, disk.write, disk.tick, disk.disconnect)

    def get(self, key: Key) -> Array | None:
        """Return the array under a key, or None. It is read-only: it is shared."""
        return self.get_many((key,))[0]

    def get_many(self, keys: Sequence[Key], *, modest: bool = False) -> list[Array | None]:
        """Return the arrays under several keys, None for each that is absent. Reads the disk: keep it off the loop.

        What is on disk comes into memory; a modest look-up evicts nothing there.
        """
        now = time.time()
        found = self._in_memory(keys, now)
        position = self._folder.position
        for key, entry in self._on_disk(found, now):
            if entry is not None:
                self._memory.put(entry, modest=modest)
                found[key] = entry.array
        self._drop_since(position)
        return [found[key] for key in keys]

    def each(self, keys: Iterable[Key]) -> Iterator[tuple[Key, Array | None]]:
        """Yield every different key and the array under it, or None.

        Each array is valid only until the thread reads the one after the next: work on one may go on while the next is
        read.

        For large values: what is on disk is read into the thread's same two buffers, and does not stay in this process.
        The files are in the system's cache, and new pages cost more than reading again: where all of 28 states were
        kept, they took half as long again, and up to nine times as long where a virtual machine had to find the pages.
        """
        now = time.time()
        found = self._in_memory(keys, now)
        yield from ((key, array) for key, array in found.items() if array is not None)
        for key, entry in self._on_disk(found, now, in_place=True):
            yield key, None if entry is None else entry.array

    def _in_memory(self, keys: Iterable[Key], now: float) -> dict[Key, Array | None]:
        self._disk.notice()
        different = list(dict.fromkeys(keys))
        found = dict(zip(different, self._memory.get_many(different, now), strict=True))
        self._count(Event.MEMORY_HIT, [key for key, array in found.items() if array is not None])
        return found

    def _on_disk(
        self, found: Mapping[Key, Array | None], now: float, *, in_place: bool = False
    ) -> Iterator[tuple[Key, Entry | None]]:
        """Look up the keys that were not found in memory."""
        absent = [key for key, array in found.items() if array is None]
        if not absent:
            return
        for key, entry in zip(absent, self._disk.find(absent, now, in_place=in_place), strict=True):
            self._counters.add(Event.MISS if entry is None else Event.DISK_HIT, {key.kind: 1})
            yield key, entry

    def contains_many(self, keys: Sequence[Key]) -> list[bool]:
        """Tell which keys have an entry, without reading or counting it. Entries may be damaged."""
        self._disk.notice()
        held = self._disk.holds(keys)
        cached = self._memory.get_many(keys, time.time())
        return [array is not None or bytes(key) in held for key, array in zip(keys, cached, strict=True)]

    def put(self, key: Key, array: Array, tag: Tag, *, modest: bool = False) -> bool:
        """Keep a copy of an array, at once in memory and soon on disk; false when the write to disk was dropped.

        A modest entry evicts no other.

        Raises:
            TypeError: for a dtype or a number of dimensions that the format does not hold.
        """
        check_storable(array)
        position = self._folder.position
        now = time.time()
        copy = np.array(array, order="C")
        copy.flags.writeable = False
        entry = Entry(key, tag.encode(key.kind), now, now + self.settings.time_to_live, copy)
        self._memory.put(entry, modest=modest)
        self._drop_since(position)
        if self._disk.usable and self._writer.submit(Write(entry, position, modest)):
            return True
        self._count(Event.DROPPED, [key])
        return False

    def purge(
        self,
        *,
        kind: Kind | None = None,
        tenant: str | None = None,
        model: str | None = None,
        document: bytes | None = None,
        older_than: float | None = None,
    ) -> Purged:
        """Remove the entries that match all arguments (all entries without any), for all processes.

        `document` is `KeyMaker.document`'s digest, `older_than` an age in seconds. Covers the disk, the memory of every
        process (the others' at their next look-up or within a second) and queued writes. What is computed now for a
        document and put after this returns is not covered.

        Raises:
            PurgeIncompleteError: memory was purged, but the disk could not be written.
        """
        selector = Selector(
            kind=kind,
            tenant=None if tenant is None else name_digest(tenant),
            model=None if model is None else name_digest(model),
            document=document,
            stored_before=None if older_than is None else time.time() - older_than,
        )
        memory, queued = self._drop(selector)
        return Purged(self._disk.purge(selector), memory, queued)

    def stats(self) -> Stats:
        """Return all counts and sizes; a few statements, no scan."""
        events, faults = self._counters.snapshot()
        usage, disk_bytes = self._disk.usage()
        return Stats(events, faults, usage, self._disk.usable, disk_bytes, *self._memory.size(), *self._writer.size())

    def check(self, *, fix: bool = False) -> Report:
        """Verify every entry on disk and find files without a row; `fix` removes what is invalid.

        A fault ends the check; the report then holds what was found so far.
        """
        return self._disk.check(fix=fix)

    def is_alive(self) -> bool:
        """Tell whether entries still reach the disk; false once an unforeseen error has ended the writer."""
        return self._writer.is_alive()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until what was put is on disk (or dropped); false when the time was too short."""
        return self._writer.flush(timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Write what is queued, up to a time, drop the rest, and leave the folder."""
        unwritten = self._writer.close(timeout)
        self._count(Event.DROPPED, [write.entry.key for write in unwritten])
        self._disk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _drop(self, selector: Selector) -> tuple[int, int]:
        """Remove the selected entries from memory and from the queue; return how many of each."""
        return self._memory.purge(selector), self._writer.discard(selector)

    def _drop_since(self, position: int) -> None:
        """Apply purges that arrived since a position to what was just kept in memory."""
        for selector in self._folder.since(position):
            self._memory.purge(selector)

    def _count(self, event: Event, keys: Sequence[Key]) -> None:
        self._counters.add(event, Counter(key.kind for key in keys))
