"""InferenceService: convert, delegate to the service, convert back."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from contextlib import aclosing

from chunking import Ruler
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc
from server.errors import DeadlineExceeded, EmptyDocument, InvalidCall
from server.health.drain import Drain
from server.inference.answer import Answer, SegmentAnswer
from server.inference.call import Call, Timings, Usage
from server.inference.cursor import Cursors
from server.inference.models import Catalogue
from server.inference.service import Service
from server.rpc import replies, requests
from server.rpc.bulk import Bulk
from server.rpc.call_gate import Context
from server.rpc.requests import Limits
from server.rpc.status import status_of
from server.types import Priority


class InferenceServicer(inference_pb2_grpc.InferenceServiceServicer):
    """The methods of the service; each reads as what it does."""

    def __init__(self, catalogue: Catalogue, service: Service, limits: Limits, drain: Drain, secret: bytes) -> None:
        self._catalogue = catalogue
        self._service = service
        self._limits = limits
        self._drain = drain
        self._secret = secret

    async def Segment(self, request: pb.SegmentRequest, context: Context) -> pb.SegmentResponse | bytes:
        """Cut and count a document."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        call = requests.call_of(request.options, (), text, self._catalogue, context)
        reply = replies.Reply(self._service, call, self._limits, context.slot)
        reply.expect([text])
        segments, usage = await self._service.segment(call, text, "document.text", timings, reply.grow)
        ruler = Ruler(text, requests.offset_unit(request.options))
        return await reply.make(
            lambda: pb.SegmentResponse(
                info=replies.reply_info(call, usage, timings),
                segments=[replies.segment_info(SegmentAnswer.of(prepared), ruler) for prepared in segments],
                uncached_tokens=usage.computed,
                would_charge_tokens=math.ceil(self._service.price(usage)),
            )
        )

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse | bytes:
        """Embed documents; one document's fault is its own."""
        timings = Timings()
        documents = request.documents
        if not 0 < len(documents) <= self._limits.max_documents:
            raise InvalidCall("documents", f"a call has 1 to {self._limits.max_documents} documents")
        if request.embed.spans and len(documents) > 1:
            raise InvalidCall("embed.spans", "spans go with exactly one document")
        texts = requests.texts_of(documents, "documents", self._limits)
        task = pb.Task(name="embed", embed=request.embed)
        call = requests.call_of(request.options, [task], texts[0], self._catalogue, context, path="")
        fields = [f"documents[{i}].text" for i in range(len(texts))]
        reply = replies.Reply(self._service, call, self._limits, context.slot, [document.id for document in documents])
        reply.expect(texts)
        answers = await self._service.embed(call, texts, fields, timings, reply.grow)
        usage = sum((answer.usage for answer in answers if isinstance(answer, Answer)), Usage())
        unit = requests.offset_unit(request.options)
        return await reply.make(
            lambda: pb.EmbedResponse(
                info=replies.reply_info(call, usage, timings, self._service.price(usage)),
                results=[
                    self._embed_result(document, answer, Ruler(text, unit), call)
                    for document, answer, text in zip(documents, answers, texts, strict=True)
                ],
            )
        )

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse | bytes:
        """Run tasks over a document in one pass."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        call = requests.call_of(request.options, tasks, text, self._catalogue, context)
        reply = replies.Reply(self._service, call, self._limits, context.slot)
        reply.expect([text])
        answer = await self._service.analyze(call, text, "document.text", timings, reply.grow)
        ruler = Ruler(text, requests.offset_unit(request.options))
        return await reply.make(
            lambda: pb.AnalyzeResponse(
                info=replies.reply_info(call, answer.usage, timings, self._service.price(answer.usage)),
                segments=[replies.segment_info(segment, ruler) for segment in answer.segments],
                results=replies.document_results(call.tasks, answer),
            )
        )

    async def StreamSegments(
        self, request: pb.StreamSegmentsRequest, context: Context
    ) -> AsyncIterator[pb.StreamSegmentsResponse]:
        """Answer segment by segment; when the deadline is near, the summary says how far it got."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        call = requests.call_of(request.options, tasks, text, self._catalogue, context)
        requests.check_message(replies.REPLY_BYTES + replies.size_of(call.tasks, 1))
        yield pb.StreamSegmentsResponse(header=replies.stream_header(call))

        cursors = await asyncio.to_thread(self._cursors, call, request)  # a long text takes a while to hash
        first = cursors.first(request.cursor) if request.cursor else 0
        answer, ruler = Answer(call, stream=True), Ruler(text, requests.offset_unit(request.options))
        partial = False
        try:
            async with aclosing(self._service.stream(call, text, timings)) as results:
                async for result in results:
                    info = replies.segment_info(await self._service.take(answer, result), ruler)
                    if info.index >= first:
                        vectors = replies.segment_results(call.tasks, answer.of_segment(result))
                        segment = pb.SegmentResult(segment=info, results=vectors, cursor=cursors.after(info.index))
                        yield pb.StreamSegmentsResponse(segment=segment)
        except DeadlineExceeded:
            partial = True
        if not answer.usage.tokens and not partial:
            raise EmptyDocument("document.text")
        reply_info = replies.reply_info(call, answer.usage, timings, self._service.price(answer.usage))
        of_document = await self._service.aside(call, lambda: replies.document_results(call.tasks, answer))
        summary = pb.StreamSummary(info=reply_info, results=of_document, partial=partial)
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
        call = requests.call_of(
            start.options, tasks, "", self._catalogue, context, Priority.BULK, path="start.tasks[{}]."
        )
        requests.check_message(replies.REPLY_BYTES + replies.size_of(call.tasks, 1))
        info = replies.reply_info(call, Usage(), Timings())
        yield pb.ProcessDocumentsResponse(
            ready=pb.ProcessReady(info=info, max_document_bytes=limits.max_document_bytes)
        )
        unit = requests.offset_unit(start.options)
        with self._service.reserve(call) as reservation:
            bulk = Bulk(
                self._service,
                call,
                reservation,
                context.slot,
                self._drain,
                limits,
                unit,
                return_segments=start.return_segments,
            )
            async with aclosing(bulk.responses(request_iterator)) as responses:
                async for response in responses:
                    yield response

    def _cursors(self, call: Call, request: pb.StreamSegmentsRequest) -> Cursors:
        text = hashlib.blake2b(request.document.text.encode(), digest_size=32).digest()
        options = (b"%d" % request.options.input_type, b"%d" % request.options.offset_unit)
        tasks = (task.SerializeToString(deterministic=True) for task in request.tasks)
        return Cursors(self._secret, (call.client.tenant.encode(), text, call.fingerprint.encode(), *options, *tasks))

    def _embed_result(
        self, document: pb.Document, answer: Answer | EmptyDocument, ruler: Ruler, call: Call
    ) -> pb.EmbedResult:
        if isinstance(answer, EmptyDocument):
            return pb.EmbedResult(id=document.id, status=status_of(answer, call.request_id))
        (result,) = replies.document_results(call.tasks, answer)
        return pb.EmbedResult(
            id=document.id,
            segments=[replies.segment_info(segment, ruler) for segment in answer.segments],
            embedding=result.embed,
            usage=replies.usage_of(answer.usage, self._service.price(answer.usage)),
        )
