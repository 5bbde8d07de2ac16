"""States of a document's tokens, for callers who pool by themselves."""

from dataclasses import dataclass

import numpy as np

from chunking import Segment
from server.inference.tasks.embed import Vectors
from server.inference.tasks.task import Parts, Size
from server.types import Head, SumRanges

SPECIALS = 64  # of a document, more than any model has


@dataclass(frozen=True, slots=True, eq=False)
class TokenStates:
    """States after the last layer, float32 (tokens, hidden).

    Those before the first segment's own tokens are of its special tokens and prefix, those after the last segment's of
    its special tokens; of all others only the owned tokens are there.
    """

    states: Vectors


@dataclass(frozen=True, slots=True, eq=False)
class TokenStatesTask:
    """All states of a document's tokens."""

    name: str
    hidden: int

    is_slow = False
    identity = "token states"

    def heads(self, segment: Segment) -> tuple[Head, ...]:
        """See `Task`."""
        return (_each(segment),)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        return (size.tokens + SPECIALS) * self.hidden * 4

    def merge(self, text: str, *, stream: bool) -> "TokenStatesMerge":  # noqa: ARG002
        """See `Task`."""
        return TokenStatesMerge()


class TokenStatesMerge:
    """Joins segments' states."""

    def __init__(self) -> None:
        self._rows: list[Vectors] = []
        self._after: Vectors | None = None

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in a segment's states."""
        rows = parts[_each(segment)].astype(np.float32)
        first = 0 if self._after is None else segment.owned.start
        self._rows.append(rows[first : segment.owned.stop])
        self._after = rows[segment.owned.stop :]

    def of_segment(self, parts: Parts) -> TokenStates:
        """One segment's states."""
        (rows,) = parts.values()
        return TokenStates(rows.astype(np.float32))

    def result(self) -> TokenStates | None:
        """The document's states."""
        return None if self._after is None else TokenStates(np.concatenate([*self._rows, self._after]))


def _each(segment: Segment) -> SumRanges:
    return SumRanges(tuple((i, i + 1) for i in range(len(segment.ids))))
