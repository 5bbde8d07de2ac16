"""What is known of a document's answer while its segments come in."""

from chunking import Ruler
from octavo.v1 import inference_pb2 as pb
from server.inference.call import Call, Usage
from server.inference.pipeline import Result
from server.inference.tasks import EmbedMerge
from server.rpc import replies


class Answer:
    """Takes a document's results in order and holds what a reply needs of them, never a state.

    Attributes:
        usage: of the segments taken in so far.
        infos: their descriptions; empty for a stream, which sends each one on.
    """

    def __init__(self, call: Call, ruler: Ruler, *, stream: bool = False) -> None:
        self.usage = Usage()
        self.infos: list[pb.SegmentInfo] = []
        self._stream = stream
        self._tasks = call.tasks
        self._layers = call.model.runner.layers
        self._merges = [EmbedMerge(task, keep_segments=not stream) for task in call.tasks]
        self._ruler = ruler

    def take(self, result: Result) -> pb.SegmentInfo:
        """Take in the next segment."""
        segment = result.prepared.segment
        computed = result.resumed_from < self._layers
        for merge in self._merges:
            merge.add(segment, result.parts)
        self.usage += Usage(segment.tokens, segment.processed_tokens, segment.processed_tokens if computed else 0)
        info = replies.segment_info(result.prepared, self._ruler, result.resumed_from)
        if not self._stream:
            self.infos.append(info)
        return info

    def of_segment(self, result: Result) -> list[pb.TaskResult]:
        """The tasks' answers for one segment."""
        return replies.segment_results(self._tasks, self._merges, result)

    def of_document(self) -> list[pb.TaskResult]:
        """The tasks' answers for the segments taken in so far; nothing while there are none."""
        return replies.document_results(self._tasks, self._merges)
