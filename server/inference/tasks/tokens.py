"""Classify tokens: entities with exact spans, joined across the pieces of words and across segment edges.

Scores become entities as in transformers' token classification pipeline: pieces join to words, words to entities, by
labels in BIO form. The last word and an entity that may go on wait for the next segment. There a "B-" continues an
entity of its label too: the model saw only one side of the edge.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
        return self.most_entities(size) * (ENTITY_BYTES + max(len(label.encode()) for label in self.labels))

    def most_entities(self, size: Size) -> int:
        """About how many entities a document has at most."""
        return 1 + size.tokens // TOKENS_AN_ENTITY

    def merge(self, text: str, *, stream: bool) -> "ClassifyTokensMerge":
        """See `Task`."""
        return ClassifyTokensMerge(self, text, keep=not stream)


@dataclass(frozen=True, slots=True, eq=False)
class _Pieces:
    """Tokens of words that may be in entities: scores (n, labels), spans, segments, and their words' numbers."""

    scores: Scores
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    segments: NDArray[np.int64]
    words: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, part: slice) -> "_Pieces":
        return _Pieces(*(column[part] for column in self._columns()))

    def followed_by(self, others: "_Pieces") -> "_Pieces":
        pairs = zip(self._columns(), others._columns(), strict=True)  # noqa: SLF001
        return _Pieces(*(np.concatenate(pair) for pair in pairs))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return self.scores, self.starts, self.ends, self.segments, self.words


@dataclass(slots=True)
class _Open:
    """An entity that may go on: its label's number, its span, its segments, its last word, and its words' scores."""

    kind: int
    start: int
    end: int
    segment: int
    last_segment: int
    last_word: int
    scores: list[float]


class ClassifyTokensMerge:
    """Joins a document's tokens to entities."""

    def __init__(self, task: ClassifyTokensTask, text: str, *, keep: bool) -> None:
        self._task = task
        self._text = text
        self._labels, self._kinds, self._begins = _tags(task.labels)
        self._words = 0  # seen so far
        self._waiting: _Pieces | None = None  # the last word, which may go on
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
        pieces = self._read(segment, parts)
        last = segment.end == len(self._text)
        known = self._words if last else self._words - 1  # words that are complete
        complete = int(np.searchsorted(pieces.words, known))
        self._waiting = pieces[complete:]
        closed = list(self._join(_aggregated(pieces[:complete], self._task.aggregation))) if complete else []
        if self._open and (last or self._open.last_word < known - 1):
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

    def _read(self, segment: Segment, parts: Parts) -> _Pieces:
        """The pieces of the segment's words that may be in entities, of its last one, and of the one that goes on.

        Most words are outside of all: leaving them out early makes the rest five times as fast. A word whose pieces are
        all outside is outside, however scores are aggregated.
        """
        logits, starts = parts[self._task.head][segment.owned], segment.token_starts
        if self._task.aggregation == "simple":
            joined = np.zeros(len(starts), np.bool_)
        else:
            joined = self._task.tokenizer.continues_word(segment.ids[segment.owned], starts, self._text)
        if not self._words:
            joined[0] = False
        own = np.cumsum(~joined)  # 0: the word of the segment before
        wanted = np.bincount(own, weights=self._kinds[logits.argmax(axis=1)]) > 0
        wanted[[0, -1]] = True
        kept = np.flatnonzero(wanted[own])
        scores = np.exp(logits[kept] - logits[kept].max(axis=1, keepdims=True))
        pieces = _Pieces(
            scores / scores.sum(axis=1, keepdims=True),
            starts[kept],
            segment.token_ends[kept],
            np.full(len(kept), segment.index),
            own[kept] + self._words - 1,
        )
        self._words += int(own[-1])
        return pieces if self._waiting is None else self._waiting.followed_by(pieces)

    def _join(self, words: _Pieces) -> Iterator[Entity]:
        """Words to entities. A stray "I-" begins one."""
        best = words.scores.argmax(axis=1)
        columns = (words.words, self._kinds[best], self._begins[best], words.starts, words.ends, words.segments)
        scores = words.scores.max(axis=1).tolist()
        for (word, kind, begins, start, end, segment), score in zip(
            zip(*(column.tolist() for column in columns), strict=True), scores, strict=True
        ):
            if not kind:
                continue
            entity = self._open
            follows = entity is not None and (word, kind) == (entity.last_word + 1, entity.kind)
            if entity and follows and (not begins or segment != entity.last_segment):
                entity.end, entity.last_segment, entity.last_word = end, segment, word
                entity.scores.append(score)
                continue
            if entity:
                yield self._close(entity)
            self._open = _Open(kind, start, end, segment, segment, word, [score])

    def _close(self, entity: _Open) -> Entity:
        """An entity without white space at its ends: SentencePiece's pieces begin with the space before them."""
        start, end = entity.start, entity.end
        while start < end and self._text[start].isspace():
            start += 1
        while start < end and self._text[end - 1].isspace():
            end -= 1
        return Entity(start, end, self._labels[entity.kind], sum(entity.scores) / len(entity.scores), entity.segment)

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
