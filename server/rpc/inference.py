"""InferenceService: convert, delegate to the pipeline, convert back."""

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from chunking import Ruler
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc
from server.errors import CallError, DeadlineExceeded, EmptyDocument, InvalidCall
from server.health.drain import Drain
from server.inference.call import Call, Timings, Usage
from server.inference.cursor import Cursors
from server.inference.models import Catalogue
from server.inference.pipeline import Document, Pipeline, Prepared
from server.rpc import replies, requests
from server.rpc.answer import Answer
from server.rpc.bulk import Bulk
from server.rpc.call_gate import client_of_call
from server.rpc.interceptor import Context, request_id
from server.rpc.requests import Envelope, Limits
from server.rpc.status import status_of
from server.scheduling.forecast import Reservation
from server.types import Priority

DOCUMENTS_AT_ONCE = 32  # of one Embed; enough to lay short ones end to end
MARGIN_SECONDS = 1.0  # before a stream's deadline, for its summary; a tenth of the time left if that is less


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A document that was read to its end: what a unary reply must know before anything is computed."""

    document: Document
    groups: list[list[Prepared]]

    @property
    def segments(self) -> list[Prepared]:
        """All segments in order."""
        return [prepared for group in self.groups for prepared in group]

    @property
    def uncached(self) -> int:
        """Tokens of the segments that may have to be computed."""
        return sum(prepared.segment.processed_tokens for prepared in self.segments if not prepared.complete)

    @property
    def cached(self) -> int:
        """Tokens of the others."""
        return sum(prepared.segment.processed_tokens for prepared in self.segments if prepared.complete)


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """The methods of the service; each reads as what it does."""

    def __init__(self, catalogue: Catalogue, pipeline: Pipeline, limits: Limits, drain: Drain, secret: bytes) -> None:
        self._catalogue = catalogue
        self._pipeline = pipeline
        self._limits = limits
        self._drain = drain
        self._secret = secret

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse:
        """Cut and count a document."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        call = requests.call_of(request.options, (), text, self._catalogue, self._envelope(context))
        ruler = Ruler(text, requests.offset_unit(request.options))
        async with self._bounded(call) as reservation:
            cut = await self._cut(call, text, "document.text", timings, reservation)
            segments = cut.segments
            known = await self._pipeline.known(cut.document, segments)
        sizes = [prepared.segment.processed_tokens for prepared in segments]
        uncached = sum(size for size, is_known in zip(sizes, known, strict=True) if not is_known)
        usage = Usage(sum(prepared.segment.tokens for prepared in segments), sum(sizes), uncached)
        return pb.SegmentResponse(
            info=replies.reply_info(call, usage, timings),
            segments=[replies.segment_info(prepared, ruler) for prepared in segments],
            uncached_tokens=uncached,
            would_charge_tokens=math.ceil(self._price(usage)),
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Embed documents; one document's fault is its own."""
        timings = Timings()
        documents = request.documents
        if not 0 < len(documents) <= self._limits.max_documents:
            raise InvalidCall("documents", f"a call has 1 to {self._limits.max_documents} documents")
        if request.embed.spans and len(documents) > 1:
            raise InvalidCall("embed.spans", "spans go with exactly one document")
        texts = requests.texts_of(documents, "documents", self._limits)
        task = pb.Task(name="embed", embed=request.embed)
        call = requests.call_of(request.options, [task], texts[0], self._catalogue, self._envelope(context), path="")
        rulers = [Ruler(text, requests.offset_unit(request.options)) for text in texts]
        async with self._bounded(call) as reservation:
            reservation.foresee(sum(map(len, texts)), call.deadline)
            cuts = [await self._cut_or_fault(call, text, i, timings, reservation) for i, text in enumerate(texts)]
            sizes = [replies.size_of(call.tasks, len(cut.segments)) for cut in cuts if isinstance(cut, Cut)]
            ids = sum(len(document.id.encode()) for document in documents)
            requests.check_reply(replies.REPLY_BYTES * (1 + len(documents)) + ids + sum(sizes), self._limits)
            read = [cut for cut in cuts if isinstance(cut, Cut)]
            uncached, cached = sum(cut.uncached for cut in read), sum(cut.cached for cut in read)
            await self._pipeline.admit(call, reservation, uncached, cached)
            answers = await self._answer_all(cuts, rulers)
        usage = sum((answer.usage for answer in answers if isinstance(answer, Answer)), Usage())
        return pb.EmbedResponse(
            info=replies.reply_info(call, usage, timings, self._price(usage)),
            results=[self._embed_result(*each, call) for each in zip(documents, answers, strict=True)],
        )

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse:
        """Run tasks over a document in one pass."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        call = requests.call_of(request.options, tasks, text, self._catalogue, self._envelope(context))
        async with self._bounded(call) as reservation:
            reservation.foresee(len(text), call.deadline)
            cut = await self._cut(call, text, "document.text", timings, reservation)
            await self._pipeline.admit(call, reservation, cut.uncached, cut.cached)
            answer = await self._answer(cut, Ruler(text, requests.offset_unit(request.options)))
        info = replies.reply_info(call, answer.usage, timings, self._price(answer.usage))
        return pb.AnalyzeResponse(info=info, segments=answer.infos, results=answer.of_document())

    async def StreamSegments(
        self, request: pb.StreamSegmentsRequest, context: Context
    ) -> AsyncIterator[pb.StreamSegmentsResponse]:
        """Answer segment by segment; when the deadline comes near, the summary says how far it got."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        call = requests.call_of(request.options, tasks, text, self._catalogue, self._envelope(context))
        requests.check_message(replies.REPLY_BYTES + replies.size_of(call.tasks, 1))
        answer = Answer(call, Ruler(text, requests.offset_unit(request.options)), stream=True)
        yield pb.StreamSegmentsResponse(header=replies.stream_header(call))

        cursors, first, partial = self._cursors(call, request), 0, False
        if request.cursor:
            first = cursors.first(request.cursor)
        last_moment = call.deadline - min(MARGIN_SECONDS, 0.1 * (call.deadline - timings.began))
        with self._pipeline.reserve(call) as reservation:
            document = self._pipeline.open(call, text, timings, reservation)
            async with aclosing(self._pipeline.results(document, self._pipeline.read(document))) as results:
                while not partial:
                    try:
                        async with _within(last_moment):
                            result = await anext(results, None)
                    except DeadlineExceeded:
                        partial = True
                        continue
                    if result is None:
                        break
                    info = answer.take(result)
                    if info.index >= first:
                        cursor = cursors.after(info.index)
                        segment = pb.SegmentResult(segment=info, results=answer.of_segment(result), cursor=cursor)
                        yield pb.StreamSegmentsResponse(segment=segment)
        if not answer.usage.tokens and not partial:
            raise EmptyDocument("document.text")
        reply_info = replies.reply_info(call, answer.usage, timings, self._price(answer.usage))
        summary = pb.StreamSummary(info=reply_info, results=answer.of_document(), partial=partial)
        yield pb.StreamSegmentsResponse(summary=summary)

    async def ProcessDocuments(
        self, request_iterator: AsyncIterator[pb.ProcessDocumentsRequest], context: Context
    ) -> AsyncIterator[pb.ProcessDocumentsResponse]:
        """Answer any number of documents in the bulk class."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidCall("start", "the start comes first, and once")
        start, limits = first.start, self._limits
        tasks = requests.tasks_of(start.tasks, limits)
        if any(task.embed.spans for task in tasks):
            raise InvalidCall("start.tasks", "spans belong to one document; a stream of many takes none")
        envelope = requests.envelope(
            request_id.get(), client_of_call.get(), context.time_remaining(), limits, bulk=True
        )
        call = requests.call_of(
            start.options, tasks, "", self._catalogue, envelope, Priority.BULK, path="start.tasks[{}]."
        )
        requests.check_message(replies.REPLY_BYTES + replies.size_of(call.tasks, 1))
        info = replies.reply_info(call, Usage(), Timings())
        yield pb.ProcessDocumentsResponse(
            ready=pb.ProcessReady(info=info, max_document_bytes=limits.max_document_bytes)
        )
        unit = requests.offset_unit(start.options)
        with self._pipeline.reserve(call) as reservation:
            returning = start.return_segments
            bulk = Bulk(self._pipeline, call, reservation, self._drain, limits, unit, return_segments=returning)
            async with aclosing(bulk.responses(request_iterator)) as responses:
                async for response in responses:
                    yield response

    def _cursors(self, call: Call, request: pb.StreamSegmentsRequest) -> Cursors:
        text = hashlib.blake2b(request.document.text.encode(), digest_size=32).digest()
        tasks = (task.SerializeToString(deterministic=True) for task in request.tasks)
        return Cursors(self._secret, (call.client.tenant.encode(), text, call.fingerprint.encode(), *tasks))

    def _envelope(self, context: Context, *, bulk: bool = False) -> Envelope:
        client, left = client_of_call.get(), context.time_remaining()
        return requests.envelope(request_id.get(), client, left, self._limits, bulk=bulk)

    def _price(self, usage: Usage) -> float:
        return self._pipeline.price(usage.computed, usage.cached)

    def _embed_result(self, document: pb.Document, answer: Answer | CallError, call: Call) -> pb.EmbedResult:
        if isinstance(answer, CallError):
            return pb.EmbedResult(id=document.id, status=status_of(answer, call.request_id))
        (result,) = answer.of_document()
        usage = replies.usage_of(answer.usage, self._price(answer.usage))
        return pb.EmbedResult(id=document.id, segments=answer.infos, embedding=result.embed, usage=usage)

    @asynccontextmanager
    async def _bounded(self, call: Call) -> AsyncIterator[Reservation]:
        """A unary call's time and its reservation on the machine."""
        with self._pipeline.reserve(call) as reservation:
            async with _within(call.deadline):
                yield reservation

    async def _cut(self, call: Call, text: str, field: str, timings: Timings, reservation: Reservation) -> Cut:
        document = self._pipeline.open(call, text, timings, reservation)
        groups: list[list[Prepared]] = []
        segments = 0
        async with aclosing(self._pipeline.read(document)) as reading:
            async for group in reading:
                groups.append(group)
                segments += len(group)
                requests.check_reply(replies.REPLY_BYTES + replies.size_of(call.tasks, segments), self._limits)
        if not segments:
            raise EmptyDocument(field)
        return Cut(document, groups)

    async def _cut_or_fault(
        self, call: Call, text: str, index: int, timings: Timings, reservation: Reservation
    ) -> Cut | CallError:
        try:
            return await self._cut(call, text, f"documents[{index}].text", timings, reservation)
        except EmptyDocument as fault:
            return fault

    async def _answer(self, cut: Cut, ruler: Ruler) -> Answer:
        answer = Answer(cut.document.call, ruler)
        async with aclosing(self._pipeline.results(cut.document, _stream_of(cut.groups))) as results:
            async for result in results:
                answer.take(result)
        return answer

    async def _answer_all(self, cuts: Sequence[Cut | CallError], rulers: Sequence[Ruler]) -> list[Answer | CallError]:
        gate = asyncio.Semaphore(DOCUMENTS_AT_ONCE)

        async def answer(cut: Cut | CallError, ruler: Ruler) -> Answer | CallError:
            if isinstance(cut, CallError):
                return cut
            async with gate:
                return await self._answer(cut, ruler)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(answer(*each)) for each in zip(cuts, rulers, strict=True)]
        except* CallError as faults:
            raise faults.exceptions[0] from None
        return [task.result() for task in tasks]


async def _stream_of(groups: Sequence[list[Prepared]]) -> AsyncIterator[list[Prepared]]:
    for group in groups:
        yield group


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
