"""Classify: labels of a document from the logits of its segments.

One label a document: the mean of the segments' logits, weighted by owned tokens, then softmax. Any number of labels:
the highest logit of any segment, then the logistic function; so a label applies if it applies to any segment.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chunking import Segment
from server.inference.tasks.task import Parts, Size
from server.types import Head, Pool, Trained

Scores = NDArray[np.float64]

CARRIED = 0.5  # the least score of a segment that carries one of any number of labels
LABEL_BYTES = 16
SEGMENT_BYTES = 16


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label's score from 0 to 1, and the segments that carry it, with theirs."""

    label: str
    score: float
    segments: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Classification:
    """Labels by descending score."""

    labels: tuple[LabelScore, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ClassifyTask:
    """Which labels a caller wants.

    Attributes:
        head: what it needs of a segment: the model's own head, or a pooled vector for `readout`.
        digest: of the model's head.
        readout: turns the vector into logits; None: the head's results are logits.
        multi_label: a document may have any number of the labels.
        top_k: at most so many labels; 0 for all.
    """

    name: str
    head: Pool | Trained
    digest: str
    labels: tuple[str, ...]
    readout: Callable[[NDArray[np.float32]], Scores] | None = None
    multi_label: bool = False
    top_k: int = 0
    min_score: float = 0.0
    segments: bool = False

    is_slow = False

    @property
    def identity(self) -> str:
        """See `Task`."""
        return f"classify {self.digest}"

    def heads(self, segment: Segment) -> tuple[Head, ...]:  # noqa: ARG002
        """See `Task`."""
        return (self.head,)

    def reply_bytes(self, size: Size) -> int:
        """See `Task`."""
        carried = len(self.labels) if self.multi_label else 1
        each = sum(LABEL_BYTES + len(label.encode()) for label in self.labels)
        return each + (size.segments * carried * SEGMENT_BYTES if self.segments else 0)

    def merge(self, text: str, *, stream: bool) -> "ClassifyMerge":  # noqa: ARG002
        """See `Task`."""
        return ClassifyMerge(self)

    def logits(self, parts: Parts) -> Scores:
        """A segment's logits."""
        part = parts[self.head]
        return self.readout(part) if self.readout else part.astype(np.float64)

    def scores(self, logits: Scores) -> Scores:
        """Logits (..., labels) to scores. One label alone is independent, as in transformers."""
        if self.multi_label or len(self.labels) == 1:
            scores: Scores = 1 / (1 + np.exp(-logits))
            return scores
        powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares: Scores = powers / powers.sum(axis=-1, keepdims=True)
        return shares


class ClassifyMerge:
    """Merges segments' logits."""

    def __init__(self, task: ClassifyTask) -> None:
        self._task = task
        self._sum = np.zeros(len(task.labels))
        self._most = np.full(len(task.labels), -np.inf)
        self._weight = 0
        self._segments: list[tuple[int, Scores]] | None = [] if task.segments else None

    def add(self, segment: Segment, parts: Parts) -> None:
        """Take in a segment's logits."""
        logits = self._task.logits(parts)
        self._sum += logits * segment.tokens
        self._most = np.maximum(self._most, logits)
        self._weight += segment.tokens
        if self._segments is not None:
            self._segments.append((segment.index, self._task.scores(logits)))

    def of_segment(self, parts: Parts) -> Classification:
        """One segment's own labels."""
        return self._ranked(self._task.scores(self._task.logits(parts)), ())

    def result(self) -> Classification | None:
        """The document's labels."""
        if not self._weight:
            return None
        logits = self._most if self._task.multi_label else self._sum / self._weight
        return self._ranked(self._task.scores(logits), self._segments or ())

    def _ranked(self, scores: Scores, segments: "tuple[()] | list[tuple[int, Scores]]") -> Classification:
        task = self._task
        order = np.argsort(-scores, kind="stable")[: task.top_k or None]
        return Classification(
            tuple(
                LabelScore(task.labels[i], float(scores[i]), self._carriers(int(i), segments))
                for i in order.tolist()
                if scores[i] >= task.min_score
            )
        )

    def _carriers(self, label: int, segments: "tuple[()] | list[tuple[int, Scores]]") -> tuple[tuple[int, float], ...]:
        def carries(scores: Scores) -> bool:
            return bool(scores[label] > CARRIED if self._task.multi_label else scores.argmax() == label)

        return tuple((index, float(scores[label])) for index, scores in segments if carries(scores))
