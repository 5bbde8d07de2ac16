"""Embed: vectors of a document, of its segments and of spans of its text."""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chunking import Segment
from server.inference.tasks.task import Parts, Size
from server.types import Head, Pool, PoolingName, SumRanges

DataTypeName = Literal["float32", "float16", "int8", "binary"]
Vectors = NDArray[np.float32]

MANY_SPANS = 64  # 4,096 of them in one segment take 0.1 s
LEAST_NORM = np.float32(1e-12)  # of a vector of zeros; PyTorch normalises so
BITS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}


@dataclass(frozen=True, slots=True, eq=False)
class EmbedTask:
    """What a caller wants of an embedding, with the model's own choices filled in.

    Attributes:
        dimensions: so many leading values of each vector are kept, before normalising (Matryoshka).
        spans: (spans, 2), stretches of the document in code points, for late chunking: each gets the mean of its
            tokens' states.
        document: whether the document's own vector is wanted, for which no segment may be left out.
    """

    name: str
    pooling: PoolingName
    normalize: bool
    dimensions: int
    data_type: DataTypeName = "float32"
    segment_vectors: bool = False
    spans: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))
    document: bool = True

    @property
    def identity(self) -> str:
        """See `Task`: also the same for vectors that are only encoded differently."""
        return f"{self.pooling} {self.normalize} {self.dimensions}"

    @property
    def is_slow(self) -> bool:
        """See `Task`."""
        return len(self.spans) > MANY_SPANS

    def heads(self, segment: Segment) -> tuple[Head, ...]:
        """What the model has to make of this segment: its pooling, and sums up to where spans begin and end in it."""
        if not len(self.spans):  # most calls have none; edges took 30 % of the interpreter's time all the same
            return (Pool(self.pooling),)
        edges = _Edges.of(segment, self.spans)
        return (Pool(self.pooling), edges.sums) if edges.touched else (Pool(self.pooling),)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`: the vectors' bytes."""
        segments = size.segments - size.kept if self.segment_vectors else 0
        vectors = self.document + segments + len(self.spans)
        return vectors * -(-self.dimensions * BITS[self.data_type] // 8)

    def merge(self, text: str, *, stream: bool) -> "EmbedMerge":  # noqa: ARG002
        """See `Task`."""
        return EmbedMerge(self, keep_segments=not stream)

    def finish(self, vectors: Vectors) -> Vectors:
        """Vectors as they are answered: shortened, then of length 1 where asked for; (n, hidden) to (n, dimensions)."""
        kept = vectors[:, : self.dimensions]
        if self.normalize:
            kept = (kept / np.maximum(_norms(kept), LEAST_NORM)).astype(np.float32)
        return kept


def encoded(vectors: Vectors, data_type: DataTypeName) -> NDArray[Any]:
    """Vectors (n, dimensions) in a data type, little-endian; binary ones have a bit a value, the first one highest."""
    match data_type:
        case "float32":
            return vectors.astype("<f4")
        case "float16":
            return vectors.astype("<f2")
        case "int8":
            return np.rint(vectors * 127).clip(-127, 127).astype(np.int8)
        case "binary":
            return np.packbits(vectors > 0, axis=1)


def _norms(vectors: Vectors) -> NDArray[np.float64]:
    """Each vector's Euclidean norm, (n, 1), its squares added one by one: NumPy's sums follow the instruction set."""
    squares = np.square(vectors, dtype=np.float64)
    norms: NDArray[np.float64] = np.sqrt(np.add.accumulate(squares, axis=1)[:, -1:])
    return norms


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Vectors, float32 (n, dimensions): of the document, of its segments, of spans; None where not asked for."""

    document: Vectors | None = None
    segments: Vectors | None = None
    spans: Vectors | None = None


class EmbedMerge:
    """Takes a document's segments one by one and keeps no state of theirs, but for the vectors that were asked for.

    The document's vector is the mean of its segments' vectors before normalising, weighted by owned tokens. A span's is
    the mean of its tokens' states: the sum up to its end less the sum up to its start, so that thousands of spans that
    overlap cost no more than their edges.
    """

    def __init__(self, task: EmbedTask, keep_segments: bool) -> None:
        self._task = task
        self._sum: NDArray[np.float64] | None = None
        self._weight = 0
        self._segments: list[Vectors] | None = [] if keep_segments and task.segment_vectors else None
        self._spans = _SpanSums(task.spans)

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in a segment's numbers."""
        vector = parts[Pool(self._task.pooling)]
        if self._sum is None:
            self._sum = np.zeros(len(vector), np.float64)
        self._sum += vector.astype(np.float64) * segment.tokens
        self._weight += segment.tokens
        if self._segments is not None:
            self._segments.append(vector)
        if len(self._task.spans):
            self._spans.add(segment, parts, len(vector))

    def of_segment(self, parts: Parts) -> Embedding:
        """One segment's own vector as it is answered, (1, dimensions), if it was asked for."""
        if not self._task.segment_vectors:
            return Embedding()
        return Embedding(segments=self._task.finish(parts[Pool(self._task.pooling)][None]))

    def result(self) -> Embedding | None:
        """The answer for the segments taken in so far; None while there are none."""
        segments = self._task.finish(np.stack(self._segments)) if self._segments else None
        if not self._task.document:
            return Embedding(segments=segments)
        if self._sum is None:
            return None
        document = (self._sum / self._weight).astype(np.float32)
        return Embedding(
            document=self._task.finish(document[None]),
            segments=segments,
            spans=self._task.finish(self._spans.means()) if len(self._task.spans) else None,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Edges:
    """Where spans begin and end in a segment.

    Attributes:
        first: of each span, how many of the segment's tokens end before it begins.
        last: of each span, how many begin before it ends.
        touched: whether a span has a token here.
        places: distinct edges of spans behind the segment's first token, ascending; its end is the last of them.
        sums: sums of states from the segment's first token up to each of `places`.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    touched: bool
    places: NDArray[np.int64]
    sums: SumRanges

    @classmethod
    def of(cls, segment: Segment, spans: NDArray[np.int64]) -> "_Edges":
        first = np.searchsorted(segment.token_ends, spans[:, 0], side="right")
        last = np.searchsorted(segment.token_starts, spans[:, 1], side="left")
        touching = (first < segment.tokens) & (last > 0)
        places = np.unique(np.concatenate([first[touching], last[touching], [segment.tokens]]))
        places = places[places > 0]
        start = segment.owned.start
        ranges = tuple((start, start + int(place)) for place in places)
        return cls(first, last, bool(touching.any()), places, SumRanges(ranges))


class _SpanSums:
    """Sums of the states of spans' tokens, float64: the differences of sums that began at the document's start."""

    def __init__(self, spans: NDArray[np.int64]) -> None:
        self._spans = spans
        self._begun = np.zeros(len(spans), np.bool_)
        self._ended = np.zeros(len(spans), np.bool_)
        self._tokens = np.zeros(len(spans), np.int64)
        self._seen_tokens = 0
        self._sums = np.empty((0, 0))
        self._seen = np.empty(0)  # the sum of all tokens so far, but for segments that no span touches

    def add(self, segment: Segment, parts: Parts, hidden: int) -> None:
        """Take in a segment's sums."""
        if not self._seen_tokens:
            self._sums, self._seen = np.zeros((len(self._spans), hidden)), np.zeros(hidden)
        edges = _Edges.of(segment, self._spans)
        if edges.touched:
            upto = np.concatenate([np.zeros((1, hidden)), parts[edges.sums]]) + self._seen
            begins = ~self._begun & (edges.first < segment.tokens)
            self._count(begins, edges.first, upto, edges.places, -1)
            self._begun |= begins
            ends = self._begun & ~self._ended & (edges.last < segment.tokens)
            self._count(ends, edges.last, upto, edges.places, 1)
            self._ended |= ends
            self._seen = upto[-1]
        self._seen_tokens += segment.tokens

    def means(self) -> Vectors:
        """(spans, hidden); zeros for a span without a token. A span that has not ended is taken as far as it goes."""
        going_on = (self._begun & ~self._ended)[:, None]
        sums = self._sums + going_on * self._seen
        tokens = self._tokens + going_on[:, 0] * self._seen_tokens
        means: Vectors = np.where(tokens[:, None] > 0, sums / np.maximum(tokens, 1)[:, None], 0).astype(np.float32)
        return means

    def _count(
        self,
        spans: NDArray[np.bool_],
        edges: NDArray[np.int64],
        upto: NDArray[np.float64],
        places: NDArray[np.int64],
        sign: int,
    ) -> None:
        at = edges[spans]
        rows = np.where(at > 0, np.searchsorted(places, at) + 1, 0)
        self._sums[spans] += sign * upto[rows]
        self._tokens[spans] += sign * (self._seen_tokens + at)
