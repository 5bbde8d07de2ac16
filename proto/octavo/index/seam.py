"""Scratch: replaced by up18's."""

from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray


@dataclass(frozen=True)
class Held:
    fingerprint: str
    digests: tuple[bytes, ...]


@dataclass(frozen=True)
class PlacedSegment:
    digest: bytes
    start: int
    end: int
    vector: NDArray[Any] | None


@dataclass(frozen=True)
class Change:
    fingerprint: str
    segments: tuple[PlacedSegment, ...]
    gone: tuple[bytes, ...]


class SegmentIndex(Protocol):
    def held(self, document_id: str) -> Held | None: ...
    def apply(self, document_id: str, change: Change) -> None: ...


@dataclass(frozen=True)
class Synced:
    new: int
    kept: int
    gone: int
    usage: Any
    kept_tokens: int


def sync(
    client: Any,
    document_id: str,
    text: str,
    index: Any,
    *,
    dry_run: bool = False,
    timeout: Any = None,
    **arguments: Any,
) -> Synced:
    held = index.held(document_id)
    known = set(held.digests) if held else set()
    result = client.embed(text, segment_vectors=True, timeout=timeout, **arguments)
    seen = set(known)
    placed = []
    for each in result.segments:
        placed.append(
            PlacedSegment(each.digest, each.char_start, each.char_end, None if each.digest in seen else each.vector)
        )
        seen.add(each.digest)
    gone = tuple(known - {each.digest for each in placed})
    if not dry_run:
        index.apply(document_id, Change(result.fingerprint, tuple(placed), gone))
    kept = sum(each.digest in known for each in placed)
    tokens = sum(each.processed_tokens for each in result.segments if each.digest in known)
    return Synced(len(placed) - kept, kept, len(gone), result.usage, tokens)
