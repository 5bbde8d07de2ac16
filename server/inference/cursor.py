"""Cursors of broken streams: where to go on, bound to everything that the stream was about."""

import base64
import hashlib
import hmac
import struct

from server.errors import CursorMismatch

_INDEX = struct.Struct("<I")
_MAC_BYTES = 16


class Cursors:
    """Makes and reads the cursors of one stream.

    A cursor is the index of a segment under a MAC (keyed BLAKE2b) with the tenant, the document's keyed digest, the
    fingerprint and the tasks: it opens nothing, and leads nobody into another document's middle.

    Args:
        secret: the deployment's.
        subject: what the stream is about, one item a fact.
    """

    def __init__(self, secret: bytes, subject: tuple[bytes, ...]) -> None:
        key = secret[: hashlib.blake2b.MAX_KEY_SIZE]
        self._hash = hashlib.blake2b(key=key, digest_size=_MAC_BYTES, person=b"octavo cursor")
        for fact in subject:
            self._hash.update(b"%d:" % len(fact) + fact)

    def after(self, index: int) -> str:
        """The cursor that goes on after this segment."""
        packed = _INDEX.pack(index)
        return base64.urlsafe_b64encode(packed + self._mac(packed)).decode()

    def first(self, cursor: str) -> int:
        """The index of the first segment that was not sent.

        Raises:
            CursorMismatch: it is not one of this stream's.
        """
        try:
            raw = base64.urlsafe_b64decode(cursor.encode("ascii"))
        except ValueError:
            raw = b""
        packed, mac = raw[: _INDEX.size], raw[_INDEX.size :]
        if len(packed) != _INDEX.size or not hmac.compare_digest(mac, self._mac(packed)):
            raise CursorMismatch("the cursor is another stream's: its tenant, document, options or tasks differ")
        (index,) = _INDEX.unpack(packed)
        return int(index) + 1

    def _mac(self, packed: bytes) -> bytes:
        mac = self._hash.copy()
        mac.update(packed)
        return mac.digest()
