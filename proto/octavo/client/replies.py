"""Converts replies to results. An inconsistent reply raises ServerError."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, TypedDict

from google.protobuf.duration_pb2 import Duration

from octavo.client import results
from octavo.client.arguments import PolicyName, Segmentation
from octavo.client.errors import ServerError, from_status
from octavo.client.requests import DIGEST_BYTES
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


def analysis(reply: pb.AnalyzeResponse, known: bytes = b"") -> results.Analysis:
    """Convert segments and the result of each task by name; `known` are the call's digests."""
    return joined_analysis([reply], known)


def joined_analysis(parts: Sequence[pb.AnalyzeResponse], known: bytes = b"") -> results.Analysis:
    """Join a document's reply from its messages: each has some segments, the last has the document's results."""
    pieces = [by_name(part.results) for part in parts]
    last = parts[-1]
    own = _tiled(parts, known)
    return results.Analysis(
        **_info(last.info),
        segments=own,
        results={name: joined([each[name] for each in pieces if name in each]) for name in pieces[-1]},
        trunks=tuple(
            replace(trunk(each), segments=_tiled(_of_trunk(parts, number), known) if number else own)
            for number, each in enumerate(last.trunks)
        ),
        gone=digests(last.gone, known),
    )


def _of_trunk(parts: Iterable[pb.AnalyzeResponse], number: int) -> list[pb.Trunk]:
    return [part.trunks[number] for part in parts if number < len(part.trunks)]


def _tiled(parts: Iterable[pb.AnalyzeResponse | pb.Trunk], known: bytes) -> tuple[results.Segment, ...]:
    tiles = Tiles(known)
    return tuple(segment for part in parts for segment in tiles.merged(segments(part.segments), part.kept))


class Tiles:
    """Puts a document's kept segments between the others: together they tile it.

    Args:
        known: the call's digests.
    """

    def __init__(self, known: bytes) -> None:
        self._known = known
        self._index = 0
        self._at = 0

    def merged(self, new: Iterable[results.Segment], kept: pb.KeptSegments) -> Iterator[results.Segment]:
        """Yield the next segments in order: those that came in full, and the kept ones."""
        lists = kept.positions, kept.lengths, kept.tokens
        if len(set(map(len, lists))) > 1:
            raise ServerError("the reply's lists of kept segments differ in length")
        waiting = zip(*lists, strict=True)
        for segment in new:
            yield from self._kept(islice(waiting, max(0, segment.index - self._index)))
            self._index, self._at = segment.index + 1, segment.char_end
            yield segment
        yield from self._kept(waiting)

    def _kept(self, found: Iterable[tuple[int, int, int]]) -> Iterator[results.Segment]:
        for position, length, tokens in found:
            start, index = self._at, self._index
            self._index, self._at = index + 1, start + length
            (digest,) = digests([position], self._known)
            yield results.Segment(index, start, self._at, tokens, 0, None, digest, kept=True)


def digests(positions: Iterable[int], known: bytes) -> tuple[bytes, ...]:
    """The known digests at these positions."""
    found = tuple(known[DIGEST_BYTES * position : DIGEST_BYTES * (position + 1)] for position in positions)
    if not all(found):
        raise ServerError("the reply names a known digest that the call does not have")
    return found


def trunk(message: pb.Trunk) -> results.Trunk:
    """Convert what a trunk ran."""
    usage = _usage(message.usage) if message.HasField("usage") else None
    return results.Trunk(model_ref(message.model), message.fingerprint, tuple(message.tasks), usage)


def segmentation_result(reply: pb.SegmentResponse, known: bytes = b"") -> results.SegmentationResult:
    """Convert segments and their cost."""
    return results.SegmentationResult(
        **_info(reply.info),
        segments=tuple(Tiles(known).merged(segments(reply.segments), reply.kept)),
        uncached_tokens=reply.uncached_tokens,
        would_charge_tokens=reply.would_charge_tokens,
        gone=digests(reply.gone, known),
    )


def stream_header(header: pb.StreamHeader) -> results.StreamHeader:
    """Convert the first message of a stream."""
    trunks = tuple(map(trunk, header.trunks))
    return results.StreamHeader(model_ref(header.model), header.fingerprint, header.request_id, trunks)


def segment_results(result: pb.SegmentResult, tiles: Tiles) -> list[results.SegmentResult]:
    """Convert one segment of a stream, or kept ones; results are the last one's."""
    own = [segment(result.segment)] if result.HasField("segment") else []
    *before, last = (results.SegmentResult(each, {}, result.trunk) for each in tiles.merged(own, result.kept))
    return [*before, replace(last, results=by_name_of_segment(result.results))]


def stream_summary(
    summary: pb.StreamSummary, before: Mapping[str, Sequence[results.TaskResult]], known: bytes = b""
) -> results.StreamSummary:
    """Convert the last message of a stream, with what came of tasks before."""
    found = by_name(summary.results)
    return results.StreamSummary(
        **_info(summary.info),
        results={name: joined([*before.get(name, ()), last]) for name, last in found.items()},
        partial=summary.partial,
        trunks=tuple(map(trunk, summary.trunks)),
        gone=digests(summary.gone, known),
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
        kept_tokens=usage.kept_tokens,
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
