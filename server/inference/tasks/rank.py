"""Rank: how well a document's segments answer a query, and the order of documents that follows from it.

A segment's score is the product of its vector and the query's, or a cross-encoder's. A document's score is the highest
of its segments.
"""

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chunking import Frame, Segment
from server.inference.tasks.embed import Embedding, EmbedTask, Vectors
from server.inference.tasks.sparse import EmbedSparseTask, SparseEmbedding, SparseVector
from server.inference.tasks.task import Parts, Size
from server.types import Head, Pool, Trained

RankMethod = Literal["dense", "sparse", "fused", "cross-encoder"]

MAX_PASSAGES = 100  # of a document: so a ranking fits one message of a stream
PASSAGES = 3  # of a document by default
RANKING_BYTES = 16
PASSAGE_BYTES = 32
FUSION_K = 60  # Cormack et al., 2009


@dataclass(frozen=True, slots=True)
class Passage:
    """A segment as an answer to the query.

    Attributes:
        start, end: in code points.
        trunk: number of the pass over the document that the segment was cut for.
    """

    start: int
    end: int
    score: float
    segment: int
    trunk: int = 0


@dataclass(frozen=True, slots=True)
class Ranking:
    """A document's score, and its best passages by descending score; none in a segment's."""

    score: float
    passages: tuple[Passage, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RankTask:
    """Rank by vectors.

    Attributes:
        query: must be answered by `vectors` before segments can be scored.
        field: where the request has the query.
        frame: what surrounds the query.
        vectors: makes the vectors that are compared.
        passages: number of best passages of a document.
        asked: the query's vector, once it is known.
    """

    name: str
    query: str
    field: str
    frame: Frame
    vectors: EmbedTask | EmbedSparseTask
    passages: int = PASSAGES
    asked: Vectors | SparseVector | None = None

    is_slow = False

    @property
    def identity(self) -> str:
        """See `Task`."""
        return f"rank {self.vectors.identity}"

    def heads(self, segment: Segment) -> tuple[Head, ...]:
        """See `Task`."""
        return self.vectors.heads(segment)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        return ranking_bytes(self.passages, size)

    def merge(self, text: str, *, stream: bool) -> "RankMerge":  # noqa: ARG002
        """See `Task`."""
        return RankMerge(self)

    def given(self, answer: object) -> "RankTask":
        """The task that knows what the query was answered."""
        assert isinstance(answer, Embedding | SparseEmbedding)
        return replace(self, asked=answer.document)

    def score(self, parts: Parts) -> float:
        """A segment's score."""
        if isinstance(self.vectors, EmbedSparseTask):
            assert isinstance(self.asked, SparseVector)
            ids, weights = parts[self.vectors.head]
            shared = np.intersect1d(self.asked.indices, ids.astype(np.int64), assume_unique=True, return_indices=True)
            return _product(self.asked.weights[shared[1]], weights[shared[2]])
        assert isinstance(self.asked, np.ndarray)
        vector = self.vectors.finish(parts[Pool(self.vectors.pooling)][None])
        return _product(self.asked[0], vector[0])


@dataclass(frozen=True, slots=True, eq=False)
class CrossEncodeTask:
    """Rank by a head that reads query and passage together.

    Attributes:
        frame: what surrounds each passage, the query included.
    """

    name: str
    frame: Frame
    head: Trained
    passages: int = PASSAGES

    is_slow = False

    @property
    def identity(self) -> str:
        """See `Task`."""
        return f"cross-encode {self.head.digest}"

    def heads(self, segment: Segment) -> tuple[Head, ...]:  # noqa: ARG002
        """See `Task`."""
        return (self.head,)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        return ranking_bytes(self.passages, size)

    def merge(self, text: str, *, stream: bool) -> "RankMerge":  # noqa: ARG002
        """See `Task`."""
        return RankMerge(self)

    def score(self, parts: Parts) -> float:
        """A segment's score."""
        return float(parts[self.head][0])


def ranking_bytes(passages: int, size: Size) -> int:
    """The size of a document's ranking."""
    return RANKING_BYTES + PASSAGE_BYTES * min(passages, size.segments)


class RankMerge:
    """Keeps the best segments."""

    def __init__(self, task: RankTask | CrossEncodeTask) -> None:
        self._task = task
        self._best: list[tuple[float, int, Passage]] = []  # a heap, the worst first; earlier segments win ties
        self._last = 0.0

    def add(self, segment: Segment, parts: Parts) -> None:
        """Score a segment."""
        self._last = score = self._task.score(parts)
        entry = (score, -segment.index, Passage(segment.start, segment.end, score, segment.index))
        if len(self._best) < max(1, self._task.passages):
            heapq.heappush(self._best, entry)
        else:
            heapq.heappushpop(self._best, entry)

    def of_segment(self, parts: Parts) -> Ranking:  # noqa: ARG002
        """The score of the segment that was taken in last."""
        return Ranking(self._last)

    def result(self) -> Ranking | None:
        """The document's score and passages."""
        if not self._best:
            return None
        passages = [passage for _, _, passage in sorted(self._best, reverse=True)]
        return Ranking(passages[0].score, tuple(passages[: self._task.passages]))


def best_first(rankings: Sequence[Ranking]) -> list[int]:
    """Indices of rankings by descending score; equal scores keep their order."""
    return sorted(range(len(rankings)), key=lambda i: -rankings[i].score)


def fused(methods: Sequence[Sequence[Ranking]], passages: int) -> list[Ranking]:
    """Reciprocal rank fusion of methods that ranked the same documents.

    Documents are ranked among each other, passages among those of their document. Where passages overlap, the best one
    is kept.
    """
    scores = [
        sum(shares) for shares in zip(*(_shares([ranking.score for ranking in each]) for each in methods), strict=True)
    ]
    return [
        Ranking(score, tuple(islice(_apart(_fused_passages(of_document)), passages)))
        for score, of_document in zip(scores, zip(*methods, strict=True), strict=True)
    ]


def _fused_passages(rankings: Iterable[Ranking]) -> list[Passage]:
    found: dict[tuple[int, int], Passage] = {}
    for ranking in rankings:
        shares = _shares([passage.score for passage in ranking.passages])
        for passage, share in zip(ranking.passages, shares, strict=True):
            span = passage.start, passage.end
            known = found.get(span)
            found[span] = replace(known or passage, score=share + (known.score if known else 0))
    return sorted(found.values(), key=lambda passage: (-passage.score, passage.start))


def _apart(passages: Iterable[Passage]) -> Iterable[Passage]:
    kept: list[Passage] = []
    for passage in passages:
        if all(passage.end <= other.start or other.end <= passage.start for other in kept):
            kept.append(passage)
            yield passage


def _shares(scores: Sequence[float]) -> list[float]:
    """1 / (k + rank) of each score; equal scores share the better rank."""
    ranks: dict[float, int] = {}
    for rank, score in enumerate(sorted(scores, reverse=True), 1):
        ranks.setdefault(score, rank)
    return [1 / (FUSION_K + ranks[score]) for score in scores]


def _product(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """A dot product, added up one by one: NumPy's sums follow the instruction set."""
    products = np.multiply(one, other, dtype=np.float64)
    return float(np.add.accumulate(products)[-1]) if len(products) else 0.0
