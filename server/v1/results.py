"""Tasks' answers on the wire."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chunking import Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from server.inference.answer import Answer
from server.inference.tasks import (
    Classification,
    ClassifyTokensTask,
    Embedding,
    EmbedTask,
    Entities,
    Ranking,
    Redaction,
    RedactTask,
    Task,
    TaskAnswer,
)
from server.inference.tasks.classify import LabelScore
from server.inference.tasks.embed import Vectors, encoded
from server.inference.tasks.sparse import SparseVector
from server.v1.replies import KEPT_SEGMENT_BYTES, REPLY_BYTES, SEGMENT_INFO_BYTES
from server.v1.requests import DATA_TYPES, check_message


class Results:
    """Writes the results of tasks over one document, whose spans count the given unit."""

    def __init__(self, tasks: Sequence[Task[Any]], text: str, unit: Unit) -> None:
        self._tasks = tasks
        self._text = text
        self._unit = unit
        # A ruler only goes forward: one for each list of spans. Made when needed: it measures 65,536 code points.
        self._rulers: dict[str, Ruler] = {}

    def of_document(self, answer: Answer) -> list[pb.TaskResult]:
        """What the tasks say of the segments taken in so far; nothing while there are none."""
        return self._of(answer.of_document())

    def of_segment(self, answers: Sequence[TaskAnswer]) -> list[pb.TaskResult]:
        """What the tasks say of one segment."""
        return self._of(answers)

    def _of(self, answers: Sequence[TaskAnswer]) -> list[pb.TaskResult]:
        return [self._result(*each) for each in zip(self._tasks, answers, strict=False)]

    def _ruler(self, task: Task[Any]) -> Ruler:
        if task.name not in self._rulers:
            self._rulers[task.name] = Ruler(self._text, self._unit)
        return self._rulers[task.name]

    def _result(self, task: Task[Any], answer: TaskAnswer) -> pb.TaskResult:
        match answer:
            case Embedding():
                assert isinstance(task, EmbedTask)
                return pb.TaskResult(name=task.name, embed=embedding(task, answer))
            case Entities():
                result = pb.TaskResult(name=task.name, classify_tokens=pb.Entities())
                written = result.classify_tokens.entities  # in place: each copy of 540 entities takes 34 µs
                _fill((written.add() for _ in answer.labels), answer, self._ruler(task))
                return result
            case Redaction():
                return pb.TaskResult(name=task.name, redact=_redaction(answer, self._ruler(task), self._unit))
            case Classification():
                labels = [_label_score(label) for label in answer.labels]
                return pb.TaskResult(name=task.name, classify=pb.Classification(labels=labels))
            case Ranking():
                return pb.TaskResult(name=task.name, rank=ranking(answer, self._text, self._unit))
            case _:
                sparse = pb.SparseEmbedding(
                    document_vector=_sparse(answer.document) if answer.document else None,
                    segment_vectors=[_sparse(vector) for vector in answer.segments],
                )
                return pb.TaskResult(name=task.name, embed_sparse=sparse)


FLOWING = {"classify_tokens", "redact"}  # whose results are too many for a document's last message
PART_BYTES = 900_000  # of segments in one message; messages stay below 1 MiB


class SegmentBatch:
    """Segments' descriptions and results on their way into one message of a stream of documents.

    Attributes:
        flows: whether there is something that cannot wait for a document's last message.
        size: about how many bytes they take.
    """

    def __init__(self, tasks: Sequence[Task[Any]], unit: Unit, *, return_segments: bool) -> None:
        self._names = [task.name for task in tasks]
        self.flows = any(isinstance(task, ClassifyTokensTask | RedactTask) for task in tasks)
        self._unit = unit
        self._return_segments = return_segments
        self._infos: list[pb.SegmentInfo] = []
        self._kept = pb.KeptSegments()
        self._results: list[list[pb.TaskResult]] = []
        self.size = 0

    def add(
        self, infos: Sequence[pb.SegmentInfo], kept: pb.KeptSegments | None, results: Sequence[pb.TaskResult]
    ) -> bool:
        """Put in the next segment, unless the message is full; what can wait for the last one, only with segments.

        Args:
            infos: its description, unless the caller keeps it.
            kept: where it is, if the caller keeps it.
            results: of the tasks.

        Raises:
            ReplyTooLarge: no message takes it.
        """
        now = [
            result if self._return_segments or result.WhichOneof("kind") in FLOWING else pb.TaskResult()
            for result in results
        ]
        check_message(REPLY_BYTES + bytes_of(now))
        if not self.has_room(now):
            return False
        self._results.append(now)
        self.size += bytes_of(now)
        if self._return_segments:
            self._infos += infos
            self.size += SEGMENT_INFO_BYTES * len(infos)
            if kept:
                self._kept.MergeFrom(kept)
                self.size += KEPT_SEGMENT_BYTES
        return True

    def has_room(self, results: Sequence[pb.TaskResult]) -> bool:
        """Whether one message takes these too. An empty one takes anything."""
        return not self.size or self.size + bytes_of(results) <= PART_BYTES

    def take(self) -> tuple[list[pb.SegmentInfo], pb.KeptSegments, list[pb.TaskResult]]:
        """Take out all of them; a task's results become one."""
        infos, kept, segments = self._infos, self._kept, self._results
        self._infos, self._kept, self._results, self.size = [], pb.KeptSegments(), [], 0
        joined = [self._joined(name, [results[i] for results in segments]) for i, name in enumerate(self._names)]
        return infos, kept, joined

    def _joined(self, name: str, results: Sequence[pb.TaskResult]) -> pb.TaskResult:
        """One task's results of consecutive segments; labels are the document's alone."""
        joined = pb.TaskResult(name=name)
        kinds = {result.WhichOneof("kind") for result in results}
        if "embed" in kinds:
            if rows := [result.embed.segment_vectors for result in results if result.embed.segment_vectors.shape]:
                joined.embed.segment_vectors.CopyFrom(_stacked(rows))
        elif "redact" in kinds:
            joined.redact.CopyFrom(_in_a_row([result.redact for result in results], self._unit))
        elif kinds & {"classify_tokens", "embed_sparse"}:
            for result in results:
                joined.MergeFrom(result)
            joined.name = name
        return joined


def bytes_of(results: Sequence[pb.TaskResult]) -> int:
    """The size of results."""
    return sum(result.ByteSize() for result in results)


def ranking(answer: Ranking, text: str, unit: Unit) -> pb.Ranking:
    """A document's score and passages; their spans are converted in the document's order."""
    result = pb.Ranking(score=answer.score)
    if answer.passages:
        edges = np.array([(passage.start, passage.end) for passage in answer.passages]).reshape(-1)
        order = np.argsort(edges, kind="stable")
        edges[order] = Ruler(text, unit).units(edges[order])
        for passage, (start, end) in zip(answer.passages, edges.reshape(-1, 2).tolist(), strict=True):
            result.passages.add(
                span=pb.Span(start=start, end=end),
                score=passage.score,
                segment_index=passage.segment,
                trunk=passage.trunk,
            )
    return result


def embedding(task: EmbedTask, answer: Embedding) -> pb.Embedding:
    """An embedding in the data type that was asked for."""
    return pb.Embedding(
        document_vector=tensor(answer.document, task, squeeze=True),
        segment_vectors=tensor(answer.segments, task),
        span_vectors=tensor(answer.spans, task),
    )


def tensor(vectors: Vectors | None, task: EmbedTask, *, squeeze: bool = False) -> pb.Tensor | None:
    """Vectors (n, dimensions) as the wire has them; `squeeze` drops the first axis."""
    if vectors is None:
        return None
    return pb.Tensor(
        data_type=pb.DataType.Name(DATA_TYPES.index(task.data_type, 1)),
        shape=vectors.shape[1:] if squeeze else vectors.shape,
        data=encoded(vectors, task.data_type).tobytes(),
    )


def _stacked(rows: Sequence[pb.Tensor]) -> pb.Tensor:
    return pb.Tensor(
        data_type=rows[0].data_type,
        shape=[len(rows), *rows[0].shape[1:]],
        data=b"".join(row.data for row in rows),
    )


def _redaction(answer: Redaction, ruler: Ruler, unit: Unit) -> pb.Redaction:
    written = pb.Redaction(text=answer.text)
    masked = [written.entities.add() for _ in answer.entities.labels]
    _fill((each.entity for each in masked), answer.entities, ruler)
    for each, start, end in zip(masked, *_edges(answer.masks, Ruler(answer.text, unit)), strict=True):
        place = each.redacted
        place.start, place.end = start, end
    return written


def _fill(messages: Iterable[pb.Entity], found: Entities, ruler: Ruler) -> None:
    """Fill in messages field by field: 0.5 µs each, with keywords 2 µs, and a long document has thousands."""
    columns = *_edges(found.spans, ruler), found.labels, found.scores.tolist(), found.segments.tolist()
    for to, start, end, label, score, segment in zip(messages, *columns, strict=True):
        place = to.span
        place.start, place.end = start, end
        to.label, to.score, to.segment_index = label, score, segment


def _edges(spans: NDArray[np.int64], ruler: Ruler) -> Sequence[list[int]]:
    """Where spans (n, 2) start, and where they end, in the caller's unit."""
    edges: list[list[int]] = ruler.units(spans.reshape(-1)).reshape(-1, 2).T.tolist()
    return edges


def _in_a_row(pieces: Sequence[pb.Redaction], unit: Unit) -> pb.Redaction:
    """Consecutive pieces of a redacted text as one: positions count from the start of a piece's own text."""
    before, entities = 0, []
    for piece in pieces:
        for each in piece.entities:
            each.redacted.start += before
            each.redacted.end += before
            entities.append(each)
        before += _length(piece.text, unit)
    return pb.Redaction(text="".join(piece.text for piece in pieces), entities=entities)


def _length(text: str, unit: Unit) -> int:
    match unit:
        case Unit.CODE_POINT:
            return len(text)
        case Unit.UTF16:
            return len(text.encode("utf-16-le")) // 2
        case Unit.UTF8:
            return len(text.encode())


def _label_score(label: LabelScore) -> pb.LabelScore:
    segments = [pb.SegmentScore(segment_index=index, score=score) for index, score in label.segments]
    return pb.LabelScore(label=label.label, score=label.score, segments=segments)


def _sparse(vector: SparseVector) -> pb.SparseVector:
    return pb.SparseVector(indices=vector.indices.tolist(), weights=vector.weights.tolist(), tokens=vector.tokens)
