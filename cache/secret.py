"""The deployment's secret. It keys all digests of texts that leave memory, and authenticates entries.

A file of at least 64 hexadecimal digits (32 bytes) that only its owner may read. It is created once, atomically, and
never in the cache folder, so that a copy of the cache does not include it.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cache.errors import SecretError
from cache.key import MIN_SECRET_BYTES


def load_secret(path: Path, cache_folder: Path | None = None, *, create: bool = True) -> bytes:
    """Return the secret, created if there is none. Processes that start together agree on one.

    Raises:
        SecretError: it lies in the cache folder, is readable by others, belongs to somebody else, is malformed, or can
            be neither read nor created. The message never contains it.
    """
    if cache_folder is not None and path.resolve().is_relative_to(cache_folder.resolve()):
        raise SecretError(f"the secret {path} must not lie in the cache folder {cache_folder}")
    try:
        if create and not path.exists():
            _create(path)
        return _read(path)
    except OSError as error:
        raise SecretError(f"the secret {path} cannot be used: {error.strerror}") from error


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w") as file:  # noqa: PTH123 (a descriptor, for its mode)
            file.write(secrets.token_hex(MIN_SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(descriptor)
        # A link appears whole or not at all, and never over a file that another process made first.
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(draft)
    finally:
        draft.unlink()


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise SecretError(f"others may read or write the secret {path}: chmod 600 it, or make a new one")
        if status.st_uid not in (os.geteuid(), 0):
            raise SecretError(f"the secret {path} belongs to another user")
        text = file.read(4096)
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) < MIN_SECRET_BYTES:
        raise SecretError(f"the secret {path} must be at least {2 * MIN_SECRET_BYTES} hexadecimal digits")
    return secret
