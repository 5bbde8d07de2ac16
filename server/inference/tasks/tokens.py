"""Classify tokens: entities with exact spans, joined across the pieces of words and across segment edges.

Scores become entities as in transformers' token classification pipeline: pieces join to words, words to entities, by
labels in BIO form. The last word and an entity that may go on wait for the next segment. There a "B-" continues an
entity of its label too: the model saw only one side of the edge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chunking import Segment, Tokenizer
from server.inference.tasks.task import Parts, Size
from server.types import Head, Trained

Aggregation = Literal["simple", "first", "average", "max"]
Scores = NDArray[np.float32]

OUTSIDE = "O"
ENTITY_BYTES = 40  # without its label
TOKENS_AN_ENTITY = 4  # at least, in a whole document; a reply is checked again once it is made


@dataclass(frozen=True, slots=True)
class Entity:
    """A labelled stretch of the document.

    Attributes:
        start, end: in code points.
        score: mean over its words.
        segment: the segment in which it starts.
    """

    start: int
    end: int
    label: str
    score: float
    segment: int


@dataclass(frozen=True, slots=True)
class Entities:
    """Entities in document order, without overlaps."""

    entities: tuple[Entity, ...] = ()


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
        return self.most_entities(size) * (ENTITY_BYTES + max(map(len, self.labels)))

    def most_entities(self, size: Size) -> int:
        """About how many entities a document has at most."""
        return 1 + size.tokens // TOKENS_AN_ENTITY

    def merge(self, text: str, *, stream: bool) -> "ClassifyTokensMerge":
        """See `Task`."""
        return ClassifyTokensMerge(self, text, keep=not stream)


@dataclass(frozen=True, slots=True, eq=False)
class _Words:
    """Words, or pieces of them that are still to be joined: scores (n, labels), spans, segments, and joints.

    Attributes:
        joined: whether each belongs to the word of the one before it.
    """

    scores: Scores
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    segments: NDArray[np.int64]
    joined: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, part: slice) -> "_Words":
        return _Words(self.scores[part], self.starts[part], self.ends[part], self.segments[part], self.joined[part])

    def followed_by(self, others: "_Words") -> "_Words":
        pairs = zip(self._columns(), others._columns(), strict=True)  # noqa: SLF001
        return _Words(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[NDArray[np.generic], ...]:
        return self.scores, self.starts, self.ends, self.segments, self.joined


@dataclass(slots=True)
class _Open:
    """An entity that may go on with the next word: its label's number, its span, and the sum of its words' scores."""

    kind: int
    start: int
    end: int
    segment: int
    last_segment: int
    score: float
    words: int


class ClassifyTokensMerge:
    """Joins a document's tokens to entities."""

    def __init__(self, task: ClassifyTokensTask, text: str, *, keep: bool) -> None:
        self._task = task
        self._text = text
        tags = [_tag(label) for label in task.labels]
        self._labels = (OUTSIDE, *entity_labels(task.labels))
        self._kinds = np.array([self._labels.index(label) for _, label in tags])  # of the head's labels; 0: outside
        self._begins = np.array([begins for begins, _ in tags])
        self._waiting: _Words | None = None
        self._open: _Open | None = None
        self._closed: tuple[Entity, ...] = ()
        self._all: list[Entity] | None = [] if keep else None

    @property
    def settled(self) -> int:
        """Up to which code point no entity can still be found."""
        waiting = self._waiting.starts[0] if self._waiting is not None and len(self._waiting) else len(self._text)
        return min(self._open.start if self._open else len(self._text), int(waiting))

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in a segment's logits."""
        words = self._read(segment, parts)
        if self._waiting is not None:
            words = self._waiting.followed_by(words)
        last = segment.end == len(self._text)
        whole = len(words) if last else _start_of_last_word(words)
        self._waiting = words[whole:]
        closed = list(self._join(_aggregated(words[:whole], self._task.aggregation))) if whole else []
        if last and self._open:
            closed.append(self._close(self._open))
            self._open = None
        self._closed = tuple(filter(self._is_wanted, closed))
        if self._all is not None:
            self._all += self._closed

    def of_segment(self, parts: Parts) -> Entities:  # noqa: ARG002
        """The entities that ended with the segment that was taken in last."""
        return Entities(self._closed)

    def result(self) -> Entities | None:
        """All entities, unless they were sent on."""
        return None if self._waiting is None else Entities(tuple(self._all or ()))

    def _read(self, segment: Segment, parts: Parts) -> _Words:
        logits = parts[self._task.head][segment.owned]
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        starts = segment.token_starts
        if self._task.aggregation == "simple":
            joined = np.zeros(len(starts), np.bool_)
        else:
            joined = self._task.tokenizer.continues_word(segment.ids[segment.owned], starts, self._text)
        return _Words(
            scores / scores.sum(axis=1, keepdims=True),
            starts,
            segment.token_ends,
            np.full(len(starts), segment.index),
            joined,
        )

    def _join(self, words: _Words) -> Iterator[Entity]:
        """Words to entities. A stray "I-" begins one."""
        best = words.scores.argmax(axis=1)
        kinds, begins = self._kinds[best], self._begins[best]
        before = _Open(0, 0, 0, 0, -1, 0.0, 0) if self._open is None else self._open
        is_edge = words.segments != np.concatenate([[before.last_segment], words.segments[:-1]])
        same = kinds == np.concatenate([[before.kind], kinds[:-1]])
        goes_on = (kinds > 0) & same & (~begins | is_edge)
        breaks = np.append(np.flatnonzero(~goes_on), len(words))
        sums = np.concatenate([[0.0], np.cumsum(words.scores.max(axis=1), dtype=np.float64)])
        if self._open:
            self._extend(self._open, words, sums, int(breaks[0]))
            if breaks[0] < len(words):
                yield self._close(self._open)
                self._open = None
        firsts = np.flatnonzero((kinds > 0) & ~goes_on)
        for first, stop in zip(firsts.tolist(), breaks[np.searchsorted(breaks, firsts) + 1].tolist(), strict=True):
            segment = int(words.segments[first])
            # Less what is before it, since `_extend` adds all up to its end.
            entity = _Open(int(kinds[first]), int(words.starts[first]), 0, segment, segment, -sums[first], -first)
            self._extend(entity, words, sums, stop)
            if stop < len(words):
                yield self._close(entity)
            else:
                self._open = entity

    @staticmethod
    def _extend(entity: _Open, words: _Words, sums: NDArray[np.float64], stop: int) -> None:
        """Let an entity go on up to a word; `sums` are of the scores before each word."""
        if stop:
            entity.end, entity.last_segment = int(words.ends[stop - 1]), int(words.segments[stop - 1])
            entity.score += float(sums[stop])
            entity.words += stop

    def _close(self, entity: _Open) -> Entity:
        """An entity without white space at its ends: SentencePiece's pieces begin with the space before them."""
        start, end = entity.start, entity.end
        while start < end and self._text[start].isspace():
            start += 1
        while start < end and self._text[end - 1].isspace():
            end -= 1
        return Entity(start, end, self._labels[entity.kind], entity.score / entity.words, entity.segment)

    def _is_wanted(self, entity: Entity) -> bool:
        task = self._task
        wanted = not task.wanted or entity.label in task.wanted
        return wanted and entity.score >= task.min_score and entity.start < entity.end


def _tag(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and the entity's own label."""
    prefix, _, rest = label.partition("-")
    return (prefix == "B", rest) if prefix in {"B", "I"} and rest else (False, label)


def entity_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels of entities that a head's labels stand for, in their order."""
    return tuple(dict.fromkeys(tag for _, tag in map(_tag, labels) if tag != OUTSIDE))


def _start_of_last_word(words: _Words) -> int:
    starts = np.flatnonzero(~words.joined)
    return int(starts[-1]) if len(starts) else 0


def _aggregated(pieces: _Words, aggregation: Aggregation) -> _Words:
    """Pieces to words, by the strategies of transformers' pipeline."""
    firsts = np.flatnonzero(np.concatenate([[True], ~pieces.joined[1:]]))
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
    starts, segments = pieces.starts[firsts], pieces.segments[firsts]
    return _Words(scores, starts, pieces.ends[lasts], segments, np.zeros(len(firsts), np.bool_))


def _most_certain(certainty: Scores, firsts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each word, the first piece with the highest score."""
    word = np.repeat(np.arange(len(firsts)), np.diff([*firsts, len(certainty)]))
    best = np.flatnonzero(certainty == np.maximum.reduceat(certainty, firsts)[word])
    return best[np.unique(word[best], return_index=True)[1]]
