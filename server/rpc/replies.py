"""From the server's own words to the wire."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from chunking import Ruler
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.inference.answer import Answer, SegmentAnswer
from server.inference.call import Call, Timings, Usage
from server.inference.models import ServedModel
from server.inference.service import Service
from server.inference.tasks import Embedding, EmbedTask
from server.inference.tasks.embed import DataTypeName, Vectors
from server.limits import Slot
from server.rpc.requests import DATA_TYPES, POLICIES, POOLINGS, Limits, check_reply

SEGMENT_INFO_BYTES = 64  # of a SegmentInfo with every field at its largest, and a little more
M = TypeVar("M", bound=Message)

LONG_BYTES = 256 << 10
COPIES = 2  # of a reply in memory: first its segments' vectors and their look-up, then message and frame
REPLY_BYTES = 1024  # of a reply's fields that do not grow with the document
CHARACTERS_A_TOKEN = 8  # more than most texts have: an estimate that is too high would refuse calls that fit


def size_of(tasks: Sequence[EmbedTask], segments: int) -> int:
    """An upper bound of the size of one document's answer, known before anything is computed."""
    return segments * SEGMENT_INFO_BYTES + sum(
        len(task.name.encode()) + 64 + task.tensor_bytes(segments) for task in tasks
    )


class Reply:
    """A unary reply that grows while its documents are read, before anything is computed."""

    def __init__(self, service: Service, call: Call, limits: Limits, slot: Slot, ids: Sequence[str] = ()) -> None:
        self._service = service
        self._call = call
        self._limits = limits
        self._slot = slot
        self._fixed = REPLY_BYTES * (1 + len(ids)) + sum(len(each.encode()) for each in ids)
        self._held = 0

    def expect(self, texts: Sequence[str]) -> None:
        """Count as in flight what the texts will take at least, before they are read: reading is what costs most.

        Raises:
            RateLimited, QueueFull: there is no room for it.
        """
        longest = CHARACTERS_A_TOKEN * self._call.cutting.max_tokens
        size = self._size(len(text) // longest for text in texts)
        self._hold(min(size, self._limits.max_reply_bytes))

    def grow(self, segments: Sequence[int]) -> None:
        """Count as in flight what documents of so many segments each take.

        Raises:
            ReplyTooLarge: the reply would be over `max_reply_bytes`.
            RateLimited, QueueFull: there is no room for it.
        """
        size = self._size(segments)
        check_reply(size, self._limits)
        self._hold(size)

    def _size(self, segments: Iterable[int]) -> int:
        return self._fixed + sum(size_of(self._call.tasks, count) for count in segments if count)

    def _hold(self, size: int) -> None:
        if (missing := COPIES * size - self._held) > 0:
            self._slot.hold(missing)
            self._held += missing

    async def make(self, make: Callable[[], M]) -> M | bytes:
        """Make the message; a long one, and its bytes, off the event loop, for both take 30 ms at 4 MB."""
        if self._held <= LONG_BYTES and not self._call.has_many_spans:
            return make()
        return await self._service.aside(self._call, lambda: make().SerializeToString())


def model_ref(model: ServedModel) -> pb.ModelRef:
    """Which model it was."""
    return pb.ModelRef(name=model.name, version=model.version, digest=model.digest)


def reply_info(call: Call, usage: Usage, timings: Timings, charged: float = 0.0) -> pb.ReplyInfo:
    """What every reply says of itself."""
    return pb.ReplyInfo(
        model=model_ref(call.model),
        fingerprint=call.fingerprint,
        usage=usage_of(usage, charged),
        timings=pb.Timings(
            total=_duration(timings.total),
            tokenize=_duration(timings.tokenize.seconds),
            queue=_duration(timings.queue.seconds),
            cache=_duration(timings.cache.seconds),
            compute=_duration(timings.compute.seconds),
        ),
        request_id=call.request_id,
    )


def stream_header(call: Call) -> pb.StreamHeader:
    """What is known at once."""
    return pb.StreamHeader(model=model_ref(call.model), fingerprint=call.fingerprint, request_id=call.request_id)


def usage_of(usage: Usage, charged: float) -> pb.Usage:
    """Token counts, and what they were charged at."""
    return pb.Usage(
        tokens=usage.tokens,
        processed_tokens=usage.processed,
        computed_tokens=usage.computed,
        cached_tokens=usage.cached,
        charged_tokens=math.ceil(charged),
    )


def segment_info(segment: SegmentAnswer, ruler: Ruler) -> pb.SegmentInfo:
    """A segment's description. Segments must come in the document's order, since the ruler only goes forward."""
    start, end = ruler.span(segment.start, segment.end)
    return pb.SegmentInfo(
        index=segment.index,
        span=pb.Span(start=start, end=end),
        tokens=segment.tokens,
        processed_tokens=segment.processed_tokens,
        resumed_from_layer=segment.resumed_from or None,
        digest=segment.digest,
    )


class SegmentBatch:
    """Segments' descriptions and answers on their way into one message of a stream.

    Attributes:
        size: about how many bytes they take.
    """

    def __init__(self, tasks: Sequence[EmbedTask]) -> None:
        self._tasks = tasks
        self._infos: list[pb.SegmentInfo] = []
        self._results: list[list[pb.TaskResult]] = []
        self.size = 0

    def add(self, info: pb.SegmentInfo, results: list[pb.TaskResult]) -> None:
        """Put in the next segment."""
        self._infos.append(info)
        self._results.append(results)
        self.size += SEGMENT_INFO_BYTES + sum(result.ByteSize() for result in results)

    def take(self) -> pb.AnalyzeResponse:
        """Take out all of them; a task's vectors become one tensor."""
        reply = pb.AnalyzeResponse(segments=self._infos)
        for i, task in enumerate(self._tasks):
            rows = [results[i].embed.segment_vectors for results in self._results]
            if rows and task.segment_vectors:
                vectors = pb.Tensor(
                    data_type=rows[0].data_type,
                    shape=[len(rows), *rows[0].shape[1:]],
                    data=b"".join(row.data for row in rows),
                )
                reply.results.append(pb.TaskResult(name=task.name, embed=pb.Embedding(segment_vectors=vectors)))
            else:
                reply.results.append(pb.TaskResult(name=task.name))
        self._infos, self._results, self.size = [], [], 0
        return reply


def document_results(tasks: Sequence[EmbedTask], answer: Answer) -> list[pb.TaskResult]:
    """What the tasks say of the segments taken in so far; nothing while there are none."""
    return [
        pb.TaskResult(name=task.name, embed=embedding(task, each))
        for task, each in zip(tasks, answer.of_document(), strict=False)
    ]


def segment_results(tasks: Sequence[EmbedTask], vectors: Sequence[Vectors | None]) -> list[pb.TaskResult]:
    """What the tasks say of one segment."""
    return [
        pb.TaskResult(name=task.name, embed=pb.Embedding(segment_vectors=tensor(vector, task)))
        for task, vector in zip(tasks, vectors, strict=True)
    ]


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
        data=_encode(vectors, task.data_type),
    )


def _encode(vectors: Vectors, data_type: DataTypeName) -> bytes:
    match data_type:
        case "float32":
            return vectors.astype("<f4").tobytes()
        case "float16":
            return vectors.astype("<f2").tobytes()
        case "int8":
            return np.rint(vectors * 127).clip(-127, 127).astype(np.int8).tobytes()
        case "binary":
            return np.packbits(vectors > 0, axis=1).tobytes()


def model_of(model: ServedModel, is_default: bool) -> models_pb2.Model:
    """What a model is and how it is served; never where it lies."""
    encoder = model.runner.encoder
    return models_pb2.Model(
        ref=model_ref(model),
        fingerprint=model.default_fingerprint,
        is_default=is_default,
        tasks=["embed"],
        dimensions=encoder.hidden,
        max_segment_tokens=encoder.max_tokens,
        token_budget=model.budget,
        query_prefix=model.prefixes["query"],
        passage_prefix=model.prefixes["passage"],
        pooling=pb.Pooling.Name(POOLINGS.index(model.pooling)),
        normalize=model.normalize,
        segmentation=pb.Segmentation(
            policy=pb.SegmentationPolicy.Name(POLICIES.index(model.cutting.policy)),
            max_tokens=model.cutting.max_tokens,
            min_tokens=model.cutting.min_tokens if model.cutting.policy == "content" else None,
        ),
        window=model.window,
        layers=encoder.layers,
        number_scheme=encoder.scheme,
        kernels=encoder.kernels,
        kernels_reason=encoder.kernels_reason,
        licence=model.folder.licence,
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
