"""What can go wrong: errors that a caller may see, and faults of the disk, which become misses.

An `EntryError` never reaches a caller: a stored value that must not be used is a miss.
"""

import errno
import sqlite3
from enum import StrEnum


class CacheError(Exception):
    """The base of this package's errors."""


class InvalidSettingError(CacheError, ValueError):
    """A setting is out of range; the message starts with its name."""


class SettingsConflictError(CacheError):
    """Another live process shares the folder under other settings; the message names them."""


class ForeignFolderError(CacheError):
    """The folder holds files that are not the store's, so the store does not use it."""


class UntrustedFolderError(CacheError):
    """Other users may write to the folder, or own it; the message says what to do."""


class SecretError(CacheError):
    """The deployment's secret cannot be trusted or read."""


class PurgeIncompleteError(CacheError):
    """Entries may remain on the disk; purge again when it can be written."""


class EntryError(CacheError, ValueError):
    """A stored value must not be used."""


class CorruptEntryError(EntryError):
    """The bytes are not those that were stored under this key."""


class OldFormatError(EntryError):
    """The value was written in another version of the format."""


class ExpiredEntryError(EntryError):
    """The value has expired."""


class Fault(StrEnum):
    """What can be wrong with the disk. The store keeps answering, with misses."""

    CORRUPT_ENTRY = "corrupt_entry"
    CORRUPT_INDEX = "corrupt_index"
    OLD_FORMAT = "old_format"
    DISK_FULL = "disk_full"
    READ_ONLY = "read_only"
    LOCKED = "locked"
    IO_ERROR = "io_error"


_ERRNOS = {
    errno.ENOSPC: Fault.DISK_FULL,
    errno.EDQUOT: Fault.DISK_FULL,
    errno.EFBIG: Fault.DISK_FULL,
    errno.EROFS: Fault.READ_ONLY,
    errno.EACCES: Fault.READ_ONLY,
    errno.EPERM: Fault.READ_ONLY,
    errno.EBUSY: Fault.LOCKED,
}
# SQLite's result codes; the low byte is the primary one.
_PRIMARY_CODES = {
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Fault.LOCKED,
    sqlite3.SQLITE_FULL: Fault.DISK_FULL,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Fault.IO_ERROR,
}
# A failed write or a lack of memory says nothing about the data on disk. Other input/output errors do: a truncated
# file reads short.
_NOT_DAMAGE = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_IOERR_NOMEM,
}


_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def may_be_damage(error: BaseException) -> bool:
    """Whether an error while opening the index may come from a damaged index; any other may pass by itself."""
    fault = classify(error)
    if fault is Fault.IO_ERROR:  # out of descriptors or memory, or e.g. a folder in the index's place
        return isinstance(error, OSError) and error.errno not in _EXHAUSTED
    return fault not in (Fault.LOCKED, Fault.DISK_FULL, Fault.READ_ONLY)


def classify(error: BaseException) -> Fault:
    """Name the fault behind an error that the file system or the index raised."""
    if isinstance(error, sqlite3.Error):
        # There is no code when a column is not UTF-8.
        code: int = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT
        return Fault.IO_ERROR if code in _NOT_DAMAGE else _PRIMARY_CODES.get(code & 0xFF, Fault.CORRUPT_INDEX)
    if isinstance(error, OSError):
        return _ERRNOS.get(error.errno or 0, Fault.IO_ERROR)
    # diskcache trusts what it reads, so rows that are not what was written may raise anything, such as a TypeError.
    return Fault.IO_ERROR if isinstance(error, MemoryError) else Fault.CORRUPT_INDEX
