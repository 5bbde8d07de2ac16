"""The cache folder: its settings, the processes that share it, their purges, and the generations of the index.

    settings.json        the settings that all processes in the folder share
    ledger               purges, and the lock that tells whether a process is alone
    generation-1/        cache.db, its WAL and shared memory, and the values: ab/<key>-<random>.val

The ledger is an append-only file of fixed-size records. A purge appends its selector *before* it deletes. Every process
compares the file's size with what it has read, at each look-up (one `fstat`, under a microsecond) and again under the
index's write lock before each write. So a queued entry is either written before the purge deletes, and is deleted, or
is written after the record was appended, and is dropped.

A broken index is never repaired, renamed or deleted in place: other processes may have it open, and SQLite would mix an
old journal with a new file. Instead the next generation begins, and the old one is removed.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cache.errors import (
    Fault,
    ForeignFolderError,
    InvalidSettingError,
    SettingsConflictError,
    UntrustedFolderError,
    may_be_damage,
)
from cache.index import DATABASE, Index
from cache.tag import RECORD_BYTES, Selector

MIB = 1 << 20
GIB = 1 << 30
DAY = 86_400.0

SHARED_SETTINGS = ("size_limit", "min_free_bytes", "time_to_live")
"""Belong to the folder: processes that share it must agree on them."""

LEDGER = "ledger"
SETTINGS = "settings.json"
_GENERATION = re.compile(r"generation-(\d{1,9})", re.ASCII)
_OURS = re.compile(rf"{LEDGER}|{re.escape(SETTINGS)}(\.\w+)?|{_GENERATION.pattern}|lost\+found", re.ASCII)
_OF_GENERATION = re.compile(rf"{re.escape(DATABASE)}(-\w+)?|[0-9a-f]{{2}}", re.ASCII)

EVERYTHING = Selector()
KEPT_PURGES = 1024
MOST_UNREAD_BYTES = MIB  # of the ledger; more reads as a purge of everything


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where the store lives and how much it may take.

    Sizes are in bytes, times in seconds.
    """

    folder: Path
    size_limit: int = 4 * GIB  # values and index together; the oldest entries are evicted first
    min_free_bytes: int = GIB  # of the file system: below it the store shrinks
    time_to_live: float = 30 * DAY
    memory_bytes: int = 256 * MIB  # of this process; 0: no memory tier
    queue_bytes: int = 64 * MIB  # waiting to be written; entries that do not fit are dropped
    lock_timeout: float = 0.05  # how long a look-up waits for the index before it is a miss

    def __post_init__(self) -> None:
        for name, least in (
            ("size_limit", MIB),
            ("min_free_bytes", 0),
            ("memory_bytes", 0),
            ("queue_bytes", 0),
            ("lock_timeout", 0.0),
        ):
            if not getattr(self, name) >= least:
                raise InvalidSettingError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not self.time_to_live > 0:
            raise InvalidSettingError(f"time_to_live must be above 0, not {self.time_to_live}")


def is_cache(folder: Path) -> bool:
    """Tell whether a folder exists and holds a store's files, and nothing else."""
    names = set(os.listdir(folder)) if folder.is_dir() else set()  # noqa: PTH208
    return not names.isdisjoint((LEDGER, SETTINGS)) and all(map(_OURS.fullmatch, names))


class Folder:
    """One process's use of the folder. Safe between threads, but only one may `enter` or `leave`.

    `drop` removes what a purge selects from this process's memory and queue.
    """

    def __init__(self, settings: CacheSettings, drop: Callable[[Selector], object]) -> None:
        self._settings = settings
        self._path = settings.folder
        self._drop = drop
        self._ledger: int | None = None
        self._seen = 0  # how many bytes of the ledger this process has read
        self._left: list[int] = []  # ledgers of deleted folders: other threads may still use them
        self._lock = threading.Lock()
        self._purges: deque[Selector] = deque(maxlen=KEPT_PURGES)  # the last ones noticed
        self.position = 0  # how many purges were noticed
        self._broken = 0  # the newest generation known to be broken
        self._tried = False  # to enter

    # Sharing.

    @property
    def entered(self) -> bool:
        """Whether this process is among the folder's users."""
        return self._ledger is not None

    def enter(self) -> None:
        """Join the processes that use the folder, creating it if needed.

        Purges before that could not be noticed, so entering later than at the first attempt reads as a purge of
        everything.

        Raises:
            ForeignFolderError: it holds other things.
            UntrustedFolderError: other users may write to it.
            SettingsConflictError: a live process uses it under other settings.
            OSError: it cannot be written.
        """
        again, self._tried = self._tried, True
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_trust(self._path)
        if not is_cache(self._path) and set(os.listdir(self._path)) - {"lost+found"}:  # noqa: PTH208
            raise ForeignFolderError(f"{self._path} is neither empty nor a cache; choose another folder")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        ledger = os.open(self._path / LEDGER, flags, 0o600)
        try:
            if _is_alone(ledger):
                os.ftruncate(ledger, 0)
                _write_settings(self._settings)
            fcntl.flock(ledger, fcntl.LOCK_SH)
            seen = os.fstat(ledger).st_size
            _compare_settings(self._settings)
        except BaseException:
            os.close(ledger)
            raise
        with self._lock:
            self._ledger, self._seen, self._broken = ledger, seen, 0
            if again:
                self._apply([EVERYTHING])

    def leave_if_deleted(self) -> bool:
        """Leave the folder if its ledger was deleted, moved or replaced; reads as a purge of everything."""
        with self._lock:
            if self._ledger is None or self._is_in_place(self._ledger):
                return False
            self._left.append(self._ledger)
            self._ledger = None
            self._apply([EVERYTHING])
            return True

    def _is_in_place(self, ledger: int) -> bool:
        try:
            return os.path.samestat(os.stat(self._path / LEDGER), os.fstat(ledger))  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return False

    def leave(self) -> None:
        """Leave the folder for good."""
        if self._ledger is not None:
            self._left.append(self._ledger)
            self._ledger = None
        while self._left:
            os.close(self._left.pop())

    # Purges.

    def announce(self, selector: Selector) -> None:
        """Tell all processes to drop the selected entries.

        Raises:
            OSError: the record cannot be written, or the folder was not entered.
        """
        if self._ledger is None:
            raise OSError("the folder is out of use")
        record = selector.pack()
        if os.write(self._ledger, record) != len(record):
            raise OSError("the ledger's record was cut short")

    def notice(self) -> bool:
        """Apply the purges announced since the last call; false, in under a microsecond, when there are none.

        A damaged or shortened ledger reads as a purge of everything. No caller proceeds before all is applied.
        """
        ledger = self._ledger
        if ledger is None or os.fstat(ledger).st_size == self._seen:
            return False
        with self._lock:
            if self._ledger is not None:  # and not left meanwhile
                size = os.fstat(self._ledger).st_size
                self._apply(self._read_purges(self._ledger, size))
                self._seen = size
        return True

    def since(self, position: int) -> list[Selector]:
        """Return the purges noticed after a position; more than are kept reads as a purge of everything."""
        if position == self.position:
            return []
        with self._lock:
            count = self.position - position
            return list(self._purges)[-count:] if count <= len(self._purges) else [EVERYTHING]

    def _apply(self, purges: list[Selector]) -> None:
        # The position moves first: an entry that a thread stores in memory meanwhile is found either here, or by that
        # thread's `since`.
        self._purges.extend(purges)
        self.position += len(purges)
        for selector in purges:
            self._drop(selector)

    def _read_purges(self, ledger: int, size: int) -> list[Selector]:
        if size == self._seen:
            return []
        if size - self._seen > MOST_UNREAD_BYTES:
            return [EVERYTHING]
        try:
            content = os.pread(ledger, size - self._seen, self._seen)
            return [Selector.unpack(content[at : at + RECORD_BYTES]) for at in range(0, len(content), RECORD_BYTES)]
        except (ValueError, OSError):  # a record is damaged; the file is shorter than it was, or cannot be read
            return [EVERYTHING]

    # Generations.

    def is_newest(self, index: Index) -> bool:
        """Whether no process has begun a later generation, and this one's folder still exists."""
        return self._generations()[-1:] == [index.generation]

    def abandon(self, index: Index) -> None:
        """Never open this generation again."""
        self._broken = max(self._broken, index.generation)

    def open_index(self, report: Callable[[BaseException, Fault], None]) -> Index:
        """Open the newest generation that is not abandoned, or begin the next when it is damaged.

        Raises:
            OSError, sqlite3.Error, MemoryError: the folder cannot be written, is full, the index stays locked, or
                descriptors or memory ran out.
        """
        newest = max([1, self._broken + 1, *self._generations()])
        try:
            return self._open_generation(newest)
        except Exception as error:
            if not may_be_damage(error):
                raise
            report(error, Fault.CORRUPT_INDEX)
        return self._open_generation(newest + 1)

    def remove_older(self, index: Index) -> None:
        """Remove the generations before the index's; a folder that holds anything else stays."""
        for generation in self._generations():
            place = self._place(generation)
            with contextlib.suppress(OSError):  # another process removes it
                if generation < index.generation and all(map(_OF_GENERATION.fullmatch, os.listdir(place))):  # noqa: PTH208
                    shutil.rmtree(place, ignore_errors=True)

    def _generations(self) -> list[int]:
        matches = (_GENERATION.fullmatch(name) for name in os.listdir(self._path))  # noqa: PTH208
        return sorted(int(match[1]) for match in matches if match)

    def _open_generation(self, generation: int) -> Index:
        place = self._place(generation)
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            return Index(place, generation, self._settings.lock_timeout)
        try:
            return Index(place, generation, self._settings.lock_timeout)
        except BaseException:
            # An empty generation must not stay: all processes would leave the one before. Needs no descriptor.
            with contextlib.suppress(OSError):
                for suffix in ("", "-wal", "-shm", "-journal"):
                    (place / f"{DATABASE}{suffix}").unlink(missing_ok=True)
                place.rmdir()
            raise

    def _place(self, generation: int) -> Path:
        return self._path / f"generation-{generation}"


def _check_trust(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise UntrustedFolderError(f"the cache folder {folder} belongs to another user; choose another folder")
    if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedFolderError(f"other users may write to the cache folder {folder}: chmod go-w it")


def _is_alone(ledger: int) -> bool:
    """Lock the folder exclusively, if nobody else uses it (flock(2): the lock ends with the process)."""
    try:
        fcntl.flock(ledger, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_settings(settings: CacheSettings) -> None:
    content = json.dumps({name: getattr(settings, name) for name in SHARED_SETTINGS}, indent=2)
    with contextlib.suppress(OSError, ValueError):
        if (settings.folder / SETTINGS).read_text() == content:
            return
    draft = settings.folder / f"{SETTINGS}.draft"  # written only while alone in the folder
    draft.unlink(missing_ok=True)
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:  # noqa: PTH123
        file.write(content)
    draft.replace(settings.folder / SETTINGS)


def _compare_settings(settings: CacheSettings) -> None:
    try:
        theirs = json.loads((settings.folder / SETTINGS).read_text())
        differing = [name for name in SHARED_SETTINGS if theirs[name] != getattr(settings, name)]
    except (ValueError, LookupError, TypeError, FileNotFoundError):
        return  # damaged while in use: there is nothing to compare, and no answer depends on it
    if differing:
        told = "; ".join(f"{name} is {theirs[name]} there and {getattr(settings, name)} here" for name in differing)
        raise SettingsConflictError(f"another process uses the cache in {settings.folder} under other settings: {told}")
