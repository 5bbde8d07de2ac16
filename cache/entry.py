"""A value as it lies on disk: a header of 192 bytes, then the array's bytes.

    offset  bytes  field (little-endian)
    0       4      magic "octv"
    4       2      format version
    6       1      dimensions of the array
    7       1      0
    8       8      dtype as NumPy spells it, e.g. "<u2", padded with NUL
    16      32     shape, 4 × uint64, unused ones 0
    48      8      stored at, unix time, float64
    56      8      expires at, unix time, float64
    64      33     the full key
    97      33     the tag
    130     54     0
    184     8      XXH3-64 of the 184 bytes before and of the array's bytes

The header is what is trusted, never the index row that led to it: a row can name another valid file, hold a flipped tag
or a later expiry. 192 is a multiple of 64, so that an array is as well aligned as the buffer that it was read into.
"""

import math
import struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import xxhash
from numpy.typing import NDArray

from cache.errors import CorruptEntryError, ExpiredEntryError, OldFormatError
from cache.key import DIGEST_BYTES, Key
from cache.tag import TAG_BYTES

Array: TypeAlias = NDArray[Any]

MAGIC = b"octv"
FORMAT = 1
HEADER_BYTES = 192
MAX_DIMENSIONS = 4
# What a header may claim is what NumPy can rebuild from bytes alone: no objects, no records, no foreign byte order.
DTYPES = frozenset(f"<{code}" for code in ("f2", "f4", "f8", "i2", "i4", "i8", "u2", "u4", "u8")) | {
    "|i1",
    "|u1",
    "|b1",
}
_HEAD = struct.Struct(f"<4sHBx8s{MAX_DIMENSIONS}Qdd{1 + DIGEST_BYTES}s{TAG_BYTES}s54x")
_CHECKSUM = struct.Struct("<Q")
assert _HEAD.size + _CHECKSUM.size == HEADER_BYTES  # the layout above


class Entry(NamedTuple):  # 0.4 µs to make, a frozen dataclass 0.9, and they are made by the hundred
    """An array with what the store knows of it. The array is read-only and nobody else's."""

    key: Key
    tag: bytes
    stored_at: float
    expires_at: float
    array: Array
    slab: object = None  # the memory that the array shares with what was read together with it

    @property
    def nbytes(self) -> int:
        """What the entry counts for in memory."""
        return self.array.nbytes + HEADER_BYTES


def check_storable(array: Array) -> None:
    """Refuse what the format cannot hold.

    Raises:
        TypeError: for a dtype or a number of dimensions outside the format.
    """
    if array.dtype.str not in DTYPES or array.ndim > MAX_DIMENSIONS:
        raise TypeError(f"an array of shape {array.shape} and type {array.dtype} cannot be stored")


def encode(entry: Entry) -> tuple[bytes, memoryview]:
    """Return an entry's header and its array's bytes (contiguous, not copied)."""
    array = entry.array
    shape = (*array.shape, *(0,) * (MAX_DIMENSIONS - array.ndim))
    head = _HEAD.pack(
        MAGIC, FORMAT, array.ndim, array.dtype.str.encode(), *shape,
        entry.stored_at, entry.expires_at, bytes(entry.key), entry.tag,
    )  # fmt: skip
    content = array.reshape(-1).view(np.uint8).data
    return head + _CHECKSUM.pack(_checksum(head, content)), content


def decode(view: memoryview, key: Key, now: float, slab: object = None) -> Entry:
    """Turn stored bytes (one byte an item) back into the entry of `key`; its array is a read-only view of them.

    Raises:
        CorruptEntryError: the bytes are damaged, or another key's.
        OldFormatError: another version of the format wrote them.
        ExpiredEntryError: the time to live is over.
    """
    if len(view) < HEADER_BYTES:
        raise CorruptEntryError("shorter than a header")
    head, content = view[: _HEAD.size], view[HEADER_BYTES:]
    magic, version, dimensions, name, *shape, stored_at, expires_at, full_key, tag = _HEAD.unpack(head)
    if magic == MAGIC and version != FORMAT:
        raise OldFormatError(f"format {version}")
    if magic != MAGIC or _checksum(head, content) != _CHECKSUM.unpack(view[_HEAD.size : HEADER_BYTES])[0]:
        raise CorruptEntryError("the checksum differs")
    if full_key != bytes(key):
        raise CorruptEntryError("the value of another key")
    dtype = name.rstrip(b"\0").decode("ascii", "replace")
    shape = shape[:dimensions]
    if dtype not in DTYPES or math.prod(shape) * np.dtype(dtype).itemsize != len(content):
        raise CorruptEntryError("the header contradicts the value")
    if expires_at <= now:
        raise ExpiredEntryError("its time to live is over")
    array = np.frombuffer(content, dtype).reshape(shape)
    array.flags.writeable = False
    return Entry(key, tag, stored_at, expires_at, array, slab)


def _checksum(head: bytes | memoryview, content: memoryview) -> int:
    # 393 kB: XXH3 11 µs, zlib.crc32 55 µs (150 µs where zlib lacks carry-less multiplication), BLAKE2b 270 µs.
    digest = xxhash.xxh3_64(head)
    digest.update(content)
    return digest.intdigest()
