"""The index: diskcache's table of rows, and the statements that its public methods do not offer.

Only this file uses diskcache's private `_sql`, `_sql_retry` and `_transact`. It needs them to find many keys
in one statement, to remove entries by tag and age while counting them by kind, and to do both on diskcache's connection
and within its transactions. Triggers maintain the bytes of each kind, so that metrics need no scan.
"""

import contextlib
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diskcache  # type: ignore[import-untyped]

from cache.counters import Usage
from cache.disk import INLINE_BYTES, Placed, PlainDisk, Slab, key_of
from cache.entry import Entry
from cache.key import Key, Kind

DATABASE: str = diskcache.core.DBNAME
FANOUT = 256
OPEN_PATIENCE = 1.0
"""Seconds that opening waits for another process's lock."""

ORPHAN_AGE = 300.0
"""Seconds after which a file that no row names is garbage: its row would have followed within milliseconds."""

_SETTINGS = {
    "cull_limit": 0,  # the store evicts and counts
    "disk_min_file_size": INLINE_BYTES,
    "eviction_policy": "least-recently-stored",  # reads do not write, so they do not wait for locks
    "sqlite_cache_size": 2048,  # pages of 4 KiB for each connection
    "sqlite_cell_size_check": 1,  # detect damaged pages early
    "sqlite_trusted_schema": 0,  # a foreign schema runs no functions
    "sqlite_mmap_size": 0,  # truncating a mapped file would kill the process
    "statistics": 0,
    "tag_index": 0,
}
_BYTES = "{0}.size + COALESCE(LENGTH({0}.value), 0)"
_BATCH = 64  # rows removed in one transaction, while other processes wait
_FIND_LIMIT = 500  # parameters of one statement
_KINDS = {kind.value: kind for kind in Kind}


class Row(NamedTuple):
    """Where an entry's value is stored. Untrusted."""

    filename: Any
    value: Any
    size: Any = 0  # of the file


class Index(diskcache.Cache):  # type: ignore[misc]
    """The rows of one generation of the store, and the files that they name."""

    def __init__(self, folder: Path, generation: int, size_limit: int, timeout: float) -> None:
        self.generation = generation
        self.path = folder / DATABASE
        # SQLite would create it by the umask; its journal and shared memory take this file's mode.
        os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # diskcache waits up to a minute for each lock while opening, so probe first. The probe stays connected
        # until the end: the last connection to close would checkpoint, which waits for the disk.
        with contextlib.closing(sqlite3.connect(self.path, timeout=OPEN_PATIENCE, isolation_level=None)) as probe:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
            super().__init__(str(folder), timeout=timeout, disk=PlainDisk, size_limit=size_limit, **_SETTINGS)
            self._keep_usage()
        self._inode = self.path.stat().st_ino

    def intact(self) -> bool:
        """Whether the open file is still the one at its path."""
        try:
            return self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the rows of those keys that have one."""
        found: dict[bytes, Row] = {}
        for start in range(0, len(keys), _FIND_LIMIT):
            part = keys[start : start + _FIND_LIMIT]
            marks = ",".join("?" * len(part))
            rows = self._sql(f"SELECT key, filename, value, size FROM Cache WHERE raw = 1 AND key IN ({marks})", part)  # noqa: S608
            found.update((key, Row(*columns)) for key, *columns in rows)
        return found

    def fetch(self, row: Row, slab: Slab | None = None) -> memoryview:
        """Return a row's value, read into the slab if one is given.

        Raises:
            CorruptEntryError: the row cannot be one of ours.
            OSError: the file cannot be read.
        """
        value: memoryview = self._disk.load(row.filename, row.value, slab)
        return value

    def place(self, key: Key, header: bytes, content: memoryview) -> Placed:
        """Write an entry's value; `write` or `discard` must follow.

        Raises:
            OSError: it cannot be written whole.
        """
        placed: Placed = self._disk.place(bytes(key), header, content)
        return placed

    def write(self, entry: Entry, placed: Placed) -> None:
        """Write the row of an entry whose value was placed."""
        self.set(bytes(entry.key), placed, expire=entry.expires_at - time.time(), tag=entry.tag)

    def discard(self, placed: Placed) -> None:
        """Remove a placed value that gets no row."""
        self._disk.remove(placed.filename)

    def forget(self, key: bytes, row: Row) -> None:
        """Remove a row without a valid value. Keeps the file that it names, which may belong to another row."""
        self._sql("DELETE FROM Cache WHERE key = ? AND raw = 1 AND filename IS ?", (key, row.filename))

    def take(self, where: str, values: Sequence[Any] = (), order: str = "rowid", limit: int = _BATCH) -> Counter[Kind]:
        """Remove up to `limit` entries and their files; return how many of each kind."""
        taken: Counter[Kind] = Counter()
        with self._transact() as (sql, cleanup):
            select = f"SELECT rowid, key, filename FROM Cache WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
            for rowid, key, filename in sql(select, (*values, limit)).fetchall():
                sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
                cleanup(filename)
                taken[_KINDS.get(key[:1], Kind.RESULT)] += 1
        return taken

    def take_oldest(self) -> Counter[Kind]:
        """Remove a few of the oldest entries."""
        return self.take("1", order="store_time", limit=10)

    def take_expired(self, now: float) -> Counter[Kind]:
        """Remove entries whose time to live is over, a bounded number."""
        return self.take("expire_time < ?", (now,), order="expire_time")

    def take_all(self, where: str, values: Sequence[Any]) -> Counter[Kind]:
        """Remove every entry that meets a condition, and overwrite its row in the index."""
        self._sql("PRAGMA secure_delete = ON")
        taken: Counter[Kind] = Counter()
        while part := self.take(where, values):
            taken += part
        self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return taken

    def rows(self) -> Iterator[tuple[bytes, Row]]:
        """Iterate over all rows, holding no lock between batches."""
        select = "SELECT rowid, key, filename, value FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?"
        last = 0
        while batch := self._sql(select, (last, _BATCH)).fetchall():
            yield from ((key, Row(filename, value)) for _, key, filename, value in batch)
            last = batch[-1][0]

    def usage(self) -> dict[Kind, Usage]:
        """Return entries and bytes on disk by kind."""
        rows = self._sql("SELECT kind, entries, bytes FROM Usage").fetchall()
        return {_KINDS[kind]: Usage(entries, nbytes) for kind, entries, nbytes in rows if kind in _KINDS}

    def recount(self) -> None:
        """Recompute the sums that the triggers maintain."""
        with self._transact() as (sql, _):
            size = _BYTES.format("Cache")
            for kind in _KINDS:
                where = "WHERE substr(key, 1, 1) = :kind"
                sql(
                    f"UPDATE Usage SET entries = (SELECT COUNT(*) FROM Cache {where}),"  # noqa: S608
                    f" bytes = (SELECT COALESCE(SUM({size}), 0) FROM Cache {where}) WHERE kind = :kind",
                    {"kind": kind},
                )
            sql('UPDATE Settings SET value = (SELECT COUNT(*) FROM Cache) WHERE key = "count"')
            sql('UPDATE Settings SET value = (SELECT COALESCE(SUM(size), 0) FROM Cache) WHERE key = "size"')

    def sound(self) -> bool:
        """Let SQLite check its own structure; reads the whole index."""
        return bool(self._sql("PRAGMA quick_check(1)").fetchall() == [("ok",)])

    def sweep(self, part: int, now: float, *, fix: bool = True) -> int:
        """Remove files of one of the `FANOUT` folders that no row names, such as those of a killed writer."""
        orphans = 0
        with contextlib.suppress(OSError), os.scandir(self.path.parent / f"{part:02x}") as files:
            for file in files:
                with contextlib.suppress(OSError):  # removed meanwhile, or not a file of the store
                    old = file.stat(follow_symlinks=False).st_mtime < now - ORPHAN_AGE
                    if old and not self._names(part, file.name):
                        orphans += 1
                        if fix:
                            os.unlink(file.path)  # noqa: PTH108 (scandir's own path)
        return orphans

    def _names(self, part: int, name: str) -> bool:
        filename = f"{part:02x}/{name}"
        key = key_of(filename)
        select = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1 AND filename = ?"
        return key is not None and self._sql(select, (key, filename)).fetchone() is not None

    def _keep_usage(self) -> None:
        sql = self._sql_retry
        if sql("SELECT 1 FROM sqlite_master WHERE name = 'Usage_delete'").fetchone():
            return
        sql("CREATE TABLE IF NOT EXISTS Usage (kind BLOB PRIMARY KEY, entries INTEGER, bytes INTEGER) WITHOUT ROWID")
        for kind in _KINDS:
            sql("INSERT OR IGNORE INTO Usage VALUES (?, 0, 0)", (kind,))
        new, old = _BYTES.format("NEW"), _BYTES.format("OLD")
        for event, entries, nbytes, row in (
            ("INSERT", "+ 1", f"+ {new}", "NEW"),
            ("UPDATE", "+ 0", f"+ {new} - ({old})", "NEW"),
            ("DELETE", "- 1", f"- ({old})", "OLD"),
        ):
            sql(
                f"CREATE TRIGGER IF NOT EXISTS Usage_{event.lower()} AFTER {event} ON Cache FOR EACH ROW BEGIN"  # noqa: S608
                f" UPDATE Usage SET entries = entries {entries}, bytes = bytes {nbytes}"
                f" WHERE kind = substr({row}.key, 1, 1); END"
            )


def slab_for(rows: Iterable[Row]) -> Slab | None:
    """Return a slab for these rows' files, if they are large enough. Files that do not fit get memory of their own."""
    nbytes = sum(row.size + 64 for row in rows if type(row.size) is int and row.size > 0)
    return Slab(nbytes) if nbytes >= Slab.MIN_BYTES else None
