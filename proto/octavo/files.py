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

    Links are followed, and an existing file keeps its mode, owner and hard links. Where that takes a copy and the copy
    fails, the draft stays and the error names it. Anything but a regular file, such as a device or FIFO, is written to
    directly.

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
        in_place = before is not None and not (before.st_nlink == 1 and _resembles(draft, before))
        if in_place:
            _reserve(target, draft.stat().st_size)
        else:
            draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if in_place:
        _copy(draft, target)
        draft.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _reserve(target: Path, size: int) -> None:
    """Allocate the space for content of this size, so that a full disk leaves the file as it was."""
    if not hasattr(os, "posix_fallocate"):
        return
    with target.open("r+b") as file:
        before = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            file.truncate(before)
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # not supported here, or size is 0
                raise


def _copy(draft: Path, target: Path) -> None:
    """Copy the draft's content where a rename would lose the owner or hard links. The draft stays if that fails."""
    try:
        with draft.open("rb") as source, target.open("r+b") as file:
            shutil.copyfileobj(source, file)
            file.truncate()
    except OSError as error:
        reason = f"{error.strerror or error}; the new content is in {draft}"
        raise OSError(error.errno, reason, str(target)) from error


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
