"""A document's answer while its segments come in, free of any wire format."""

from dataclasses import dataclass
from typing import Any

from server.inference.call import Call, Usage
from server.inference.pipeline import Prepared, Result
from server.inference.tasks import Merge, TaskAnswer


@dataclass(frozen=True, slots=True)
class SegmentAnswer:
    """What an answer says of a segment.

    Attributes:
        start, end: the text that it owns, in code points.
        tokens: that it owns.
        processed_tokens: that the model reads for it.
        digest: of everything that decides its state.
        resumed_from: how many layers did not run.
    """

    index: int
    start: int
    end: int
    tokens: int
    processed_tokens: int
    digest: bytes
    resumed_from: int

    @classmethod
    def of(cls, prepared: Prepared, resumed_from: int = 0) -> "SegmentAnswer":
        """Describe a segment that was cut."""
        segment = prepared.segment
        sizes = segment.tokens, segment.processed_tokens
        return cls(segment.index, segment.start, segment.end, *sizes, prepared.digest, resumed_from)


class Answer:
    """Takes in a document's results in order, and holds what a reply needs of them, never a state.

    Attributes:
        call: the call that it answers.
        usage: of the segments taken in so far.
        segments: their descriptions; empty for a stream, which sends each one on.
    """

    def __init__(self, call: Call, text: str, *, stream: bool = False) -> None:
        self.call = call
        self.usage = Usage()
        self.segments: list[SegmentAnswer] = []
        self._stream = stream
        self._layers = call.model.runner.layers
        self._merges: list[Merge[Any]] = [task.merge(text, stream=stream) for task in call.tasks]

    @property
    def total(self) -> Usage:
        """Usage of the segments and of the call's queries."""
        return self.usage + self.call.asked

    def take(self, result: Result) -> SegmentAnswer:
        """Take in the next segment."""
        segment = result.prepared.segment
        computed = result.resumed_from < self._layers
        for merge in self._merges:
            merge.add(segment, result.parts)
        self.usage += Usage(segment.tokens, segment.processed_tokens, segment.processed_tokens if computed else 0)
        answer = SegmentAnswer.of(result.prepared, result.resumed_from)
        if not self._stream:
            self.segments.append(answer)
        return answer

    def of_segment(self, result: Result) -> list[TaskAnswer]:
        """What each task says of the segment that was taken in last."""
        return [merge.of_segment(result.parts) for merge in self._merges]

    def of_document(self) -> list[TaskAnswer]:
        """Each task's answer for the segments taken in so far; empty while there are none."""
        return [answer for merge in self._merges if (answer := merge.result()) is not None]
