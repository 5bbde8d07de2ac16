"""Which tenant, model and document wrote an entry, so that a purge can select by them.

A tag is 33 bytes, stored as diskcache's tag of the row and again in the value's header:

    kind (1) · tenant (8) · model (8) · document (16)

Tenant and model are plain digests of their configured names; the document's digest is keyed (`KeyMaker.document`),
because the plain digest of a short text can be reversed by guessing.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass

from cache.key import DOCUMENT_BYTES, Kind

NAME_BYTES = 8
TAG_BYTES = 1 + 2 * NAME_BYTES + DOCUMENT_BYTES
_TENANT = slice(1, 1 + NAME_BYTES)
_MODEL = slice(_TENANT.stop, _TENANT.stop + NAME_BYTES)
_DOCUMENT = slice(_MODEL.stop, TAG_BYTES)


@dataclass(frozen=True, slots=True)
class Tag:
    """The tenant, model and document (keyed digest, 16 bytes) for which an entry was computed."""

    tenant: str
    model: str
    document: bytes

    def encode(self, kind: Kind) -> bytes:
        """Return the tag of an entry of this kind as it is stored."""
        if len(self.document) != DOCUMENT_BYTES:
            raise ValueError(f"document must be a digest of {DOCUMENT_BYTES} bytes, not {len(self.document)}")
        return kind.value + name_digest(self.tenant) + name_digest(self.model) + self.document


def name_digest(name: str) -> bytes:
    """Return the 8 bytes that stand for a tenant's or a model's name in a tag."""
    return hashlib.blake2b(name.encode(), digest_size=NAME_BYTES, person=b"octavo name").digest()


_RECORD = struct.Struct(f"<B1s{NAME_BYTES}s{NAME_BYTES}s{DOCUMENT_BYTES}sd")
RECORD_BYTES = _RECORD.size + 4


@dataclass(frozen=True, slots=True)
class Selector:
    """Which entries a purge takes: those that agree with every field that is not None; with none, all."""

    kind: Kind | None = None
    tenant: bytes | None = None  # name_digest
    model: bytes | None = None  # name_digest
    document: bytes | None = None  # keyed digest
    stored_before: float | None = None  # unix time

    def matches(self, tag: bytes, stored_at: float) -> bool:
        """Tell whether an entry in memory is taken."""
        if self.stored_before is not None and stored_at >= self.stored_before:
            return False
        return all(want is None or tag[place] == want for place, want in self._parts())

    def where(self) -> tuple[str, tuple[bytes | float, ...]]:
        """Return the same condition in SQL over diskcache's table, with its parameters."""
        terms, values = ["1"], list[bytes | float]()
        for place, want in self._parts():
            if want is not None:
                terms.append(f"substr(tag, {place.start + 1}, {place.stop - place.start}) = ?")
                values.append(want)
        if self.stored_before is not None:
            terms.append("store_time < ?")
            values.append(self.stored_before)
        return " AND ".join(terms), tuple(values)

    def _parts(self) -> tuple[tuple[slice, bytes | None], ...]:
        kind = None if self.kind is None else self.kind.value
        return (slice(0, 1), kind), (_TENANT, self.tenant), (_MODEL, self.model), (_DOCUMENT, self.document)

    def pack(self) -> bytes:
        """Encode the selector as a record of fixed size that ends in its CRC-32."""
        values = (*(want for _, want in self._parts()), self.stored_before)
        present = sum(1 << bit for bit, value in enumerate(values) if value is not None)
        record = _RECORD.pack(present, *(want or b"" for _, want in self._parts()), self.stored_before or 0.0)
        return record + zlib.crc32(record).to_bytes(4, "little")

    @classmethod
    def unpack(cls, record: bytes) -> "Selector":
        """Decode a record.

        Raises:
            ValueError: when the record is damaged.
        """
        body, checksum = record[:-4], record[-4:]
        if len(record) != RECORD_BYTES or zlib.crc32(body).to_bytes(4, "little") != checksum:
            raise ValueError("a damaged record")
        present, *values = _RECORD.unpack(body)
        kind, tenant, model, document, before = (v if present >> bit & 1 else None for bit, v in enumerate(values))
        return cls(None if kind is None else Kind(kind), tenant, model, document, before)
