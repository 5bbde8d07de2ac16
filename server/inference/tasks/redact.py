"""Redact: the text with its entities masked, and the map between the two."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunking import Segment
from server.inference.tasks.task import Parts, Size
from server.inference.tasks.tokens import ENTITY_BYTES, ClassifyTokensTask, Entities
from server.types import Head

MASK = "[{label}]"
LABEL = "{label}"


@dataclass(frozen=True, slots=True, eq=False)
class Redaction:
    """A redacted text; in a stream a piece of it, whose positions count from the piece's start.

    Attributes:
        entities: what was masked.
        masks: int64 (n, 2), where their masks start and end in the redacted text, in code points.
    """

    text: str
    entities: Entities
    masks: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RedactTask:
    """Which entities are masked, and how."""

    entities: ClassifyTokensTask
    mask: str = MASK

    is_slow = False

    @property
    def name(self) -> str:
        """See `Task`."""
        return self.entities.name

    @property
    def identity(self) -> str:
        """See `Task`."""
        return self.entities.identity

    def heads(self, segment: Segment) -> tuple[Head, ...]:
        """See `Task`."""
        return self.entities.heads(segment)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        longest = max(len(self.mask.replace(LABEL, label).encode()) for label in self.entities.labels)
        masks = self.entities.most_entities(size) * (ENTITY_BYTES + longest)
        return size.text_bytes + masks + self.entities.reply_bytes(size)

    def merge(self, text: str, *, stream: bool) -> "RedactMerge":
        """See `Task`."""
        return RedactMerge(self, text, keep=not stream)


class RedactMerge:
    """Masks a text as far as its entities are known."""

    def __init__(self, task: RedactTask, text: str, *, keep: bool) -> None:
        self._task = task
        self._text = text
        self._entities = task.entities.merge(text, stream=not keep)
        self._done = 0  # of the text, in code points
        self._seen = 0

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in a segment's logits."""
        self._entities.add(segment, parts)
        self._seen = segment.end

    def of_segment(self, parts: Parts) -> Redaction:
        """The next piece of the redacted text, up to where no entity can still be found."""
        piece = self._masked(self._entities.of_segment(parts))
        self._done = self._upto
        return piece

    def result(self) -> Redaction | None:
        """The redacted text that was not sent on: all of it, or in a stream nothing."""
        found = self._entities.result()
        return None if found is None else self._masked(found)

    @property
    def _upto(self) -> int:
        """How much of the text can be masked."""
        return min(self._seen, self._entities.settled)

    def _masked(self, entities: Entities) -> Redaction:
        pieces: list[str] = []
        masks: list[tuple[int, int]] = []
        begin, length = self._done, 0
        for (start, end), label in zip(entities.spans.tolist(), entities.labels, strict=True):
            mask = self._task.mask.replace(LABEL, label)
            length += start - begin
            pieces += [self._text[begin:start], mask]
            masks.append((length, length + len(mask)))
            begin, length = end, length + len(mask)
        pieces.append(self._text[begin : self._upto])
        return Redaction("".join(pieces), entities, np.array(masks, np.int64).reshape(-1, 2))
