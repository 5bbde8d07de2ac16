"""Converts replies to results. An inconsistent reply raises ServerError."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
from google.protobuf.duration_pb2 import Duration

from octavo.client import results
from octavo.client.arguments import PolicyName, Segmentation
from octavo.client.errors import ServerError, from_status
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2

_DTYPES = {
    pb.DATA_TYPE_UNSPECIFIED: "<f4",
    pb.DATA_TYPE_FLOAT32: "<f4",
    pb.DATA_TYPE_FLOAT16: "<f2",
    pb.DATA_TYPE_INT8: "i1",
    pb.DATA_TYPE_BINARY: "u1",
}
_POLICIES: dict[int, PolicyName] = {
    pb.SEGMENTATION_POLICY_CONTENT: "content",
    pb.SEGMENTATION_POLICY_SENTENCE: "sentence",
    pb.SEGMENTATION_POLICY_FIXED: "fixed",
}


def array(tensor: pb.Tensor) -> results.Array:
    """Copy a tensor's values to an array; for BINARY, the packed bytes, with each row starting a new byte."""
    dtype = _DTYPES.get(tensor.data_type)
    if dtype is None:
        raise ServerError(f"the reply has a data type unknown to this client: {tensor.data_type}")
    shape = list(tensor.shape)
    if tensor.data_type == pb.DATA_TYPE_BINARY and shape:
        shape[-1] = -(-shape[-1] // 8)
    if math.prod(shape) * np.dtype(dtype).itemsize != len(tensor.data):
        raise ServerError(f"the reply has a tensor of shape {list(tensor.shape)} in {len(tensor.data):,} bytes")
    values = np.frombuffer(tensor.data, dtype).reshape(shape)
    return values.astype(values.dtype.newbyteorder("="))


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


def analysis(reply: pb.AnalyzeResponse) -> results.Analysis:
    """Convert segments and the result of each task by name."""
    return results.Analysis(**_info(reply.info), segments=segments(reply.segments), results=_by_name(reply.results))


def joined_analysis(parts: Sequence[pb.AnalyzeResponse]) -> results.Analysis:
    """Join a document's reply from its messages: each has some segments, the last has the document's results."""
    answers = [analysis(part) for part in parts]
    last = answers[-1]
    return replace(
        last,
        segments=tuple(segment for answer in answers for segment in answer.segments),
        results={
            name: replace(whole, segment_vectors=_joined(answer.results.get(name) for answer in answers))
            for name, whole in last.results.items()
        },
    )


def _joined(embeddings: Iterable[results.Embedding | None]) -> results.Array | None:
    rows = [each.segment_vectors for each in embeddings if each and each.segment_vectors is not None]
    return np.concatenate(rows) if rows else None


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
    return results.StreamHeader(model_ref(header.model), header.fingerprint, header.request_id)


def segment_result(result: pb.SegmentResult) -> results.SegmentResult:
    """Convert one segment of a stream."""
    return results.SegmentResult(
        segment(result.segment), {each.name: _of_segment(each.embed) for each in result.results}
    )


def stream_summary(summary: pb.StreamSummary) -> results.StreamSummary:
    """Convert the last message of a stream."""
    return results.StreamSummary(**_info(summary.info), results=_by_name(summary.results), partial=summary.partial)


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


def embedding(message: pb.Embedding) -> results.Embedding:
    """Convert an Embed task's result for a document."""
    return results.Embedding(
        vector=_optional(message, "document_vector"),
        segment_vectors=_optional(message, "segment_vectors"),
        span_vectors=_optional(message, "span_vectors"),
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


def _by_name(task_results: Iterable[pb.TaskResult]) -> dict[str, results.Embedding]:
    return {each.name: embedding(each.embed) for each in task_results}


def _of_segment(message: pb.Embedding) -> results.Embedding:
    """Convert a segment's result: its vector is the only row of the segment vectors."""
    rows = _optional(message, "segment_vectors")
    if rows is None:
        return results.Embedding(None)
    if len(rows) != 1:
        raise ServerError(f"the reply has {len(rows)} vectors for one segment")
    return results.Embedding(rows[0])


def _optional(message: pb.Embedding, field: str) -> results.Array | None:
    return array(getattr(message, field)) if message.HasField(field) else None


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
    usage, timings = info.usage, info.timings
    return _Info(
        model=model_ref(info.model),
        fingerprint=info.fingerprint,
        usage=results.Usage(
            tokens=usage.tokens,
            processed_tokens=usage.processed_tokens,
            computed_tokens=usage.computed_tokens,
            cached_tokens=usage.cached_tokens,
            charged_tokens=usage.charged_tokens,
        ),
        timings=results.Timings(
            total=_seconds(timings.total),
            tokenize=_seconds(timings.tokenize),
            queue=_seconds(timings.queue),
            cache=_seconds(timings.cache),
            compute=_seconds(timings.compute),
        ),
        request_id=info.request_id,
    )
