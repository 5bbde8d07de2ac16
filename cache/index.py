"""The index: diskcache's table of rows, and the value files that the rows name. Only this file knows diskcache.

diskcache makes the table, keeps a connection for each thread, sets rows and holds the write lock, all by its public
names. One private name is used: `_sql`, the calling thread's connection. Without it, statements could not run within
diskcache's transactions, and the public methods neither find many keys in one statement, nor remove entries by tag and
age while counting them by kind. Triggers maintain the bytes of each kind, so that metrics need no scan.
"""

import contextlib
import errno
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import diskcache  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from cache.entry import Entry, decode, read_file, write_file
from cache.errors import CorruptEntryError, ExpiredEntryError, Fault, classify
from cache.key import Key, Kind
from cache.stats import Report, Usage

Result = TypeVar("Result")

DATABASE: str = diskcache.core.DBNAME
FANOUT = 256  # folders of value files
INLINE_BYTES = 32_768  # smaller values are stored in the index: a vector or a region's tokens need no file
OPEN_PATIENCE = 1.0
"""Seconds that opening waits for another process's lock."""

WRITE_PATIENCE = 2.0
"""Seconds that a write waits for other processes' locks."""

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
_RAW_MODE = 1  # diskcache's, for every row; the mode in a row is ignored
_BATCH = 64  # rows removed in one transaction, while other processes wait
_FIND_LIMIT = 512  # parameters of one statement
_FILENAME = re.compile(r"[0-9a-f]{2}/([0-9a-f]{66})-[0-9a-f]{12}\.val", re.ASCII)
_KINDS = {kind.value: kind for kind in Kind}
_BYTES = "{0}.size + COALESCE(LENGTH({0}.value), 0)"
_USAGE_TRIGGER = """
CREATE TRIGGER IF NOT EXISTS Usage_{event} AFTER {event} ON Cache FOR EACH ROW BEGIN
    UPDATE Usage SET entries = entries {entries}, bytes = bytes {bytes} WHERE kind = substr({row}.key, 1, 1);
END;
"""
_NEW, _OLD = _BYTES.format("NEW"), _BYTES.format("OLD")
_USAGE = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS Usage (kind BLOB PRIMARY KEY, entries INTEGER, bytes INTEGER) WITHOUT ROWID;
INSERT OR IGNORE INTO Usage VALUES {", ".join(f"(x'{kind.value.hex()}', 0, 0)" for kind in Kind)};
{_USAGE_TRIGGER.format(event="insert", entries="+ 1", bytes=f"+ {_NEW}", row="NEW")}
{_USAGE_TRIGGER.format(event="update", entries="+ 0", bytes=f"+ {_NEW} - ({_OLD})", row="NEW")}
{_USAGE_TRIGGER.format(event="delete", entries="- 1", bytes=f"- ({_OLD})", row="OLD")}
COMMIT;
"""  # noqa: S608


class Row(NamedTuple):
    """Where an entry's value is stored. Untrusted."""

    filename: Any
    value: Any
    size: Any = 0  # of the file


class Placed(NamedTuple):
    """The columns of a value that awaits its row: it lies in a file, or will lie in the row itself."""

    size: int  # of the file
    mode: int
    filename: str | None
    value: bytes | None


class _Disk(diskcache.Disk):  # type: ignore[misc]
    """What diskcache needs to set rows.

    Reading through diskcache is refused: it unpickles what a row declares a pickle, so a forged row could run code.
    """

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.folder = Path(directory)

    def put(self, key: bytes) -> tuple[bytes, bool]:
        """Return a key as it is."""
        return key, True

    def store(self, value: Placed, read: bool, key: bytes | None = None) -> Placed:  # noqa: ARG002
        """Return a value's columns: `Index.place` has written it."""
        return value

    def remove(self, file_path: Any) -> None:
        """Remove a value's file if the name has the right form. Folders stay, so that writers need no retry."""
        if type(file_path) is str and _FILENAME.fullmatch(file_path):
            (self.folder / file_path).unlink(missing_ok=True)

    def get(self, key: Any, raw: Any) -> Any:
        """Refuse: rows are read by `Index`."""
        raise NotImplementedError

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> Any:
        """Refuse: values are read by `Index`."""
        raise NotImplementedError


class Index:
    """The rows of one generation of the store, and the files that they name."""

    def __init__(self, folder: Path, generation: int, timeout: float) -> None:
        self.generation = generation
        self._folder = folder
        self._path = folder / DATABASE
        # SQLite would create it by the umask; its journal and shared memory take this file's mode. An existing file is
        # not opened here: closing it would end the locks of this process's connections to it (POSIX).
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if not self._path.is_file():
            raise OSError(f"{self._path} is not a file")
        # diskcache waits up to a minute for each lock while opening, so probe first. The probe stays connected
        # until the end: the last connection to close would checkpoint, which waits for the disk.
        with contextlib.closing(sqlite3.connect(self._path, timeout=OPEN_PATIENCE, isolation_level=None)) as probe:
            probe.execute("BEGIN IMMEDIATE")
            probe.execute("ROLLBACK")
            self._cache = diskcache.Cache(str(folder), timeout=timeout, disk=_Disk, **_SETTINGS)
            if not probe.execute("SELECT 1 FROM sqlite_master WHERE name = 'Usage_delete'").fetchone():
                probe.executescript(_USAGE)
        self._inode = self._path.stat().st_ino

    @property
    def _sql(self) -> Any:
        """Execute a statement on this thread's connection."""
        return self._cache._sql  # noqa: SLF001

    def intact(self) -> bool:
        """Whether the open file is still the one at its path."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def volume(self) -> int:
        """Return the bytes of values and index together."""
        return int(self._cache.volume())

    def close(self) -> None:
        """Close this thread's connection."""
        self._cache.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the write lock. Raises what went wrong, not what diskcache raises while handling it."""
        try:
            with self._cache.transact():
                yield
        except diskcache.Timeout as error:  # raised for whatever kept the transaction from beginning
            raise error.__context__ or error from None
        except sqlite3.OperationalError as error:  # the rollback of what SQLite had rolled back itself
            if error.sqlite_errorcode == sqlite3.SQLITE_ERROR and error.__context__:
                raise error.__context__ from None
            raise

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Row]:
        """Return the rows of those keys that have one."""
        found: dict[bytes, Row] = {}
        for start in range(0, len(keys), _FIND_LIMIT):
            part: list[bytes | None] = [*keys[start : start + _FIND_LIMIT]]
            # In powers of two, so that few statements are prepared: 9 to 16 µs each. NULL equals no key.
            part += [None] * ((1 << (len(part) - 1).bit_length()) - len(part))
            marks = ",".join("?" * len(part))
            rows = self._sql(f"SELECT key, filename, value, size FROM Cache WHERE raw = 1 AND key IN ({marks})", part)  # noqa: S608
            found.update((key, Row(*columns)) for key, *columns in rows)
        return found

    def fetch(self, row: Row, room: NDArray[np.uint8] | None = None) -> memoryview:
        """Return a row's value; a file is read into `room` if that is given and large enough.

        Raises:
            CorruptEntryError: the store cannot have written the row.
            OSError: the file cannot be read.
        """
        if row.filename is None and type(row.value) is bytes:
            return memoryview(row.value)
        if type(row.filename) is str and _FILENAME.fullmatch(row.filename):
            return read_file(f"{self._folder}/{row.filename}", room)
        raise CorruptEntryError("the row names no value")

    def place(self, key: Key, header: bytes, content: memoryview) -> Placed:
        """Write an entry's value, ahead of its row; `write` or `discard` must follow.

        Raises:
            OSError: it cannot be written whole.
        """
        if len(header) + len(content) <= INLINE_BYTES:
            return Placed(0, _RAW_MODE, None, header + content)
        # The name ends in random digits, so that replacing an entry does not touch the file that a reader has open.
        name = bytes(key).hex()
        filename = f"{name[2:4]}/{name}-{os.urandom(6).hex()}.val"
        return Placed(write_file(self._folder / filename, header, content), _RAW_MODE, filename, None)

    def write(self, entry: Entry, placed: Placed) -> None:
        """Write the row of an entry whose value was placed; call it within a transaction."""
        self._cache.set(bytes(entry.key), placed, expire=entry.expires_at - time.time(), tag=entry.tag)

    def discard(self, placed: Placed) -> None:
        """Remove a placed value that gets no row."""
        self._cache.disk.remove(placed.filename)

    def forget(self, key: bytes, row: Row) -> None:
        """Remove a row without a valid value. Keeps the file that it names, which may belong to another row."""
        self._sql("DELETE FROM Cache WHERE key = ? AND raw = 1 AND filename IS ?", (key, row.filename))

    def take(self, where: str, values: Sequence[Any] = (), order: str = "rowid", limit: int = _BATCH) -> Counter[Kind]:
        """Remove up to `limit` entries and their files; return how many of each kind."""
        with self.transaction():
            select = f"SELECT rowid, key, filename FROM Cache WHERE {where} ORDER BY {order} LIMIT ?"  # noqa: S608
            rows = self._sql(select, (*values, limit)).fetchall()
            for rowid, _, _ in rows:
                self._sql("DELETE FROM Cache WHERE rowid = ?", (rowid,))
        for _, _, filename in rows:
            self._cache.disk.remove(filename)
        return Counter(_KINDS.get(key[:1], Kind.RESULT) for _, key, _ in rows)

    def take_oldest(self) -> Counter[Kind]:
        """Remove a few of the oldest entries."""
        return self.take("1", order="store_time", limit=10)

    def take_expired(self, now: float) -> Counter[Kind]:
        """Remove expired entries, a bounded number."""
        return self.take("expire_time < ?", (now,), order="expire_time")

    def take_all(self, where: str, values: Sequence[Any]) -> Counter[Kind]:
        """Remove every entry that meets a condition, and overwrite its row; `truncate_wal` must follow."""
        self._sql("PRAGMA secure_delete = ON")
        taken: Counter[Kind] = Counter()
        while part := self.take(where, values):
            taken += part
        return taken

    def truncate_wal(self) -> None:
        """Move the WAL into the database and empty it, so that it holds no removed rows.

        Raises:
            OSError: (EBUSY) another process reads or writes the index.
        """
        ((busy, *_),) = self._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise OSError(errno.EBUSY, "the index's WAL is in use")

    def usage(self) -> dict[Kind, Usage]:
        """Return entries and bytes on disk by kind."""
        rows = self._sql("SELECT kind, entries, bytes FROM Usage").fetchall()
        return {_KINDS[kind]: Usage(entries, nbytes) for kind, entries, nbytes in rows if kind in _KINDS}

    def check(self, sealing_key: bytes, *, fix: bool) -> Iterator[Report]:
        """Let SQLite check its structure, read every entry, and look for files without a row; `fix` removes them.

        Yields what was found so far; the last report is finished, unless some values could not be read.
        """
        now = time.time()
        valid = invalid = unread = orphans = 0
        sound = self._sql("PRAGMA quick_check(1)").fetchall() == [("ok",)]
        yield Report(valid, invalid, orphans, sound)
        for key, row in self._rows():
            try:
                verdict = self._is_valid(key, row, now, sealing_key)
            except OSError:  # e.g. too many open files: the value may be valid
                unread += 1
                continue
            valid += verdict is True
            invalid += verdict is False
            yield Report(valid, invalid, orphans, sound)
            if fix and verdict is False:
                patiently(WRITE_PATIENCE, partial(self.forget, key, row))
        for part in range(FANOUT):
            orphans += self.sweep(part, now, fix=fix)
            yield Report(valid, invalid, orphans, sound)
        if fix:
            patiently(WRITE_PATIENCE, self.recount)
        yield Report(valid, invalid, orphans, sound, finished=not unread)

    def _is_valid(self, key: bytes, row: Row, now: float, sealing_key: bytes) -> bool | None:
        """Whether a row has a valid value; None if the row was removed or replaced meanwhile.

        Raises:
            OSError: the value cannot be read now.
        """
        try:
            decode(self.fetch(row), Key(Kind(key[:1]), key[1:]), now, sealing_key)
        except ExpiredEntryError:
            return True
        except FileNotFoundError:
            now_there = self.find([key]).get(key)
            return False if now_there and now_there.filename == row.filename else None
        except ValueError:  # EntryError is a ValueError; so is a kind that does not exist
            return False
        return True

    def sweep(self, part: int, now: float, *, fix: bool = True) -> int:
        """Count files without a row, such as a killed writer's, in one of the `FANOUT` folders; `fix` removes them."""
        orphans = 0
        with contextlib.suppress(OSError), os.scandir(self._folder / f"{part:02x}") as files:
            for file in files:
                with contextlib.suppress(OSError):  # removed meanwhile, or not a file of the store
                    old = file.stat(follow_symlinks=False).st_mtime < now - ORPHAN_AGE
                    if old and not self._names(f"{part:02x}/{file.name}"):
                        orphans += 1
                        if fix:
                            os.unlink(file.path)  # noqa: PTH108 (scandir's own path)
        return orphans

    def _names(self, filename: str) -> bool:
        """Whether a row names a file."""
        match = _FILENAME.fullmatch(filename)
        select = "SELECT 1 FROM Cache WHERE key = ? AND raw = 1 AND filename = ?"
        return match is not None and self._sql(select, (bytes.fromhex(match[1]), filename)).fetchone() is not None

    def _rows(self) -> Iterator[tuple[bytes, Row]]:
        """Iterate over all rows, holding no lock between batches."""
        select = "SELECT rowid, key, filename, value FROM Cache WHERE rowid > ? ORDER BY rowid LIMIT ?"
        last = 0
        while batch := self._sql(select, (last, _BATCH)).fetchall():
            yield from ((key, Row(filename, value)) for _, key, filename, value in batch)
            last = batch[-1][0]

    def is_miscounted(self) -> bool:
        """Whether the recorded size of all files contradicts that of all entries, by more than the index's own size."""
        select = """
            SELECT value BETWEEN total - page_count * page_size AND total
            FROM Settings, (SELECT SUM(bytes) AS total FROM Usage), pragma_page_count, pragma_page_size
            WHERE Settings.key = 'size'
        """
        return bool(self._sql(select).fetchall() != [(1,)])

    def recount(self) -> None:
        """Recompute the sums that the triggers maintain."""
        with self.transaction():
            size = _BYTES.format("Cache")
            for kind in _KINDS:
                where = "WHERE substr(key, 1, 1) = :kind"
                self._sql(
                    f"UPDATE Usage SET entries = (SELECT COUNT(*) FROM Cache {where}),"  # noqa: S608
                    f" bytes = (SELECT COALESCE(SUM({size}), 0) FROM Cache {where}) WHERE kind = :kind",
                    {"kind": kind},
                )
            self._sql('UPDATE Settings SET value = (SELECT COUNT(*) FROM Cache) WHERE key = "count"')
            self._sql('UPDATE Settings SET value = (SELECT COALESCE(SUM(size), 0) FROM Cache) WHERE key = "size"')


def patiently(patience: float, action: Callable[[], Result]) -> Result:
    """Run an action that needs the index's write lock, retrying up to `patience` seconds while it is locked."""
    end = time.monotonic() + patience
    while True:
        try:
            return action()
        except Exception as error:
            if classify(error) is not Fault.LOCKED or time.monotonic() >= end:
                raise
        time.sleep(0.002)
