"""The deployment's secret, and the keys and digests that are made with it.

A key is a BLAKE2b digest (RFC 7693), keyed with the deployment's secret, of a canonical encoding of *everything* that
decides the stored numbers. Two properties make a hit safe:

- the encoding is injective (a test decodes it), so different fields never share an encoding;
- the digest is keyed, so without the secret it reveals nothing about the text.

The secret is a file of at least 64 hexadecimal digits (32 bytes) that only its owner may read. It is created once,
atomically, and never in the cache folder, so that a copy of the cache does not include it.
"""

import contextlib
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cache.errors import SecretError

KEY_FORMAT = 2
"""Raise it when the meaning of any field changes: every older entry is then missed."""

DIGEST_BYTES = 32
DOCUMENT_BYTES = 16
MIN_SECRET_BYTES = 32

Value: TypeAlias = "bool | int | str | bytes | tuple[Value, ...] | NDArray[np.integer] | None"


class Kind(bytes, Enum):
    """What an entry holds; the value is its code on disk."""

    STATE = b"s"
    RESULT = b"r"
    TOKENS = b"t"

    @property
    def label(self) -> str:
        """The kind's name in metrics and messages."""
        return self.name.lower()


class Key(NamedTuple):  # hashed and compared in C: keys are looked up by the hundred
    """Names an entry by its kind and the digest of all that decided it, the tenant included."""

    kind: Kind
    digest: bytes

    def __bytes__(self) -> bytes:
        """Return the key as it is on disk: the kind's code, then the digest."""
        return self.kind + self.digest


@dataclass(frozen=True, slots=True, eq=False)
class RunFields:
    """What decides a state apart from the segment: the same for all segments of a call, and digested once.

    `layers` is the digest of the chain of tensors as executed, from the embeddings up to and including the cut; two
    checkpoints whose lower layers are equal have equal chains there, and so share those entries.
    """

    tenant: str  # from the authenticated identity, never from the request
    architecture: str  # heads, activation, eps, position scheme, local/global pattern, family code version
    layers: bytes  # digest chain at the cut
    cut: int  # how many layers ran
    scheme: str  # number scheme
    numerics: bytes  # library versions, ISA, kernels and flags, threads where they matter, the probe's digests
    window: int | None  # half width of the attention window; None: the whole segment


@dataclass(frozen=True, slots=True, eq=False)
class LayoutFields:
    """How the model reads a segment of a length, whatever its tokens. Shared by such segments and digested once."""

    token_types: NDArray[np.integer]  # (tokens,)
    positions: NDArray[np.integer]  # (tokens,)
    global_tokens: tuple[int, ...]  # indices of the tokens that see, and are seen by, all others


@dataclass(frozen=True, slots=True, eq=False)
class SegmentFields:
    """What the model reads of one segment, specials and prefix included."""

    layout: LayoutFields
    token_ids: NDArray[np.integer]  # (tokens,)


@dataclass(frozen=True, slots=True, eq=False)
class HeadFields:
    """What decides a head's result, apart from the state that it read. Shared by all segments, and digested once."""

    tenant: str
    head: bytes  # digest of the head's tensors and code version
    options: str  # canonical, e.g. sorted JSON


@dataclass(frozen=True, slots=True)
class TokensFields:
    """What decides the tokens of a region, or of a whole text, and the kind of boundary before each."""

    tenant: str
    tokenizer: bytes  # digest of the tokenizer's files and settings
    library: str  # name and version of the library that tokenises
    cutting: int  # version of the rules that tell regions and boundaries
    before: bytes  # the text before the region that the rules read, UTF-8
    region: bytes  # the region's UTF-8


_INT32 = np.dtype("<i4")


def encode(value: Value) -> bytes:
    """Encode a value so that it could be decoded again: a type's letter, a length, the content.

    Integers of every width are one type; an array of them is encoded as 32-bit if all fit, else as 64-bit.

    Raises:
        TypeError: for a type that has no canonical form here (a float, a dict, an array of anything but integers).
    """
    match value:
        case None | True | False:
            encoded = {None: b"N", True: b"T", False: b"F"}[value]
        case int():
            encoded = _framed(b"I", value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
        case str():
            encoded = _framed(b"S", value.encode("utf-8", "surrogatepass"))
        case bytes():
            encoded = _framed(b"B", value)
        case tuple():
            encoded = _framed(b"L", b"".join(map(encode, value)))
        case np.ndarray():
            encoded = _encode_integers(value)
        case _:
            raise TypeError(f"a {type(value).__name__} cannot be part of a key")
    return encoded


def _framed(letter: bytes, content: bytes) -> bytes:
    return letter + len(content).to_bytes(8, "big") + content


def _encode_integers(array: NDArray[np.integer]) -> bytes:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"an array of shape {array.shape} and type {array.dtype} cannot be part of a key")
    if array.dtype == _INT32:  # the usual case, and hundreds of keys are made at once
        return _framed(b"a", array.tobytes())
    for letter, dtype in ((b"a", "<i4"), (b"A", "<i8")):
        canonical = array.astype(dtype, copy=False)
        if canonical is array or np.array_equal(canonical, array):
            return _framed(letter, canonical.tobytes())
    raise TypeError("an integer beyond 63 bits cannot be part of a key")


def encode_fields(record: RunFields | LayoutFields | HeadFields | TokensFields) -> bytes:
    """Encode a record's fields by name, in the order of their definition."""
    kind: Any = type(record)  # hashable, which mypy does not see of a type
    head, names = _names(kind)
    parts = [head]
    for name, encoded in names:
        parts += (encoded, encode(getattr(record, name)))
    return b"".join(parts)


@cache
def _names(kind: type[Any]) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """A record's name and its fields' names, encoded once: hundreds of keys are made at a time."""
    return encode(kind.__name__), tuple((field.name, encode(field.name)) for field in fields(kind))


class KeyMaker:
    """Makes keys under one deployment's secret."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise ValueError(f"a secret has at least {MIN_SECRET_BYTES} bytes, not {len(secret)}")
        # BLAKE2b takes keys of up to 64 bytes: a longer secret is digested first.
        self._secret = secret if len(secret) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(secret).digest()
        self._started = lru_cache(maxsize=1 << 14)(self._start)  # half a kB each; a segment's length makes a layout

    def state(self, run: RunFields, segment: SegmentFields) -> Key:
        """Name the state of a segment after `run.cut` layers."""
        hasher = self._started(Kind.STATE, run, segment.layout).copy()
        hasher.update(encode(segment.token_ids))
        return Key(Kind.STATE, hasher.digest())

    def result(self, head: HeadFields, state: Key) -> Key:
        """Name what a head made of a state."""
        hasher = self._started(Kind.RESULT, head).copy()
        hasher.update(encode(bytes(state)))
        return Key(Kind.RESULT, hasher.digest())

    def tokens(self, fields: TokensFields) -> Key:
        """Name the tokens of a region."""
        return Key(Kind.TOKENS, self._hasher(Kind.TOKENS.label, encode_fields(fields)).digest())

    def sealing_key(self) -> bytes:
        """Return the key that authenticates entries on disk."""
        return self._hasher("entries", b"").digest()

    def document(self, tenant: str, text: bytes) -> bytes:
        """Return the 16-byte digest by which a tag names the document that wrote an entry."""
        return self._hasher("document", encode(tenant) + encode(text), DOCUMENT_BYTES).digest()

    def _start(self, kind: Kind, *records: RunFields | LayoutFields | HeadFields) -> "hashlib.blake2b":
        """Start the digests of what many entries have in common."""
        return self._hasher(kind.label, b"".join(map(encode_fields, records)))

    def _hasher(self, purpose: str, content: bytes, size: int = DIGEST_BYTES) -> "hashlib.blake2b":
        """Start a digest; `purpose` keeps digests of one secret for different ends apart."""
        hasher = hashlib.blake2b(digest_size=size, key=self._secret, person=f"octavo {purpose}".encode())
        hasher.update(encode(KEY_FORMAT) + content)
        return hasher


def load_secret(path: Path, cache_folder: Path | None = None, *, create: bool = True) -> bytes:
    """Return the secret, created if there is none. Processes that start together agree on one.

    Raises:
        SecretError: it lies in the cache folder, is readable by others, belongs to another user, is malformed, or can
            be neither read nor created. The message never contains it.
    """
    if cache_folder is not None and path.resolve().is_relative_to(cache_folder.resolve()):
        raise SecretError(f"the secret {path} must not lie in the cache folder {cache_folder}")
    try:
        if create and not path.exists():
            _create_secret(path)
        return _read_secret(path)
    except OSError as error:
        raise SecretError(f"the secret {path} cannot be used: {error.strerror}") from error


def _create_secret(path: Path) -> None:
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


def _read_secret(path: Path) -> bytes:
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
