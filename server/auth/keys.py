"""Keys that clients authenticate with: their records, and the file that `octavo keys` keeps them in.

A key is `oct_ID_SECRET`: the id finds the record, the secret is 256 random bits. A record holds its salted BLAKE2b
digest. A slow hash such as scrypt protects passwords; a random 256-bit secret cannot be guessed at any speed, and the
digest is computed on every call (2 µs).

    KeysError(ValueError)    the file or a record cannot be used
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from octavo.files import PRIVATE, replacing
from server.config.folders import xdg_folder

ID_CHARACTERS = 12
SECRET_BYTES = 32
SALT_BYTES = 16
FORMAT = 1
SETTLED_NS = 1_000_000_000  # age of a change from which a later one has another timestamp

FileState: TypeAlias = tuple[int, int, int, int, int, int]

_RECORD = re.compile(
    rf"([0-9a-z]{{{ID_CHARACTERS}}}):([0-9a-f]{{{2 * SALT_BYTES}}}):([0-9a-f]{{{2 * SECRET_BYTES}}})(?::(.+))?"
)
_TOKEN = re.compile(rf"oct_([0-9a-z]{{{ID_CHARACTERS}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


class KeysError(ValueError):
    """A keys file or a record cannot be used; the message is one line without secrets."""


@dataclass(frozen=True, slots=True)
class Key:
    """A record, which recognises a key and cannot be used as one.

    Attributes:
        expires: None if it never does.
    """

    id: str
    salt: bytes
    digest: bytes
    expires: datetime | None = None

    @classmethod
    def make(cls, expires: datetime | None = None) -> tuple["Key", str]:
        """A new key: its record, and the token that the client sends, which is not stored."""
        identifier = "".join(secrets.choice(_ALPHABET) for _ in range(ID_CHARACTERS))
        secret, salt = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(SALT_BYTES)
        return cls(identifier, salt, digest(secret, salt), expires), f"oct_{identifier}_{secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> "Key":
        """Read `str(key)`.

        Raises:
            KeysError: it is not a record; the message does not repeat it.
        """
        match = _RECORD.fullmatch(text)
        expires = None
        if match and match[4]:
            with contextlib.suppress(ValueError):
                expires = datetime.fromisoformat(match[4])
        if match is None or (match[4] and (expires is None or expires.tzinfo is None)):
            raise KeysError("a key's record is ID:SALT:DIGEST or ID:SALT:DIGEST:EXPIRES")
        return cls(match[1], bytes.fromhex(match[2]), bytes.fromhex(match[3]), expires)

    def __str__(self) -> str:
        fields = [self.id, self.salt.hex(), self.digest.hex()]
        return ":".join([*fields, self.expires.isoformat()] if self.expires else fields)

    def expired(self, now: datetime) -> bool:
        """Whether the key has expired."""
        return self.expires is not None and self.expires <= now

    def matches(self, secret: bytes) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.digest, digest(secret, self.salt))


def digest(secret: bytes, salt: bytes) -> bytes:
    """The salted digest of a secret."""
    return hashlib.blake2b(secret, digest_size=SECRET_BYTES, salt=salt, person=b"octavo-key").digest()


def split_token(token: str) -> tuple[str, bytes] | None:
    """Split a token into id and secret; None if it is malformed."""
    match = _TOKEN.fullmatch(token)
    return (match[1], bytes.fromhex(match[2])) if match else None


@dataclass(frozen=True, slots=True)
class KeptKey:
    """A key in the file, with its client and its time of creation."""

    key: Key
    client: str
    created: datetime


def default_keys_path(environ: Mapping[str, str] = os.environ) -> Path:
    """`$XDG_STATE_HOME/octavo/keys.json`, by default below `~/.local/state`."""
    return xdg_folder("XDG_STATE_HOME", ".local/state", environ) / "octavo" / "keys.json"


def read_keys(path: Path) -> list[KeptKey]:
    """The keys of a file, in the order in which they were added; none if the file does not exist.

    Raises:
        KeysError: it cannot be read, is malformed, or is writable by others than its owner.
    """
    return read_keys_and_state(path)[0]


def read_keys_and_state(path: Path) -> tuple[list[KeptKey], FileState | None]:
    """The keys of a file, and its state while it has these keys.

    The state is None if the file does not exist, or if it could hold other keys in the same state: it changed during
    the read, or so recently that another write may leave the same timestamps.

    Raises:
        KeysError: as `read_keys`.
    """
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            data = file.read()
            after = os.fstat(file.fileno())
    except FileNotFoundError:
        return [], None
    except OSError as error:
        raise KeysError(f"{path} cannot be read: {error.strerror}") from None
    if stat.S_IMODE(after.st_mode) & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeysError(f"{path} may be written by others than its owner: chmod 600 it")
    settled = state_of(before) == state_of(after) and time.time_ns() - after.st_ctime_ns > SETTLED_NS
    return _parse(path, data), state_of(after) if settled else None


def state_of(found: os.stat_result) -> FileState:
    """What tells one version of a file from another."""
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev, found.st_mode


def _parse(path: Path, data: bytes) -> list[KeptKey]:
    try:
        tree = json.loads(data)
    except ValueError:
        raise KeysError(f"{path} is not JSON") from None
    try:
        if tree["format"] != FORMAT:
            raise KeysError(f"{path} has format {tree['format']!r}; this version reads {FORMAT}")
        return [_kept(row) for row in tree["keys"]]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, KeysError):
            raise
        raise KeysError(f"{path} is not a file of keys") from None


@contextlib.contextmanager
def changing_keys(path: Path) -> Iterator[list[KeptKey]]:
    """The keys as a list to change, written back atomically unless the block raises.

    Raises:
        KeysError: the file cannot be read or written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_fifo():  # reading it would wait for ever
            raise KeysError(f"{path} is a FIFO, not a file")
        with path.with_name(f".{path.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # concurrent changes would lose keys
            keys = read_keys(path)
            yield keys
            _write(path, keys)
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror}") from None


def _write(path: Path, keys: Iterable[KeptKey]) -> None:
    rows = [
        {"client": kept.client, "created": kept.created.isoformat(timespec="seconds"), "key": str(kept.key)}
        for kept in keys
    ]
    text = json.dumps({"format": FORMAT, "keys": rows}, indent=1) + "\n"
    with replacing(path, new=PRIVATE, sync=True) as file:
        file.write(text.encode())


def _kept(row: Any) -> KeptKey:
    return KeptKey(Key.parse(row["key"]), row["client"], datetime.fromisoformat(row["created"]).astimezone(UTC))
