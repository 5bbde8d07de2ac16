"""Embed sparse: a weight for each word of the vocabulary that a document is about, the highest of any segment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunking import Segment
from server.inference.tasks.task import Parts, Size
from server.types import Head, Trained

WORD_BYTES = 8
TOKEN_BYTES = 12  # of a token's text
WORDS_A_TOKEN = 16  # that get a weight, at most, in a whole document; a reply is checked again once it is made


@dataclass(frozen=True, slots=True, eq=False)
class SparseVector:
    """Ids of tokens, ascending, int64 (n,), with their positive weights, float32 (n,), and their texts if wanted."""

    indices: NDArray[np.int64]
    weights: NDArray[np.float32]
    tokens: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SparseEmbedding:
    """A document's vector and its segments', where they were asked for."""

    document: SparseVector | None = None
    segments: tuple[SparseVector, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class EmbedSparseTask:
    """What a caller wants of a sparse vector.

    Attributes:
        head: names the model's head.
        vocabulary: texts of tokens by id, where they are wanted; else empty.
        words: size of the vocabulary.
        top_k: at most so many of the highest weights; 0 for all.
    """

    name: str
    head: Trained
    words: int
    vocabulary: Sequence[str] = ()
    top_k: int = 0
    segment_vectors: bool = False

    is_slow = False

    @property
    def identity(self) -> str:
        """See `Task`."""
        return f"sparse {self.head.digest}"

    def heads(self, segment: Segment) -> tuple[Head, ...]:  # noqa: ARG002
        """See `Task`."""
        return (self.head,)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        each = WORD_BYTES + (TOKEN_BYTES if self.vocabulary else 0)
        segments = size.segments if self.segment_vectors else 0
        a_segment = min(self.top_k or self.words, self.words, WORDS_A_TOKEN * -(-size.tokens // max(1, size.segments)))
        return each * (min(self.top_k or self.words, WORDS_A_TOKEN * size.tokens) + segments * a_segment)

    def merge(self, text: str, *, stream: bool) -> "EmbedSparseMerge":  # noqa: ARG002
        """See `Task`."""
        return EmbedSparseMerge(self, keep_segments=self.segment_vectors and not stream)

    def vector(self, indices: NDArray[np.int64], weights: NDArray[np.float32]) -> SparseVector:
        """A vector as it is answered."""
        if self.top_k and len(indices) > self.top_k:
            kept = np.sort(np.argsort(-weights, kind="stable")[: self.top_k])
            indices, weights = indices[kept], weights[kept]
        known = len(self.vocabulary)  # a model may have room for more
        words = tuple(self.vocabulary[i] if i < known else "" for i in indices.tolist()) if known else ()
        return SparseVector(indices, weights, words)


class EmbedSparseMerge:
    """Takes the highest weights."""

    def __init__(self, task: EmbedSparseTask, *, keep_segments: bool) -> None:
        self._task = task
        self._weights = np.zeros(task.words, np.float32)
        self._segments: list[SparseVector] | None = [] if keep_segments else None
        self._any = False

    def add(self, segment: Segment, parts: Parts) -> None:  # noqa: ARG002
        """Take in a segment's weights."""
        indices, weights = self._of(parts)
        self._weights[indices] = np.maximum(self._weights[indices], weights)
        self._any = True
        if self._segments is not None:
            self._segments.append(self._task.vector(indices, weights))

    def of_segment(self, parts: Parts) -> SparseEmbedding:
        """One segment's own vector, if it was asked for."""
        return SparseEmbedding(segments=(self._task.vector(*self._of(parts)),) if self._task.segment_vectors else ())

    def result(self) -> SparseEmbedding | None:
        """The document's vector."""
        if not self._any:
            return None
        indices = np.flatnonzero(self._weights)
        return SparseEmbedding(self._task.vector(indices, self._weights[indices]), tuple(self._segments or ()))

    def _of(self, parts: Parts) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        ids, weights = parts[self._task.head]
        return ids.astype(np.int64), weights
