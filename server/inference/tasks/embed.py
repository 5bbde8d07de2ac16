"""Embed: vectors of a document, of its segments and of spans of its text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chunking import Segment
from server.types import Head, Pool, PoolingName, SumRanges

DataTypeName = Literal["float32", "float16", "int8", "binary"]
Vectors = NDArray[np.float32]

NOTHING = np.empty(0, np.int64)
LEAST_NORM = np.float32(1e-12)  # of a vector of zeros; PyTorch normalises so
BITS = {"float32": 32, "float16": 16, "int8": 8, "binary": 1}


@dataclass(frozen=True, slots=True, eq=False)
class EmbedTask:
    """What a caller wants of an embedding, with the model's own choices filled in.

    Attributes:
        dimensions: so many leading values of each vector are kept, before normalising (Matryoshka).
        spans: (spans, 2), stretches of the document in code points, for late chunking: each gets the mean of its
            tokens' states.
    """

    name: str
    pooling: PoolingName
    normalize: bool
    dimensions: int
    data_type: DataTypeName = "float32"
    segment_vectors: bool = False
    spans: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), np.int64))

    def heads(self, segment: Segment) -> tuple[Head, ...]:
        """What the model has to make of this segment."""
        _, ranges = _ranges_inside(segment, self.spans)
        return (Pool(self.pooling), SumRanges(ranges)) if ranges else (Pool(self.pooling),)

    def tensor_bytes(self, segments: int) -> int:
        """Size of the answer for a document of so many segments."""
        vectors = 1 + (segments if self.segment_vectors else 0) + len(self.spans)
        return vectors * -(-self.dimensions * BITS[self.data_type] // 8)

    def finish(self, vectors: Vectors) -> Vectors:
        """Vectors as they are answered: shortened, then of length 1 where asked for; (n, hidden) to (n, dimensions)."""
        kept = vectors[:, : self.dimensions]
        if self.normalize:
            kept = kept / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), LEAST_NORM)
        return kept


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """Vectors, float32 (n, dimensions): of the document, of its segments, of spans; None where not asked for."""

    document: Vectors
    segments: Vectors | None
    spans: Vectors | None


class EmbedMerge:
    """Takes a document's segments one by one and keeps no state of theirs, but for the vectors that were asked for.

    The document's vector is the mean of its segments' vectors before normalising, weighted by owned tokens.
    """

    def __init__(self, task: EmbedTask, keep_segments: bool) -> None:
        self._task = task
        self._sum: NDArray[np.float64] | None = None
        self._weight = 0
        self._segments: list[Vectors] | None = [] if keep_segments and task.segment_vectors else None
        self._span_sums: NDArray[np.float64] | None = None
        self._span_tokens = np.zeros(len(task.spans), np.int64)

    def add(self, segment: Segment, parts: Mapping[Head, Vectors]) -> None:
        """Take in a segment's numbers."""
        vector = parts[Pool(self._task.pooling)]
        if self._sum is None:
            self._sum = np.zeros(len(vector), np.float64)
            self._span_sums = np.zeros((len(self._task.spans), len(vector)), np.float64)
        self._sum += vector.astype(np.float64) * segment.tokens
        self._weight += segment.tokens
        if self._segments is not None:
            self._segments.append(vector)
        touching, ranges = _ranges_inside(segment, self._task.spans)
        if ranges and self._span_sums is not None:
            self._span_sums[touching] += parts[SumRanges(ranges)]
            self._span_tokens[touching] += [last - first for first, last in ranges]

    def of_segment(self, parts: Mapping[Head, Vectors]) -> Vectors | None:
        """One segment's own vector as it is answered, (1, dimensions), if it was asked for."""
        return self._task.finish(parts[Pool(self._task.pooling)][None]) if self._task.segment_vectors else None

    def result(self) -> Embedding | None:
        """The answer for the segments taken in so far; None while there are none."""
        if self._sum is None or self._span_sums is None:
            return None
        document = (self._sum / self._weight).astype(np.float32)
        spans = (self._span_sums / np.maximum(self._span_tokens, 1)[:, None]).astype(np.float32)
        return Embedding(
            document=self._task.finish(document[None]),
            segments=None if self._segments is None else self._task.finish(np.stack(self._segments)),
            spans=self._task.finish(spans) if len(self._task.spans) else None,
        )


def _ranges_inside(segment: Segment, spans: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[tuple[int, int], ...]]:
    """Which spans share text with tokens that the segment owns, and those tokens' positions in `segment.ids`."""
    if not len(spans):
        return NOTHING, ()
    first = np.searchsorted(segment.token_ends, spans[:, 0], side="right")
    last = np.searchsorted(segment.token_starts, spans[:, 1], side="left")
    touching = np.flatnonzero(first < last)
    shift = segment.owned.start
    return touching, tuple((shift + int(first[i]), shift + int(last[i])) for i in touching)
