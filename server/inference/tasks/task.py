"""What all tasks have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from chunking import Segment
from server.types import Head

Parts = Mapping[Head, NDArray[Any]]
A_co = TypeVar("A_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Size:
    """What the size of a document's answer depends on, known before anything is computed.

    Attributes:
        segments: all of them.
        kept: those whose vectors the caller holds.
    """

    segments: int
    tokens: int
    text_bytes: int
    kept: int = 0


class Merge(Protocol[A_co]):
    """Takes in a document's segments in order and makes its answer of them; holds no states."""

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in the next segment's results."""

    def of_segment(self, parts: Parts) -> A_co:
        """What a stream says of the segment that was taken in last."""

    def result(self) -> A_co | None:
        """The answer for the segments taken in so far; None while there are none."""


class Task(Protocol[A_co]):
    """What a caller wants of a document, with defaults filled in."""

    @property
    def name(self) -> str:
        """The caller's name for it."""

    @property
    def identity(self) -> str:
        """What decides whether two answers may be compared: part of the fingerprint."""

    @property
    def is_slow(self) -> bool:
        """Whether taking in a segment takes so long that it must not be done on the event loop."""

    def heads(self, segment: Segment) -> tuple[Head, ...]:
        """The heads that it needs of a segment."""

    def reply_bytes(self, size: Size) -> int:
        """About how many bytes the answer has at most."""

    def merge(self, text: str, *, stream: bool) -> Merge[A_co]:
        """What makes the answer for a text. A stream sends its segments on, and does not keep them."""
