"""Keeps an index of segments' vectors in step with documents: the seam to the index, and what a sync says to it.

A document's segments are cut by content, so an edit changes few of them. The index says which digests it holds of a
document; the server computes and returns only the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from octavo.client.arguments import DocumentArguments, Embed, SegmentArguments, SyncArguments
from octavo.client.errors import FingerprintMismatch, OctavoError
from octavo.client.requests import split
from octavo.client.results import Segment, SegmentationResult, SegmentResult, StreamSummary, Usage

TASK = "embed"
MOST_KNOWN = 32_768
"""Digests that a call takes."""


@dataclass(frozen=True, slots=True)
class Held:
    """What an index holds of a document.

    Attributes:
        fingerprint: that of its vectors.
        digests: of its segments, in the document's order. A digest comes twice if the document repeats a segment.
    """

    fingerprint: str
    digests: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PlacedSegment:
    """A segment of the document as it is now, `text[start:end]`.

    Attributes:
        digest: segments with the same digest have the same vector, bit for bit, under the same fingerprint.
        vector: float32; None if the index holds it already, under the digest.
    """

    digest: bytes
    start: int
    end: int
    vector: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What an index has to change for a document.

    Attributes:
        fingerprint: that of all the document's vectors, those that the index holds included.
        segments: all of the document now, in order; they tile the text. None if no token is left.
        gone: digests that the index holds and the document no longer has, each once.
        usage: of the call that made it; `kept_tokens` are those of vectors that the index holds already.
    """

    fingerprint: str
    segments: tuple[PlacedSegment, ...]
    gone: tuple[bytes, ...]
    usage: Usage


class SegmentIndex(Protocol):
    """An index that `sync` keeps in step. `AsyncClient` calls it in worker threads."""

    def held(self, document_id: str) -> Held | None:
        """Return what is held of a document; None if nothing."""

    def apply(self, document_id: str, change: Change) -> None:
        """Replace what is held of a document: all of it or nothing. Applying a change twice is applying it once."""


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did, or would do.

    Attributes:
        fingerprint: that of the document's vectors; empty if the text is empty and nothing was held.
        added: segments with new vectors.
        unchanged: segments whose vectors the index held.
        deleted: digests that the document no longer has.
        usage: computed, cached and kept tokens, and `charged_tokens`, the price.
    """

    fingerprint: str
    added: int
    unchanged: int
    deleted: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Sync:
    """One document on its way into an index, without I/O.

    Args:
        held: what the index holds of it.
        arguments: of the call.

    Raises:
        FingerprintMismatch: the caller expects another fingerprint than the index holds.
    """

    held: Held | None
    arguments: SyncArguments

    def __post_init__(self) -> None:
        expected = self.arguments.get("expected_fingerprint")
        if self.held and expected and expected != self.held.fingerprint:
            raise _mismatch(self.held, f"the expected one is {expected}")

    def stream_arguments(self) -> tuple[dict[str, Embed], DocumentArguments]:
        """The tasks and the call's options for `stream`."""
        task, call = split(Embed, self._arguments())
        return {TASK: replace(task, segment_vectors=True)}, call

    def segment_arguments(self) -> SegmentArguments:
        """The arguments for `segment`, which tells what the same sync would cost."""
        return self._arguments()

    def change(self, results: Sequence[SegmentResult], summary: StreamSummary | None) -> Change:
        """The change that a document's stream makes, which has ended."""
        assert summary
        segments = tuple(_placed(each.segment, each.results) for each in results)
        return Change(summary.fingerprint, segments, self._gone(segments), summary.usage)

    @staticmethod
    def report(change: Change) -> SyncReport:
        """What a change does."""
        kept = sum(each.vector is None for each in change.segments)
        return SyncReport(change.fingerprint, len(change.segments) - kept, kept, len(set(change.gone)), change.usage)

    def forecast(self, result: SegmentationResult) -> SyncReport:
        """What a change would do."""
        kept = sum(each.kept for each in result.segments)
        usage = replace(result.usage, charged_tokens=result.would_charge_tokens)
        return SyncReport(
            result.fingerprint, len(result.segments) - kept, kept, len(self._gone(result.segments)), usage
        )

    def change_of(self, error: OctavoError) -> Change:
        """The change for a text without a token, which the server refuses: nothing is left.

        Raises:
            FingerprintMismatch: the index holds vectors that must not be mixed with the server's.
            OctavoError: another error.
        """
        if self.held and isinstance(error, FingerprintMismatch):
            raise _mismatch(self.held, error.message, error) from error
        if error.reason != "EMPTY_DOCUMENT":
            raise error
        return Change(self.held.fingerprint if self.held else "", (), self._digests(), Usage(0, 0, 0, 0, 0))

    def _arguments(self) -> SegmentArguments:
        """Documents of an index are passages, unless the caller says otherwise."""
        own = {"input_type": "passage", **{name: value for name, value in self.arguments.items() if value is not None}}
        if self.held:
            known = self._digests()[:MOST_KNOWN]  # the others come back in full
            own |= {"expected_fingerprint": self.held.fingerprint, "known_segments": known}
        return cast("SegmentArguments", own)

    def _gone(self, now: Iterable[PlacedSegment | Segment]) -> tuple[bytes, ...]:
        present = {segment.digest for segment in now}
        return tuple(digest for digest in self._digests() if digest not in present)

    def _digests(self) -> tuple[bytes, ...]:
        """Of what is held, each once."""
        return tuple(dict.fromkeys(self.held.digests)) if self.held else ()


def _placed(segment: Segment, results: Mapping[str, Any]) -> PlacedSegment:
    vector = None if segment.kept else results[TASK].vector
    return PlacedSegment(segment.digest, segment.char_start, segment.char_end, vector)


def _mismatch(held: Held, message: str, error: FingerprintMismatch | None = None) -> FingerprintMismatch:
    return FingerprintMismatch(
        f"the index holds this document's vectors with the fingerprint {held.fingerprint}: {message}. Vectors of both "
        "must not be mixed: delete the document from the index, or rebuild the index",
        code=error.code if error else None,
        reason="FINGERPRINT_MISMATCH",
        metadata=error.metadata if error else None,
    )
