"""What an error of the disk or the index means."""

import errno
import sqlite3

import diskcache  # type: ignore[import-untyped]

from cache.counters import Fault

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
# SQLite's result codes; the low byte is the primary one.
_PRIMARY = {
    sqlite3.SQLITE_BUSY: Fault.LOCKED,
    sqlite3.SQLITE_LOCKED: Fault.LOCKED,
    sqlite3.SQLITE_PROTOCOL: Fault.LOCKED,
    sqlite3.SQLITE_FULL: Fault.DISK_FULL,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: Fault.IO_ERROR,
}
# A write that failed says nothing against what is there. Other input/output errors do: a truncated file reads short.
_WRITE_ERRORS = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_SHMSIZE,
}


# The causes that diskcache hides behind an error of its own while it handles them.
_CAUSES = (OSError, sqlite3.Error, diskcache.Timeout)


def classify(error: BaseException) -> Fault:
    """Name the fault behind an error that the file system, SQLite or diskcache raised."""
    cause = error.__context__ if isinstance(error.__context__, _CAUSES) else None
    if isinstance(error, diskcache.Timeout):  # raised for whatever kept a transaction from beginning
        return classify(cause) if cause else Fault.LOCKED
    if isinstance(error, sqlite3.Error):
        # None: a column that is not UTF-8.
        code: int = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_CORRUPT
        if code == sqlite3.SQLITE_ERROR and cause:  # a rollback of what SQLite had rolled back itself
            return classify(cause)
        return Fault.IO_ERROR if code in _WRITE_ERRORS else _PRIMARY.get(code & 0xFF, Fault.CORRUPT_INDEX)
    if isinstance(error, OSError):
        known = Fault.DISK_FULL if error.errno in _FULL else Fault.READ_ONLY if error.errno in _READ_ONLY else None
        return known or Fault.IO_ERROR
    # Whatever else comes out of reading rows (a TypeError in diskcache's sums, say): they are not what was written.
    return Fault.IO_ERROR if isinstance(error, MemoryError) else Fault.CORRUPT_INDEX
