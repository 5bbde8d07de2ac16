"""From the server's own words to the wire."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from chunking import Ruler
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.inference.answer import Answer, SegmentAnswer
from server.inference.call import Call, Timings, Usage
from server.inference.models import ServedModel
from server.inference.service import Service
from server.inference.tasks import Size, Task
from server.inference.tasks.tokens import entity_labels
from server.limits import Slot
from server.v1.requests import POLICIES, POOLINGS, Limits, check_reply, fingerprint_of

SEGMENT_INFO_BYTES = 64  # of a SegmentInfo with every field at its largest, and a little more
KEPT_SEGMENT_BYTES = 10  # of a kept segment in KeptSegments
POSITION_BYTES = 3  # of a position in known_segment_digests
M = TypeVar("M", bound=Message)

LONG_BYTES = 256 << 10
COPIES = 2  # of a reply in memory: first its segments' vectors and their look-up, then message and frame
REPLY_BYTES = 1024  # of a reply's fields that do not grow with the document
MOST_BYTES_A_TOKEN = 16  # of text
CHARACTERS_A_TOKEN = 8  # more than most texts have: an estimate that is too high would refuse calls that fit


def size_of(tasks: Sequence[Task[Any]], size: Size) -> int:
    """About the greatest size of one document's answer, known before anything is computed."""
    segments = (size.segments - size.kept) * SEGMENT_INFO_BYTES + size.kept * KEPT_SEGMENT_BYTES
    return segments + sum(
        2 * len(task.name.encode()) + 64 + task.reply_bytes(size)
        for task in tasks  # the trunk names it too
    )


def longest_segment(calls: Sequence[Call]) -> int:
    """About the greatest size of one segment's results."""

    def size(call: Call) -> Size:
        return Size(1, call.cutting.max_tokens, MOST_BYTES_A_TOKEN * call.cutting.max_tokens)

    return max(size_of(call.tasks, size(call)) for call in calls)


class Reply:
    """A unary reply that grows while its documents are read, before anything is computed."""

    def __init__(
        self,
        service: Service,
        calls: Sequence[Call],
        limits: Limits,
        slot: Slot,
        ids: Sequence[str] = (),
        advice: str = "use StreamSegments",
    ) -> None:
        self._service = service
        self._calls = calls
        self._limits = limits
        self._slot = slot
        self._fixed = REPLY_BYTES * (len(calls) + len(ids)) + sum(len(each.encode()) for each in ids)
        self._fixed += POSITION_BYTES * len(calls[0].known.digests)
        self._advice = advice  # to who asks for too much
        self._held = 0

    def expect(self, texts: Sequence[str]) -> None:
        """Count as in flight what the texts will take at least, before they are read: reading is what costs most.

        Raises:
            RateLimited, QueueFull: there is no room for it.
        """
        least = [(call, _least_size(call, text)) for call in self._calls for text in texts]
        self._hold(min(self._size(least), self._limits.max_reply_bytes))

    def grow(self, sizes: Sequence[tuple[Call, Size]]) -> None:
        """Count as in flight what documents of these sizes take.

        Raises:
            ReplyTooLarge: the reply would be over `max_reply_bytes`.
            RateLimited, QueueFull: there is no room for it.
        """
        size = self._size(sizes)
        check_reply(size, self._limits, self._advice)
        self._hold(size)

    def _size(self, sizes: Sequence[tuple[Call, Size]]) -> int:
        return self._fixed + sum(size_of(call.tasks, size) for call, size in sizes if size.segments)

    def _hold(self, size: int) -> None:
        if (missing := COPIES * size - self._held) > 0:
            self._slot.hold(missing)
            self._held += missing

    async def make(self, make: Callable[[], M]) -> M | bytes:
        """Make the message; a long one, and its bytes, off the event loop, for both take 30 ms at 4 MB."""
        if self._held <= LONG_BYTES and not any(call.is_slow for call in self._calls):
            return self._checked(make())
        return await self._service.aside(self._calls[0], lambda: self._checked(make()).SerializeToString())

    def _checked(self, reply: M) -> M:
        """A reply of some tasks is known exactly only once it is made."""
        check_reply(reply.ByteSize(), self._limits, self._advice)
        return reply


def model_ref(model: ServedModel) -> pb.ModelRef:
    """Which model it was."""
    return pb.ModelRef(name=model.name, version=model.version, digest=model.digest)


def reply_info(calls: Sequence[Call], usage: Usage, timings: Timings, charged: float = 0.0) -> pb.ReplyInfo:
    """What every reply says of itself."""
    return pb.ReplyInfo(
        model=model_ref(calls[0].named),
        fingerprint=fingerprint_of(calls),
        usage=usage_of(usage, charged),
        timings=pb.Timings(
            total=_duration(timings.total),
            tokenize=_duration(timings.tokenize.seconds),
            queue=_duration(timings.queue.seconds),
            cache=_duration(timings.cache.seconds),
            compute=_duration(timings.compute.seconds),
        ),
        request_id=calls[0].request_id,
    )


def stream_header(calls: Sequence[Call]) -> pb.StreamHeader:
    """What is known at once."""
    return pb.StreamHeader(
        model=model_ref(calls[0].named),
        fingerprint=fingerprint_of(calls),
        request_id=calls[0].request_id,
        trunks=[trunk(call) for call in calls],
    )


def trunk(call: Call, usage: pb.Usage | None = None) -> pb.Trunk:
    """A pass over the document."""
    names = [task.name for task in call.tasks]
    return pb.Trunk(model=model_ref(call.model), fingerprint=call.fingerprint, tasks=names, usage=usage)


def usage_of(usage: Usage, charged: float) -> pb.Usage:
    """Token counts, and what they were charged at."""
    return pb.Usage(
        tokens=usage.tokens,
        processed_tokens=usage.processed,
        computed_tokens=usage.computed,
        cached_tokens=usage.cached,
        charged_tokens=math.ceil(charged),
        kept_tokens=usage.kept,
    )


def described(segments: Iterable[SegmentAnswer], ruler: Ruler) -> tuple[list[pb.SegmentInfo], pb.KeptSegments | None]:
    """Segments in the document's order: those that the caller does not hold, and those that it keeps."""
    infos, kept = [], pb.KeptSegments()
    for segment in segments:
        if segment.kept is None:
            infos.append(segment_info(segment, ruler))
        else:
            keep(kept, segment, ruler)
    return infos, kept if kept.positions else None


def keep(kept: pb.KeptSegments, segment: SegmentAnswer, ruler: Ruler) -> None:
    """Describe one more segment that the caller keeps, in the document's order."""
    assert segment.kept is not None
    start, end = ruler.span(segment.start, segment.end)
    kept.positions.append(segment.kept)
    kept.lengths.append(end - start)
    kept.tokens.append(segment.tokens)


def gone(answers: Iterable[Answer]) -> list[int]:
    """Positions of the known digests that no answer of a call found."""
    whole = list(answers)
    return whole[0].call.known.gone(set().union(*(answer.found for answer in whole))) if whole else []


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


def model_of(model: ServedModel, is_default: bool) -> models_pb2.Model:
    """What a model is and how it is served; never where it lies."""
    encoder = model.runner.encoder
    return models_pb2.Model(
        ref=model_ref(model),
        fingerprint=model.default_fingerprint,
        is_default=is_default,
        tasks=model.tasks,
        labels=labels_of(model),
        multi_label=bool(model.folder.head and model.folder.head.multi_label),
        trained_on=model.folder.trained_on,
        trunk=model.trunk.name if model.trunk else "",
        cross_encoder=model.is_cross_encoder,
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


def labels_of(model: ServedModel) -> tuple[str, ...]:
    """A model's labels; of entities without "B-" and "I-"."""
    if not (model.folder.head and model.head):
        return ()
    labels = model.folder.head.labels
    return entity_labels(labels) if model.folder.head.kind == "tokens" else labels


def _least_size(call: Call, text: str) -> Size:
    segments = len(text) // (CHARACTERS_A_TOKEN * call.cutting.max_tokens)
    kept = segments if call.known else 0
    return Size(segments, segments * call.cutting.min_tokens, len(text), kept)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
