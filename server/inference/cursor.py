"""Cursors of broken streams: where to go on, bound to everything that the stream was about."""

import base64
import hashlib
import hmac
import struct
from collections.abc import Sequence

from server.errors import CursorMismatch

_MAC_BYTES = 16


class Cursors:
    """Makes and reads the cursors of one stream.

    A cursor is how many segments of each trunk were sent, under a MAC (keyed BLAKE2b) with the tenant, the document's
    digest, the fingerprints and the tasks. So it cannot be replayed against another document.

    Args:
        secret: the deployment's.
        subject: what the stream is about, one item a fact.
        places: number of trunks.
    """

    def __init__(self, secret: bytes, subject: tuple[bytes, ...], places: int = 1) -> None:
        key = secret[: hashlib.blake2b.MAX_KEY_SIZE]
        self._hash = hashlib.blake2b(key=key, digest_size=_MAC_BYTES, person=b"octavo cursor")
        self._places = struct.Struct(f"<{places}I")
        for fact in subject:
            self._hash.update(b"%d:" % len(fact) + fact)

    def after(self, sent: Sequence[int]) -> str:
        """The cursor that resumes once so many segments of each trunk were sent."""
        packed = self._places.pack(*sent)
        return base64.urlsafe_b64encode(packed + self._mac(packed)).decode()

    def sent(self, cursor: str) -> Sequence[int]:
        """How many segments of each trunk were sent.

        Raises:
            CursorMismatch: it is not one of this stream's.
        """
        try:
            raw = base64.urlsafe_b64decode(cursor.encode("ascii"))
        except ValueError:
            raw = b""
        packed, mac = raw[: self._places.size], raw[self._places.size :]
        if len(packed) != self._places.size or not hmac.compare_digest(mac, self._mac(packed)):
            raise CursorMismatch("the cursor is another stream's: its tenant, document, options or tasks differ")
        return self._places.unpack(packed)

    def _mac(self, packed: bytes) -> bytes:
        mac = self._hash.copy()
        mac.update(packed)
        return mac.digest()
