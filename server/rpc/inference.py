"""InferenceService: convert, delegate to the pipeline, convert back."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import chunking
from chunking import Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc
from server.calls import Call, Timings, Usage
from server.clients import ANONYMOUS
from server.errors import CallError, DeadlineExceeded, EmptyDocument, InvalidCall
from server.models import Catalogue
from server.pipeline import Pipeline, collect
from server.rpc import replies, requests
from server.rpc.answer import Answer
from server.rpc.interceptor import Context, request_id
from server.rpc.requests import Envelope, Limits
from server.rpc.status import status_of

DOCUMENTS_AT_ONCE = 32  # of one Embed; enough to lay short ones end to end
MARGIN_SECONDS = 1.0  # before a stream's deadline, for its summary; a tenth of the time left if that is less


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """The methods of the service; each reads as what it does."""

    def __init__(self, catalogue: Catalogue, pipeline: Pipeline, limits: Limits) -> None:
        self._catalogue = catalogue
        self._pipeline = pipeline
        self._limits = limits

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        """Cut and count a document."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        call = requests.call_of(request.options, (), text, self._catalogue, self._envelope(context))
        ruler = Ruler(text, requests.offset_unit(request.options))
        async with _within(call.deadline):
            segments = await self._cut(call, text, "document.text", timings)
        requests.check_reply(replies.REPLY_BYTES + replies.size_of((), len(segments)), self._limits)
        processed = sum(segment.processed_tokens for segment in segments)
        usage = Usage(sum(segment.tokens for segment in segments), processed, processed)
        return pb.SegmentResponse(
            info=replies.reply_info(call, usage, timings),
            segments=[replies.segment_info(self._pipeline.uncomputed(call, segment), ruler) for segment in segments],
            uncached_tokens=processed,
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embed documents; one document's fault is its own."""
        timings = Timings()
        if not 0 < len(request.documents) <= self._limits.max_documents:
            raise InvalidCall("documents", f"a call has 1 to {self._limits.max_documents} documents")
        if request.embed.spans and len(request.documents) > 1:
            raise InvalidCall("embed.spans", "spans go with exactly one document")
        texts = requests.texts_of(request.documents, "documents", self._limits)
        task = pb.Task(name="embed", embed=request.embed)
        call = requests.call_of(request.options, [task], texts[0], self._catalogue, self._envelope(context))
        unit = requests.offset_unit(request.options)
        async with _within(call.deadline):
            cuts = [await self._cut_or_fault(call, text, i, timings) for i, text in enumerate(texts)]
            sizes = [replies.size_of(call.tasks, 0 if isinstance(cut, CallError) else len(cut)) for cut in cuts]
            ids = sum(len(document.id.encode()) for document in request.documents)
            requests.check_reply(replies.REPLY_BYTES * (1 + len(sizes)) + ids + sum(sizes), self._limits)
            answers = await self._fill_all(call, texts, cuts, unit, timings)
        usage = sum((answer.usage for answer in answers if isinstance(answer, Answer)), Usage())
        return pb.EmbedResponse(
            info=replies.reply_info(call, usage, timings),
            results=[
                _embed_result(document.id, answer, call)
                for document, answer in zip(request.documents, answers, strict=True)
            ],
        )

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        """Run tasks over a document in one pass."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        call = requests.call_of(request.options, tasks, text, self._catalogue, self._envelope(context))
        answer = Answer(call.tasks, Ruler(text, requests.offset_unit(request.options)))
        async with _within(call.deadline):
            segments = await self._cut(call, text, "document.text", timings)
            requests.check_reply(replies.REPLY_BYTES + replies.size_of(call.tasks, len(segments)), self._limits)
            await self._fill(call, segments, answer, timings)
        return pb.AnalyzeResponse(
            info=replies.reply_info(call, answer.usage, timings), segments=answer.infos, results=answer.of_document()
        )

    async def StreamSegments(
        self, request: pb.StreamSegmentsRequest, context: Context
    ) -> AsyncIterator[pb.StreamSegmentsResponse]:
        """Answer segment by segment; when the deadline comes near, the summary says how far it got."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        call = requests.call_of(request.options, tasks, text, self._catalogue, self._envelope(context))
        requests.check_message(replies.REPLY_BYTES + replies.size_of(call.tasks, 1))
        answer = Answer(call.tasks, Ruler(text, requests.offset_unit(request.options)), stream=True)
        yield pb.StreamSegmentsResponse(header=replies.stream_header(call))

        partial = False
        segments = self._pipeline.segments(call, text, timings)
        async with aclosing(self._pipeline.results(call, segments, timings)) as results:
            last_moment = call.deadline - min(MARGIN_SECONDS, 0.1 * (call.deadline - timings.began))
            while not partial:
                try:
                    async with _within(last_moment):
                        result = await anext(results, None)
                except DeadlineExceeded:
                    partial = True
                else:
                    if result is None:
                        break
                    info = answer.take(result)
                    yield pb.StreamSegmentsResponse(
                        segment=pb.SegmentResult(segment=info, results=answer.of_segment(result))
                    )
        if not answer.usage.tokens and not partial:
            raise EmptyDocument("document.text")
        yield pb.StreamSegmentsResponse(
            summary=pb.StreamSummary(
                info=replies.reply_info(call, answer.usage, timings), results=answer.of_document(), partial=partial
            )
        )

    def _envelope(self, context: Context) -> Envelope:
        return requests.envelope(request_id.get(), ANONYMOUS, context.time_remaining(), self._limits)

    async def _cut(self, call: Call, text: str, field: str, timings: Timings) -> list[chunking.Segment]:
        segments = await collect(self._pipeline.segments(call, text, timings))
        if not segments:
            raise EmptyDocument(field)
        return segments

    async def _cut_or_fault(
        self, call: Call, text: str, index: int, timings: Timings
    ) -> list[chunking.Segment] | CallError:
        try:
            return await self._cut(call, text, f"documents[{index}].text", timings)
        except CallError as fault:
            return fault

    async def _fill_all(
        self,
        call: Call,
        texts: Sequence[str],
        cuts: Sequence[list[chunking.Segment] | CallError],
        unit: Unit,
        timings: Timings,
    ) -> list[Answer | CallError]:
        gate = asyncio.Semaphore(DOCUMENTS_AT_ONCE)

        async def fill(text: str, cut: list[chunking.Segment] | CallError) -> Answer | CallError:
            if isinstance(cut, CallError):
                return cut
            async with gate:
                answer = Answer(call.tasks, Ruler(text, unit))
                await self._fill(call, cut, answer, timings)
                return answer

        try:
            async with asyncio.TaskGroup() as group:
                filling = [group.create_task(fill(text, cut)) for text, cut in zip(texts, cuts, strict=True)]
        except* CallError as faults:
            raise faults.exceptions[0] from None
        return [task.result() for task in filling]

    async def _fill(self, call: Call, segments: Sequence[chunking.Segment], answer: Answer, timings: Timings) -> None:
        async with aclosing(self._pipeline.results(call, _stream_of(segments), timings)) as results:
            async for result in results:
                answer.take(result)


async def _stream_of(segments: Sequence[chunking.Segment]) -> AsyncIterator[chunking.Segment]:
    for segment in segments:
        yield segment


def _embed_result(document_id: str, answer: Answer | CallError, call: Call) -> pb.EmbedResult:
    if isinstance(answer, CallError):
        return pb.EmbedResult(id=document_id, status=status_of(answer, call.request_id))
    (result,) = answer.of_document()
    return pb.EmbedResult(
        id=document_id, segments=answer.infos, embedding=result.embed, usage=replies.usage_of(answer.usage)
    )


@asynccontextmanager
async def _within(deadline: float) -> AsyncIterator[None]:
    """Bound what happens inside by a time of the monotonic clock, which is the loop's own.

    Raises:
        DeadlineExceeded: the time came first.
    """
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the deadline passed before the answer was ready") from None
