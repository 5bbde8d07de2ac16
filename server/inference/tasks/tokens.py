"""Classify tokens: entities with exact spans, joined across the pieces of words and across segment edges.

Scores become entities as in transformers' token classification pipeline: pieces join to words, words to entities, by
labels in BIO form. The last word and an entity that may go on wait for the next segment. There a "B-" continues an
entity of its label too: the model saw only one side of the edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from operator import itemgetter
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from chunking import Segment, Tokenizer
from server.inference.tasks.task import Parts, Size
from server.types import Head, Trained

Aggregation = Literal["simple", "first", "average", "max"]
Scores = NDArray[np.float32]

OUTSIDE = "O"
ENTITY_BYTES = 40  # without its label
SEGMENTS_AT_ONCE = 32  # taken in together: the event loop waits for one or two milliseconds
TOKENS_AN_ENTITY = 4  # at least, in a whole document; a reply is checked again once it is made


@dataclass(frozen=True, slots=True, eq=False)
class Entities:
    """Labelled stretches of the document, in its order and without overlaps. Columns: a long one has thousands.

    Attributes:
        spans: int64 (n, 2), where each starts and ends, in code points.
        labels: without "B-" and "I-".
        scores: float64 (n,), means over their words.
        segments: int64 (n,), in which each starts.
    """

    spans: NDArray[np.int64]
    labels: list[str]
    scores: NDArray[np.float64]
    segments: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def joined(cls, parts: Sequence["Entities"]) -> "Entities":
        """Those of all parts, of which there is at least one."""
        spans, labels, scores, segments = zip(*((x.spans, x.labels, x.scores, x.segments) for x in parts), strict=True)
        return cls(
            np.concatenate(spans), list(chain.from_iterable(labels)), np.concatenate(scores), np.concatenate(segments)
        )


_NONE: Final = Entities(np.zeros((0, 2), np.int64), [], np.zeros(0), np.zeros(0, np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class ClassifyTokensTask:
    """Which entities a caller wants.

    Attributes:
        head: names the model's head.
        labels: of the head's outputs.
        wanted: labels of entities, without "B-" and "I-"; empty for all.
    """

    name: str
    head: Trained
    labels: tuple[str, ...]
    tokenizer: Tokenizer
    aggregation: Aggregation = "max"
    wanted: frozenset[str] = frozenset()
    min_score: float = 0.0

    is_slow = False

    @property
    def identity(self) -> str:
        """See `Task`."""
        return f"tokens {self.head.digest} {self.aggregation}"

    def heads(self, segment: Segment) -> tuple[Head, ...]:  # noqa: ARG002
        """See `Task`."""
        return (self.head,)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        return self.most_entities(size) * (ENTITY_BYTES + max(len(label.encode()) for label in self.labels))

    def most_entities(self, size: Size) -> int:
        """About how many entities a document has at most."""
        return 1 + size.tokens // TOKENS_AN_ENTITY

    def merge(self, text: str, *, stream: bool) -> "ClassifyTokensMerge":
        """See `Task`."""
        return ClassifyTokensMerge(self, text, keep=not stream)


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Tokens, or words, that may be in entities: scores (n, labels), spans, segments, and their words' numbers."""

    scores: Scores
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    segments: NDArray[np.int64]
    words: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, part: slice | NDArray[np.int64]) -> "_Pieces":
        return _Pieces(*(column[part] for column in self._columns()))

    def followed_by(self, others: "_Pieces") -> "_Pieces":
        pairs = zip(self._columns(), others._columns(), strict=True)  # noqa: SLF001
        return _Pieces(*(np.concatenate(pair) for pair in pairs)) if len(self) else others

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.scores, self.starts, self.ends, self.segments, self.words


class ClassifyTokensMerge:
    """Joins a document's tokens to entities: at once in a stream, else many segments' at a time, which costs less."""

    def __init__(self, task: ClassifyTokensTask, text: str, *, keep: bool) -> None:
        self._task = task
        self._text = text
        self._labels, self._kinds, self._begins = _tags(task.labels)
        self._wanted = np.array([not task.wanted or label in task.wanted for label in self._labels])
        self._coming: list[tuple[Segment, Scores]] = []  # with their logits
        self._words = 0  # seen so far
        self._waiting: _Pieces | None = None  # the last word, which may go on
        self._open: _Pieces | None = None  # words of an entity that may go on
        self._closed = _NONE
        self._all = [_NONE] if keep else None

    @property
    def settled(self) -> int:
        """Up to which code point no entity can still be found."""
        return min((int(each.starts[0]) for each in (self._open, self._waiting) if each), default=len(self._text))

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in a segment's logits."""
        self._coming.append((segment, parts[self._task.head][segment.owned]))
        if self._all is None or len(self._coming) == SEGMENTS_AT_ONCE:
            self._take_in()

    def of_segment(self, parts: Parts) -> Entities:  # noqa: ARG002
        """The entities that ended with the segment that was taken in last."""
        return self._closed

    def result(self) -> Entities | None:
        """All entities, unless they were sent on."""
        if self._coming:
            self._take_in()
        return None if self._waiting is None else Entities.joined(self._all or [_NONE])

    def _take_in(self) -> None:
        """Find the entities that end in the segments that have come."""
        segments = [segment for segment, _ in self._coming]
        pieces = self._read(segments, np.concatenate([logits for _, logits in self._coming]))
        self._coming = []
        last = segments[-1].end == len(self._text)
        complete = self._words if last else self._words - 1
        known = int(np.searchsorted(pieces.words, complete))
        words = _aggregated(pieces[:known], self._task.aggregation)
        self._waiting = pieces[known:]
        self._closed = self._join(
            words if self._open is None else self._open.followed_by(words), None if last else complete
        )
        if self._all is not None:
            self._all.append(self._closed)

    def _read(self, segments: Sequence[Segment], logits: Scores) -> _Pieces:
        """The pieces of the segments' words that may be in entities, of the last one, and of the one that goes on.

        Most words are outside of all: leaving them out early makes the rest five times as fast. A word whose pieces are
        all outside is outside, however scores are aggregated.
        """
        starts = np.concatenate([segment.token_starts for segment in segments])
        if self._task.aggregation == "simple":
            joined = np.zeros(len(starts), np.bool_)
        else:
            ids = np.concatenate([segment.ids[segment.owned] for segment in segments])
            joined = self._task.tokenizer.continues_word(ids, starts, self._text)
        if not self._words:
            joined[0] = False
        own = np.cumsum(~joined)  # 0: the word of the segment before
        best = logits.argmax(axis=1)
        wanted = np.bincount(own, weights=self._kinds[best]) > 0
        wanted[[0, -1]] = True
        kept = np.flatnonzero(wanted[own])
        scores = np.exp(logits[kept] - logits[kept, best[kept], None])
        pieces = _Pieces(
            scores / scores.sum(axis=1, keepdims=True),
            starts[kept],
            np.concatenate([segment.token_ends for segment in segments])[kept],
            np.repeat([segment.index for segment in segments], [segment.tokens for segment in segments])[kept],
            own[kept] + self._words - 1,
        )
        self._words += int(own[-1])
        return pieces if self._waiting is None else self._waiting.followed_by(pieces)

    def _join(self, words: _Pieces, complete: int | None) -> Entities:
        """Words to the entities that are wanted. A stray "I-" begins one.

        The last one stays open if it may go on behind the `complete` words that are known; None: nothing comes behind.
        """
        best = words.scores.argmax(axis=1)
        inside = np.flatnonzero(self._kinds[best])
        words, best = words[inside], best[inside]
        kinds, begins = self._kinds[best], self._begins[best]
        follows = (np.diff(words.words) == 1) & (np.diff(kinds) == 0)
        follows &= ~begins[1:] | (np.diff(words.segments) != 0)
        bounds = np.concatenate([[0], 1 + np.flatnonzero(~follows), [len(words)]])[0 if len(words) else 1 :]
        self._open = None
        if complete is not None and len(words) and words.words[-1] == complete - 1:
            self._open, bounds = words[bounds[-2] :], bounds[:-1]
        firsts, lasts = bounds[:-1], bounds[1:] - 1
        certain = words.scores[np.arange(bounds[-1]), best[: bounds[-1]]].astype(np.float64)
        scores = np.add.reduceat(certain, firsts) / np.diff(bounds)
        wanted = self._wanted[kinds[firsts]] & (scores >= self._task.min_score)
        wanted &= words.starts[firsts] < words.ends[lasts]
        firsts, lasts = firsts[wanted], lasts[wanted]
        spans = np.stack([words.starts[firsts], words.ends[lasts]], axis=1)
        labels = [self._labels[kind] for kind in kinds[firsts].tolist()]
        return self._trimmed(Entities(spans, labels, scores[wanted], words.segments[firsts]))

    def _trimmed(self, found: Entities) -> Entities:
        """Without white space at their ends: SentencePiece's pieces begin with the space before them."""
        if not len(found):
            return found
        outermost = "".join(itemgetter(*(found.spans - (0, 1)).ravel().tolist())(self._text))
        if outermost.split() == [outermost]:  # no white space there
            return found
        covered = [self._text[start:end] for start, end in found.spans.tolist()]
        trimmed = [(len(text) - len(text.lstrip()), len(text.rstrip()) - len(text)) for text in covered]
        spans = found.spans + trimmed
        kept = np.flatnonzero(spans[:, 0] < spans[:, 1])
        return Entities(spans[kept], [found.labels[i] for i in kept], found.scores[kept], found.segments[kept])


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and the entity's own label."""
    prefix, _, rest = label.partition("-")
    return (prefix == "B", rest) if prefix in {"B", "I"} and rest else (False, label)


def entity_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of entities that a head's labels stand for, in their order."""
    return tuple(dict.fromkeys(tag for _, tag in map(_tag, labels) if tag != OUTSIDE))


@lru_cache
def _tags(labels: tuple[str, ...]) -> tuple[tuple[str, ...], NDArray[np.int64], NDArray[np.bool_]]:
    """Labels of entities, the first being none; of each of a head's labels, which it is, and whether it begins one."""
    tags = [_tag(label) for label in labels]
    entities = (OUTSIDE, *entity_labels(labels))
    return entities, np.array([entities.index(label) for _, label in tags]), np.array([begins for begins, _ in tags])


def _aggregated(pieces: _Pieces, aggregation: Aggregation) -> _Pieces:
    """Pieces to words, by the strategies of transformers' pipeline."""
    firsts = np.flatnonzero(np.diff(pieces.words, prepend=-1))
    if len(firsts) == len(pieces):
        return pieces
    match aggregation:
        case "average":
            counts = np.diff([*firsts, len(pieces)])
            scores = (np.add.reduceat(pieces.scores, firsts, axis=0) / counts[:, None]).astype(np.float32)
        case "max":
            scores = pieces.scores[_most_certain(pieces.scores.max(axis=1), firsts)]
        case _:
            scores = pieces.scores[firsts]
    lasts = np.concatenate([firsts[1:], [len(pieces)]]) - 1
    return _Pieces(scores, pieces.starts[firsts], pieces.ends[lasts], pieces.segments[firsts], pieces.words[firsts])


def _most_certain(certainty: Scores, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each word, the first piece with the highest score."""
    word = np.repeat(np.arange(len(firsts)), np.diff([*firsts, len(certainty)]))
    best = np.flatnonzero(certainty == np.maximum.reduceat(certainty, firsts)[word])
    return best[np.unique(word[best], return_index=True)[1]]
