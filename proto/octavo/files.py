"""Atomic replacement of files that commands write."""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

NEW_FILE = 0o666  # before the umask
PRIVATE = 0o600


@contextlib.contextmanager
def replacing(path: Path, *, new: int = NEW_FILE, sync: bool = False) -> Iterator[BinaryIO]:
    """Open a draft that replaces `path` once complete; on errors `path` does not change.

    Links are followed, and an existing file keeps its mode, owner and hard links. Anything but a regular file, such as
    a device or FIFO, is written to directly.

    Args:
        path: the file to write.
        new: mode of a new file.
        sync: flush the content to disk before replacing the file.
    """
    target = path.resolve()
    before = _status(path)
    if before and not (stat.S_ISREG(before.st_mode) and target.exists() and target.samefile(path)):
        with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC), "wb") as file:  # noqa: PTH123
            yield file
        return
    if before and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    draft = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(draft, flags, PRIVATE if before else new)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            yield file
            if sync:
                file.flush()
                os.fsync(descriptor)
        _replace(target, draft, before)
    finally:
        draft.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _replace(target: Path, draft: Path, before: os.stat_result | None) -> None:
    """Rename the draft, or copy its content if a rename would lose the owner or hard links."""
    if before is None or (before.st_nlink == 1 and _resembles(draft, before)):
        draft.replace(target)
        return
    with draft.open("rb") as source, target.open("r+b") as file:
        shutil.copyfileobj(source, file)
        file.truncate()


def _resembles(draft: Path, before: os.stat_result) -> bool:
    """Give the draft the mode and owner of the file it replaces; False if not permitted."""
    now = draft.stat()
    try:
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            os.chown(draft, before.st_uid, before.st_gid)
    except PermissionError:
        return False
    draft.chmod(stat.S_IMODE(before.st_mode))  # after chown, which clears set-user-ID
    return True
