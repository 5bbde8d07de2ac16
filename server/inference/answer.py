"""A document's answer while its segments come in, free of any wire format."""

from dataclasses import dataclass
from typing import Any

from server.inference.call import Call, Usage
from server.inference.pipeline import Prepared, Result
from server.inference.tasks import Embedding, EmbedTask, Merge, TaskAnswer


@dataclass(frozen=True, slots=True)
class SegmentAnswer:
    """What an answer says of a segment.

    Attributes:
        start, end: the text that it owns, in code points.
        tokens: that it owns.
        processed_tokens: that the model reads for it.
        digest: of everything that decides its state.
        resumed_from: how many layers did not run.
        kept: where the caller has its digest, if the caller holds its vector.
    """

    index: int
    start: int
    end: int
    tokens: int
    processed_tokens: int
    digest: bytes
    resumed_from: int
    kept: int | None = None

    @classmethod
    def of(cls, prepared: Prepared, resumed_from: int = 0) -> "SegmentAnswer":
        """Describe a segment that was cut."""
        segment = prepared.segment
        sizes = segment.tokens, segment.processed_tokens
        span = segment.index, segment.start, segment.end
        return cls(*span, *sizes, prepared.digest, resumed_from, prepared.kept)


class Answer:
    """Takes in a document's results in order, and holds what a reply needs of them, never a state.

    Attributes:
        call: the call that it answers.
        usage: of the segments taken in so far.
        segments: their descriptions; empty for a stream, which sends each one on.
        found: where the caller has the digests of those whose vectors it holds.
    """

    def __init__(self, call: Call, text: str, *, stream: bool = False) -> None:
        self.call = call
        self.usage = Usage()
        self.segments: list[SegmentAnswer] = []
        self.found: set[int] = set()
        self._stream = stream
        self._layers = call.model.runner.layers
        self._merges: list[Merge[Any]] = [task.merge(text, stream=stream) for task in call.tasks]

    @property
    def total(self) -> Usage:
        """Usage of the segments and of the call's queries."""
        return self.usage + self.call.asked

    def take(self, result: Result) -> SegmentAnswer:
        """Take in the next segment."""
        prepared = result.prepared
        for merge in self._merges_of(prepared):
            if merge:
                merge.add(prepared.segment, result.parts)
        self.usage += prepared.usage(computed=result.resumed_from < self._layers)
        if prepared.kept is not None:
            self.found.add(prepared.kept)
        answer = SegmentAnswer.of(result.prepared, result.resumed_from)
        if not self._stream:
            self.segments.append(answer)
        return answer

    def of_segment(self, result: Result) -> list[TaskAnswer]:
        """What each task says of the segment that was taken in last."""
        merges = self._merges_of(result.prepared)
        return [merge.of_segment(result.parts) if merge else Embedding() for merge in merges]

    def of_document(self) -> list[TaskAnswer]:
        """Each task's answer for the segments taken in so far; empty while there are none."""
        if not self.usage.tokens:
            return []
        return [answer for merge in self._merges if (answer := merge.result()) is not None]

    def _merges_of(self, prepared: Prepared) -> list[Merge[Any] | None]:
        """What takes in a segment for each task; None for those that leave its vector to the caller."""
        if prepared.kept is None:
            return [*self._merges]
        tasks = zip(self.call.tasks, self._merges, strict=True)
        return [None if isinstance(task, EmbedTask) else merge for task, merge in tasks]
