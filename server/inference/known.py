"""Segments whose vectors the caller holds, by their digests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

DIGEST_BYTES = 16


@dataclass(frozen=True)
class KnownDigests:
    """The digests that a call, or a document of a stream, comes with.

    Attributes:
        digests: in the caller's order.
    """

    digests: Sequence[bytes] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.digests)

    @classmethod
    def unpacked(cls, packed: bytes) -> "KnownDigests":
        """Split digests that follow one another; the length is a multiple of theirs."""
        return cls([packed[at : at + DIGEST_BYTES] for at in range(0, len(packed), DIGEST_BYTES)])

    def position(self, digest: bytes) -> int | None:
        """Where the caller has a digest first; None if it has not."""
        return self._positions.get(digest)

    def gone(self, found: Collection[int]) -> list[int]:
        """Positions of the digests that were not found; `found` has first positions."""
        return [i for i, digest in enumerate(self.digests) if self._positions[digest] not in found]

    @cached_property
    def _positions(self) -> Mapping[bytes, int]:
        last = len(self.digests) - 1
        return {digest: last - i for i, digest in enumerate(reversed(self.digests))}
