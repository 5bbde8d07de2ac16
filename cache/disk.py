"""Values in files: one write each, one read each, no pickles."""

import errno
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, NamedTuple

import diskcache  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from cache.errors import CorruptEntryError

MODE = 1  # diskcache's "raw", for every row; the mode in a row is ignored
INLINE_BYTES = 16_384  # smaller values are stored in the index: a pooled vector needs no file
MAX_VALUE_BYTES = 1 << 30
_FILENAME = re.compile(r"[0-9a-f]{2}/([0-9a-f]{66})-[0-9a-f]{12}\.val", re.ASCII)


class Placed(NamedTuple):
    """A value's columns in its row: it lies in a file, or in the row itself."""

    size: int  # of the file
    mode: int
    filename: str | None
    value: bytes | None


class Slab:
    """One buffer for values that are read together.

    A fresh process pays for each page that it touches first: 72 states of 393 kB in arrays of their own are 7,000 page
    faults, 12 ms of CPU time. NumPy asks for huge pages from 4 MiB on: in one array they take 2 ms.
    Safe between threads.
    """

    MIN_BYTES, MAX_BYTES = 4 << 20, 64 << 20

    def __init__(self, nbytes: int) -> None:
        self._buffer = np.empty(min(nbytes, self.MAX_BYTES), np.uint8)
        self._used = 0
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> NDArray[np.uint8] | None:
        """Return room for one value, aligned to cache lines, or None when there is none left."""
        with self._lock:
            start = -(-self._used // 64) * 64
            if start + nbytes > self._buffer.nbytes:
                return None
            self._used = start + nbytes
        return self._buffer[start : start + nbytes]


class PlainDisk(diskcache.Disk):  # type: ignore[misc]
    """How diskcache stores keys and values.

    The base class writes values line by line (0.9 ms for 393 kB, against 0.16 ms in one call) and unpickles whatever a
    row declares a pickle, which would let anyone who can write to the folder run code.
    """

    def put(self, key: Any) -> tuple[bytes, bool]:
        """Return a key unchanged."""
        if type(key) is not bytes:
            raise TypeError(f"a key is bytes, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: Any) -> bytes:  # noqa: ARG002 (the base class would unpickle if not raw)
        """Return a row's key as bytes."""
        return bytes(key)

    def place(self, key: bytes, header: bytes, content: memoryview) -> Placed:
        """Write a value, ahead of its row.

        Raises:
            OSError: the file cannot be written whole; nothing of it is left.
        """
        if len(header) + len(content) <= INLINE_BYTES:
            return Placed(0, MODE, None, header + content)
        # The name ends in random digits, so that replacing an entry does not touch the file that a reader has open.
        filename = f"{key[1]:02x}/{key.hex()}-{os.urandom(6).hex()}.val"
        return Placed(_write(Path(self._directory, filename), header, content), MODE, filename, None)

    def store(self, value: Placed, read: Any, key: Any = None) -> Placed:  # noqa: ARG002
        """Return a value's columns: `place` has written it."""
        return value

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> memoryview:  # noqa: ARG002
        """Return a value's bytes, whatever the row says of its mode."""
        return self.load(filename, value)

    def load(self, filename: Any, value: Any, slab: Slab | None = None) -> memoryview:
        """Return a value's bytes, from the row or from the file that it names; read into the slab if one is given.

        Raises:
            CorruptEntryError: the row cannot be one of ours.
            OSError: the file cannot be read.
        """
        if filename is None and type(value) is bytes:
            return memoryview(value)
        if type(filename) is str and _FILENAME.fullmatch(filename):
            return _read(f"{self._directory}/{filename}", slab)
        raise CorruptEntryError("the row names no value")

    def remove(self, file_path: Any) -> None:
        """Remove a value's file if the name has our form. Folders stay, so that writers need no retry."""
        if type(file_path) is str and _FILENAME.fullmatch(file_path):
            Path(self._directory, file_path).unlink(missing_ok=True)


def key_of(filename: str) -> bytes | None:
    """Return the key in a file's name, or None if the name does not have our form."""
    match = _FILENAME.fullmatch(filename)
    return bytes.fromhex(match[1]) if match else None


def _write(path: Path, header: bytes, content: memoryview) -> int:
    """Write a new file, readable by the owner alone, in one call; return its size."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    size, written = len(header) + len(content), 0
    try:
        written = os.writev(descriptor, (header, content))
    finally:
        os.close(descriptor)
        if written != size:
            path.unlink(missing_ok=True)
    if written != size:  # a nearly full disk accepts only a part
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return size


def _read(path: str, slab: Slab | None) -> memoryview:
    """Read a file whole into memory of its own.

    Not mapped: truncating a mapped file kills the process that reads it (SIGBUS).
    """
    # Non-blocking and without following links: a FIFO in the place of a file must not hang the reader.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_VALUE_BYTES:
            raise CorruptEntryError("not a file of ours")
        buffer = slab.take(status.st_size) if slab else None
        if buffer is None:
            buffer = np.empty(status.st_size, np.uint8)
        size = os.readv(descriptor, (buffer.data,))
    finally:
        os.close(descriptor)
    return buffer.data[:size]
