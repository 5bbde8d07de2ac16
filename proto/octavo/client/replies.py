"""Converts replies to results. An inconsistent reply raises ServerError."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from octavo.client import results
from octavo.client.arguments import PolicyName, Segmentation
from octavo.client.errors import ServerError, from_status
from octavo.client.task_results import by_name, by_name_of_segment, converted, embedding, joined, ranking
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2

_POLICIES: dict[int, PolicyName] = {
    pb.SEGMENTATION_POLICY_CONTENT: "content",
    pb.SEGMENTATION_POLICY_SENTENCE: "sentence",
    pb.SEGMENTATION_POLICY_FIXED: "fixed",
}


def embed_result(reply: pb.EmbedResponse) -> results.EmbedResult:
    """Convert the only document's result. Raises the error in its status."""
    if len(reply.results) != 1:
        raise ServerError(f"the reply has {len(reply.results)} results for one document")
    result = reply.results[0]
    if result.status.code:
        raise from_status(result.status)
    answer = embedding(result.embedding)
    if answer.vector is None:
        raise ServerError("the reply has no document vector")
    return results.EmbedResult(
        **_info(reply.info),
        vector=answer.vector,
        segments=segments(result.segments, answer.segment_vectors),
        span_vectors=answer.span_vectors,
    )


def task_reply(reply: Any) -> results.TaskReply[Any]:
    """Convert the reply of a method that runs one task."""
    return results.TaskReply(**_info(reply.info), segments=segments(reply.segments), result=converted(reply.result))


def rank_result(reply: pb.RankResponse) -> results.RankResult:
    """Convert the documents' ranks and errors."""
    ranked, errors = [], {}
    for each in reply.documents:
        if each.HasField("ranking"):
            result = ranking(each.ranking)
            ranked.append(results.RankedDocument(each.index, result.score, result.passages))
        else:
            errors[each.index] = from_status(each.status)
    return results.RankResult(
        **_info(reply.info), documents=tuple(ranked), errors=errors, trunks=tuple(map(trunk, reply.trunks))
    )


def analysis(reply: pb.AnalyzeResponse) -> results.Analysis:
    """Convert segments and the result of each task by name."""
    return joined_analysis([reply])


def joined_analysis(parts: Sequence[pb.AnalyzeResponse]) -> results.Analysis:
    """Join a document's reply from its messages: each has some segments, the last has the document's results."""
    pieces = [by_name(part.results) for part in parts]
    last = parts[-1]
    own = tuple(segment for part in parts for segment in segments(part.segments))
    return results.Analysis(
        **_info(last.info),
        segments=own,
        results={name: joined([each[name] for each in pieces if name in each]) for name in pieces[-1]},
        trunks=tuple(
            replace(trunk(each), segments=_segments_of_trunk(parts, number) if number else own)
            for number, each in enumerate(last.trunks)
        ),
    )


def _segments_of_trunk(parts: Iterable[pb.AnalyzeResponse], number: int) -> tuple[results.Segment, ...]:
    found = (part.trunks[number].segments for part in parts if number < len(part.trunks))
    return tuple(segment for each in found for segment in segments(each))


def trunk(message: pb.Trunk) -> results.Trunk:
    """Convert what a trunk ran."""
    usage = _usage(message.usage) if message.HasField("usage") else None
    return results.Trunk(model_ref(message.model), message.fingerprint, tuple(message.tasks), usage)


def segmentation_result(reply: pb.SegmentResponse) -> results.SegmentationResult:
    """Convert segments and their cost."""
    return results.SegmentationResult(
        **_info(reply.info),
        segments=segments(reply.segments),
        uncached_tokens=reply.uncached_tokens,
        would_charge_tokens=reply.would_charge_tokens,
    )


def stream_header(header: pb.StreamHeader) -> results.StreamHeader:
    """Convert the first message of a stream."""
    trunks = tuple(map(trunk, header.trunks))
    return results.StreamHeader(model_ref(header.model), header.fingerprint, header.request_id, trunks)


def segment_result(result: pb.SegmentResult) -> results.SegmentResult:
    """Convert one segment of a stream."""
    return results.SegmentResult(segment(result.segment), by_name_of_segment(result.results), result.trunk)


def stream_summary(
    summary: pb.StreamSummary, before: Mapping[str, Sequence[results.TaskResult]]
) -> results.StreamSummary:
    """Convert the last message of a stream, with what came of tasks before."""
    found = by_name(summary.results)
    return results.StreamSummary(
        **_info(summary.info),
        results={name: joined([*before.get(name, ()), last]) for name, last in found.items()},
        partial=summary.partial,
        trunks=tuple(map(trunk, summary.trunks)),
    )


def segments(infos: Sequence[pb.SegmentInfo], vectors: results.Array | None = None) -> tuple[results.Segment, ...]:
    """Convert segments, each with its row of `vectors`, if given."""
    if vectors is None:
        return tuple(segment(info) for info in infos)
    if len(vectors) != len(infos):
        raise ServerError(f"the reply has {len(vectors)} segment vectors for {len(infos)} segments")
    return tuple(segment(info, vector) for info, vector in zip(infos, vectors, strict=True))


def segment(info: pb.SegmentInfo, vector: results.Array | None = None) -> results.Segment:
    """Convert one segment; its span indexes the Python string."""
    return results.Segment(
        index=info.index,
        char_start=info.span.start,
        char_end=info.span.end,
        token_count=info.tokens,
        processed_tokens=info.processed_tokens,
        resumed_from_layer=info.resumed_from_layer if info.HasField("resumed_from_layer") else None,
        digest=info.digest,
        vector=vector,
    )


def model(message: models_pb2.Model) -> results.Model:
    """Convert a model's description."""
    return results.Model(
        ref=model_ref(message.ref),
        fingerprint=message.fingerprint,
        is_default=message.is_default,
        tasks=tuple(message.tasks),
        labels=tuple(message.labels),
        dimensions=message.dimensions,
        max_segment_tokens=message.max_segment_tokens,
        token_budget=message.token_budget,
        query_prefix=message.query_prefix,
        passage_prefix=message.passage_prefix,
        pooling=pb.Pooling.Name(message.pooling).removeprefix("POOLING_").lower(),
        normalize=message.normalize,
        segmentation=_segmentation(message.segmentation),
        window=message.window,
        layers=message.layers,
        number_scheme=message.number_scheme,
        kernels=message.kernels,
        kernels_reason=message.kernels_reason,
        licence=message.licence,
        multi_label=message.multi_label,
        trained_on=message.trained_on,
        trunk=message.trunk,
    )


def model_ref(ref: pb.ModelRef) -> results.ModelRef:
    """Convert a reference to a model."""
    return results.ModelRef(ref.name, ref.version, ref.digest)


def _segmentation(message: pb.Segmentation) -> Segmentation:
    return Segmentation(
        policy=_POLICIES.get(message.policy),
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        min_tokens=message.min_tokens if message.HasField("min_tokens") else None,
    )


def _usage(usage: pb.Usage) -> results.Usage:
    return results.Usage(
        tokens=usage.tokens,
        processed_tokens=usage.processed_tokens,
        computed_tokens=usage.computed_tokens,
        cached_tokens=usage.cached_tokens,
        charged_tokens=usage.charged_tokens,
    )


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos * 1e-9


class _Info(TypedDict):
    """The fields of `results.Reply`."""

    model: results.ModelRef
    fingerprint: str
    usage: results.Usage
    timings: results.Timings
    request_id: str


def _info(info: pb.ReplyInfo) -> _Info:
    timings = info.timings
    return _Info(
        model=model_ref(info.model),
        fingerprint=info.fingerprint,
        usage=_usage(info.usage),
        timings=results.Timings(
            total=_seconds(timings.total),
            tokenize=_seconds(timings.tokenize),
            queue=_seconds(timings.queue),
            cache=_seconds(timings.cache),
            compute=_seconds(timings.compute),
        ),
        request_id=info.request_id,
    )
