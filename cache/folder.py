"""The folder: its layout, the processes that share it, and the current generation of the index.

    settings.json        what all processes in the folder agree on
    ledger               see `cache.ledger`
    generation-1/        cache.db, its WAL and shared memory, and the values: ab/<key>-<chance>.val

A broken index is never repaired, renamed or deleted in place: other processes may have it open, and SQLite would mix an
old journal with a new file. Instead the next generation begins, and the old one is removed.
"""

import contextlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from cache.counters import Fault
from cache.errors import ForeignFolderError, SettingsConflictError, UntrustedFolderError
from cache.faults import classify
from cache.index import Index
from cache.ledger import Ledger
from cache.settings import SHARED_SETTINGS, CacheSettings

LEDGER = "ledger"
SETTINGS = "settings.json"
_GENERATION = re.compile(r"generation-(\d{1,9})", re.ASCII)
_OURS = re.compile(rf"{LEDGER}|{re.escape(SETTINGS)}(\.\w+)?|{_GENERATION.pattern}|lost\+found", re.ASCII)


def enter(settings: CacheSettings) -> Ledger:
    """Join the processes that use the folder, creating it if needed.

    Raises:
        ForeignFolderError: it holds other things.
        UntrustedFolderError: other users may write to it.
        SettingsConflictError: a live process uses it under other settings.
        OSError: it cannot be written.
    """
    settings.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_trust(settings.folder)
    if any(settings.folder.iterdir()) and not is_cache(settings.folder):
        raise ForeignFolderError(f"{settings.folder} is neither empty nor a cache; choose another folder")
    ledger = Ledger(settings.folder / LEDGER)
    try:
        if ledger.claim():
            _write_settings(settings)
        ledger.share()
        _compare_settings(settings)
    except BaseException:
        ledger.close()
        raise
    return ledger


def is_cache(folder: Path) -> bool:
    """Tell whether a folder exists and holds a store's files."""
    return folder.is_dir() and any(_OURS.fullmatch(path.name) for path in folder.iterdir())


def generations(folder: Path) -> list[int]:
    """Return the generations that exist, in order."""
    matches = (_GENERATION.fullmatch(name) for name in os.listdir(folder))  # noqa: PTH208
    return sorted(int(match[1]) for match in matches if match)


def open_index(settings: CacheSettings, broken: int, report: Callable[[BaseException, Fault], None]) -> Index:
    """Open the newest generation above `broken`, or begin the next when it cannot be read.

    Raises:
        OSError, sqlite3.Error: the folder cannot be written, is full, or the index stays locked.
    """
    newest = max([1, broken + 1, *generations(settings.folder)])
    try:
        return _open_generation(settings, newest)
    except Exception as error:
        # diskcache trusts what it reads, so a damaged index may raise anything. A lock or a full or read-only disk says
        # nothing about the index.
        if classify(error) in (Fault.LOCKED, Fault.DISK_FULL, Fault.READ_ONLY):
            raise
        report(error, Fault.CORRUPT_INDEX)
    return _open_generation(settings, newest + 1)


def remove_older(folder: Path, current: int) -> None:
    """Remove the generations before the current one."""
    for generation in generations(folder):
        if generation < current:
            shutil.rmtree(_place(folder, generation), ignore_errors=True)


def _check_trust(folder: Path) -> None:
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise UntrustedFolderError(f"the cache folder {folder} belongs to another user; choose another folder")
    if stat.S_IMODE(status.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise UntrustedFolderError(f"other users may write to the cache folder {folder}: chmod go-w it")


def _open_generation(settings: CacheSettings, generation: int) -> Index:
    place = _place(settings.folder, generation)
    place.mkdir(mode=0o700, exist_ok=True)
    return Index(place, generation, settings.size_limit, settings.lock_timeout)


def _place(folder: Path, generation: int) -> Path:
    return folder / f"generation-{generation}"


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
