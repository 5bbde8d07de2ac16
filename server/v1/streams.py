"""StreamSegments' messages: a segment each, and one for consecutive segments that the caller keeps."""

from collections.abc import Iterator, Sequence

from chunking import Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from server.inference.answer import Answer, SegmentAnswer
from server.inference.cursor import Cursors
from server.inference.pipeline import Result
from server.v1 import replies
from server.v1.requests import check_message
from server.v1.results import Results

MOST_KEPT = 50_000  # of one message, which stays below 1 MiB


class SegmentWriter:
    """Writes the segments of a stream, each trunk's in order.

    Args:
        answers: of each trunk.
        sent: how many segments of each trunk were sent before, by the stream that this one resumes.
    """

    def __init__(self, answers: Sequence[Answer], cursors: Cursors, sent: Sequence[int], text: str, unit: Unit) -> None:
        self._answers = answers
        self._cursors = cursors
        self._rulers = [Ruler(text, unit) for _ in answers]
        self._results = [Results(answer.call.tasks, text, unit) for answer in answers]
        self._kept = [pb.KeptSegments() for _ in answers]
        self._left = list(sent)  # to skip
        self._sent = list(sent)

    def of(self, trunk: int, segment: SegmentAnswer, result: Result) -> Iterator[pb.StreamSegmentsResponse]:
        """The messages for the next segment of a trunk; none as long as kept segments follow one another."""
        ruler, kept = self._rulers[trunk], self._kept[trunk]
        results = self._results[trunk].of_segment(self._answers[trunk].of_segment(result))
        if self._left[trunk]:
            self._left[trunk] -= 1
            ruler.span(segment.start, segment.end)
            return
        if segment.kept is None:
            yield from self._rest_of(trunk)
            yield self._message(trunk, pb.SegmentResult(segment=replies.segment_info(segment, ruler), results=results))
        elif result.prepared.is_read:
            replies.keep(kept, segment, ruler)
            yield from self._rest_of(trunk, results)
        else:
            replies.keep(kept, segment, ruler)
            if len(kept.positions) >= MOST_KEPT:
                yield from self._rest_of(trunk)

    def rest(self) -> Iterator[pb.StreamSegmentsResponse]:
        """The messages for kept segments that nothing followed."""
        for trunk in range(len(self._kept)):
            yield from self._rest_of(trunk)

    def _rest_of(self, trunk: int, results: Sequence[pb.TaskResult] = ()) -> Iterator[pb.StreamSegmentsResponse]:
        if self._kept[trunk].positions:
            yield self._message(trunk, pb.SegmentResult(kept=self._kept[trunk], results=results))
            self._kept[trunk] = pb.KeptSegments()

    def _message(self, trunk: int, segment: pb.SegmentResult) -> pb.StreamSegmentsResponse:
        self._sent[trunk] += len(segment.kept.positions) or 1
        segment.trunk = trunk
        segment.cursor = self._cursors.after(self._sent)
        check_message(segment.ByteSize())
        return pb.StreamSegmentsResponse(segment=segment)
