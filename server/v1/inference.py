"""InferenceService: convert, delegate to the service, convert back."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

from chunking import Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc
from server.errors import DeadlineExceeded, EmptyDocument, InvalidCall
from server.health.drain import Drain
from server.inference.answer import Answer, SegmentAnswer
from server.inference.call import Call, Timings, Usage
from server.inference.cursor import Cursors
from server.inference.models import Catalogue
from server.inference.service import Job, Service
from server.limits import Context
from server.status import status_of
from server.types import Priority
from server.v1 import ranks, replies, requests
from server.v1.bulk import Bulk
from server.v1.requests import Limits
from server.v1.results import Results
from server.v1.streams import SegmentWriter

_KNOWN = "use Embed, Analyze or StreamSegments"

_OneTask = pb.ClassifyTokensRequest | pb.RedactRequest | pb.ClassifyRequest | pb.EmbedSparseRequest


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
        request.embed.return_segment_vectors = False  # none are computed
        task = pb.Task(name="embed", embed=request.embed)
        calls = requests.calls_of(request.options, [task], text, self._catalogue, context, path="")
        reply = replies.Reply(self._service, calls, self._limits, context.slot)
        reply.expect([text])
        segments, usage = await self._service.segment(Job(calls[0], text, "document.text"), timings, reply.grow)
        ruler = Ruler(text, requests.offset_unit(request.options))

        def make() -> pb.SegmentResponse:
            answers = [SegmentAnswer.of(prepared) for prepared in segments]
            infos, kept = replies.described(answers, ruler)
            return pb.SegmentResponse(
                info=replies.reply_info(calls, usage, timings),
                segments=infos,
                uncached_tokens=usage.computed,
                would_charge_tokens=math.ceil(self._service.price(usage)),
                kept=kept,
                gone=calls[0].known.gone({segment.kept for segment in answers if segment.kept is not None}),
            )

        return await reply.make(make)

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse | bytes:
        """Embed documents; one document's fault is its own."""
        timings = Timings()
        documents = request.documents
        self._check_number(documents)
        if request.embed.spans and len(documents) > 1:
            raise InvalidCall("embed.spans", "spans go with exactly one document")
        texts = requests.texts_of(documents, "documents", self._limits)
        task = pb.Task(name="embed", embed=request.embed)
        calls = requests.calls_of(request.options, [task], texts[0], self._catalogue, context, path="")
        requests.check_known(request.options, [task], path="")
        reply = replies.Reply(self._service, calls, self._limits, context.slot, [document.id for document in documents])
        reply.expect(texts)
        jobs = [Job(calls[0], text, f"documents[{i}].text") for i, text in enumerate(texts)]
        answers = await self._service.answer(jobs, timings, reply.grow)
        whole = [answer for answer in answers if isinstance(answer, Answer)]
        usage = sum((answer.usage for answer in whole), Usage())
        unit = requests.offset_unit(request.options)
        return await reply.make(
            lambda: pb.EmbedResponse(
                info=replies.reply_info(calls, usage, timings, self._service.price(usage)),
                results=[
                    self._embed_result(document, answer, calls[0], unit)
                    for document, answer in zip(documents, answers, strict=True)
                ],
                gone=replies.gone(whole),
            )
        )

    async def ClassifyTokens(self, request: pb.ClassifyTokensRequest, context: Context) -> pb.ClassifyTokensResponse:
        """Find entities in a document."""
        reply = await self._one(request, pb.Task(classify_tokens=request.classify_tokens), context)
        result = reply.results[0].classify_tokens
        return pb.ClassifyTokensResponse(info=reply.info, segments=reply.segments, result=result)

    async def Redact(self, request: pb.RedactRequest, context: Context) -> pb.RedactResponse:
        """Mask entities in a document."""
        reply = await self._one(request, pb.Task(redact=request.redact), context)
        return pb.RedactResponse(info=reply.info, segments=reply.segments, result=reply.results[0].redact)

    async def Classify(self, request: pb.ClassifyRequest, context: Context) -> pb.ClassifyResponse:
        """Label a document."""
        reply = await self._one(request, pb.Task(classify=request.classify), context)
        return pb.ClassifyResponse(info=reply.info, segments=reply.segments, result=reply.results[0].classify)

    async def EmbedSparse(self, request: pb.EmbedSparseRequest, context: Context) -> pb.EmbedSparseResponse:
        """Make a document's sparse vector."""
        reply = await self._one(request, pb.Task(embed_sparse=request.embed_sparse), context)
        return pb.EmbedSparseResponse(info=reply.info, segments=reply.segments, result=reply.results[0].embed_sparse)

    async def Rank(self, request: pb.RankRequest, context: Context) -> pb.RankResponse | bytes:
        """Rank documents; one document's fault is its own."""
        timings = Timings()
        documents, options = request.documents, request.options
        self._check_number(documents)
        requests.refuse_known_digests(options, _KNOWN)
        texts = requests.texts_of(documents, "documents", self._limits)
        options.input_type = options.input_type or pb.INPUT_TYPE_PASSAGE
        tasks = requests.rank_tasks(request.rank, options.model)
        calls = requests.calls_of(options, tasks, "", self._catalogue, context, path="")
        ids = [document.id for document in documents]
        reply = replies.Reply(self._service, calls, self._limits, context.slot, ids, ranks.FEWER)
        reply.expect(texts)
        jobs = [Job(call, text, f"documents[{i}].text") for call in calls for i, text in enumerate(texts)]
        answers = await self._service.answer(jobs, timings, reply.grow)
        return await reply.make(lambda: ranks.response(request, calls, answers, timings, self._service.price))

    async def Analyze(self, request: pb.AnalyzeRequest, context: Context) -> pb.AnalyzeResponse | bytes:
        """Run tasks over a document, in one pass over each trunk."""
        tasks = requests.tasks_of(request.tasks, self._limits)
        return await self._analyze(request, tasks, "tasks[{}].", context)

    def _check_number(self, documents: Sequence[pb.Document]) -> None:
        if not 0 < len(documents) <= self._limits.max_documents:
            raise InvalidCall("documents", f"a call has 1 to {self._limits.max_documents} documents")

    async def _one(self, request: _OneTask, task: pb.Task, context: Context) -> pb.AnalyzeResponse:
        """Run one task over a document, with the model that the call names, if it names one."""
        requests.refuse_known_digests(request.options, _KNOWN)
        task.model = request.options.model
        reply = await self._analyze(request, [task], "", context)
        return reply if isinstance(reply, pb.AnalyzeResponse) else pb.AnalyzeResponse.FromString(reply)

    async def _analyze(
        self, request: "_OneTask | pb.AnalyzeRequest", tasks: Sequence[pb.Task], path: str, context: Context
    ) -> pb.AnalyzeResponse | bytes:
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        calls = requests.calls_of(request.options, tasks, text, self._catalogue, context, path=path)
        requests.check_known(request.options, tasks, path)
        reply = replies.Reply(self._service, calls, self._limits, context.slot)
        reply.expect([text])
        jobs = [Job(call, text, "document.text") for call in calls]
        answers = await self._service.analyze(jobs, timings, reply.grow)
        return await reply.make(
            lambda: self._reply(answers, text, requests.offset_unit(request.options), tasks, timings)
        )

    def _reply(
        self, answers: Sequence[Answer], text: str, unit: Unit, tasks: Sequence[pb.Task], timings: Timings
    ) -> pb.AnalyzeResponse:
        calls = [answer.call for answer in answers]
        usage = sum((answer.total for answer in answers), Usage())
        reply = pb.AnalyzeResponse(info=replies.reply_info(calls, usage, timings, self._service.price(usage)))
        for answer in answers:
            infos, kept = replies.described(answer.segments, Ruler(text, unit))
            reply.trunks.append(self._trunk(answer))
            described = reply if answer is answers[0] else reply.trunks[-1]
            described.segments.extend(infos)
            if kept:
                described.kept.CopyFrom(kept)
            reply.results.extend(Results(answer.call.tasks, text, unit).of_document(answer))
        reply.results.sort(key=_order(tasks))
        reply.gone.extend(replies.gone(answers))
        return reply

    def _trunk(self, answer: Answer) -> pb.Trunk:
        usage = replies.usage_of(answer.total, self._service.price(answer.total))
        return replies.trunk(answer.call, usage)

    async def StreamSegments(
        self, request: pb.StreamSegmentsRequest, context: Context
    ) -> AsyncIterator[pb.StreamSegmentsResponse]:
        """Answer segment by segment; when the deadline is near, the summary says how far it got."""
        timings = Timings()
        (text,) = requests.texts_of([request.document], "document.text", self._limits)
        tasks = requests.tasks_of(request.tasks, self._limits)
        calls = requests.calls_of(request.options, tasks, text, self._catalogue, context)
        requests.check_known(request.options, tasks)
        unit = requests.offset_unit(request.options)
        requests.check_message(replies.REPLY_BYTES + replies.longest_segment(calls))
        yield pb.StreamSegmentsResponse(header=replies.stream_header(calls))

        cursors = await asyncio.to_thread(self._cursors, calls, request)  # a long text takes a while to hash
        sent = cursors.sent(request.cursor) if request.cursor else [0] * len(calls)
        calls = await self._service.resolve(calls, timings)
        answers = [Answer(call, text, stream=True) for call in calls]
        writer = SegmentWriter(answers, cursors, sent, text, unit)
        partial = False
        try:
            async with aclosing(self._service.stream(calls, text, timings)) as results:
                async for i, result in results:
                    segment = await self._service.take(answers[i], result)
                    for message in writer.of(i, segment, result):
                        yield message
        except DeadlineExceeded:
            partial = True
        if not any(answer.usage.tokens for answer in answers) and not partial:
            raise EmptyDocument("document.text")
        for message in writer.rest():
            yield message
        yield pb.StreamSegmentsResponse(
            summary=await self._service.aside(
                calls[0], lambda: self._summary(answers, text, unit, tasks, timings, partial)
            )
        )

    def _summary(
        self,
        answers: Sequence[Answer],
        text: str,
        unit: Unit,
        tasks: Sequence[pb.Task],
        timings: Timings,
        partial: bool,
    ) -> pb.StreamSummary:
        reply = self._reply(answers, text, unit, tasks, timings)
        gone = [] if partial else reply.gone
        return pb.StreamSummary(info=reply.info, results=reply.results, trunks=reply.trunks, partial=partial, gone=gone)

    async def ProcessDocuments(
        self, request_iterator: AsyncIterator[pb.ProcessDocumentsRequest], context: Context
    ) -> AsyncIterator[pb.ProcessDocumentsResponse]:
        """Answer any number of documents in the bulk class."""
        first = await anext(request_iterator, None)
        if first is None or first.WhichOneof("message") != "start":
            raise InvalidCall("start", "the start comes first, and once")
        start, limits = first.start, self._limits
        tasks = requests.tasks_of(start.tasks, limits)
        requests.refuse_known_digests(
            start.options, "each document has its own, in document.known_segment_digests", "start.options"
        )
        if any(task.embed.spans for task in tasks):
            raise InvalidCall("start.tasks", "spans belong to one document; a stream of many takes none")
        calls = requests.calls_of(
            start.options, tasks, "", self._catalogue, context, Priority.BULK, path="start.tasks[{}]."
        )
        requests.check_message(replies.REPLY_BYTES + replies.longest_segment(calls))
        timings = Timings()
        calls = await self._service.resolve(calls, timings)
        asked = sum((call.asked for call in calls), Usage())
        info = replies.reply_info(calls, asked, timings, self._service.price(asked))
        yield pb.ProcessDocumentsResponse(
            ready=pb.ProcessReady(info=info, max_document_bytes=limits.max_document_bytes)
        )
        with self._service.reserve(calls[0]) as reservation:
            bulk = Bulk(self._service, calls, start, reservation, context.slot, self._drain, limits)
            async with aclosing(bulk.responses(request_iterator)) as responses:
                async for response in responses:
                    yield response

    def _cursors(self, calls: Sequence[Call], request: pb.StreamSegmentsRequest) -> Cursors:
        text = hashlib.blake2b(request.document.text.encode(), digest_size=32).digest()
        options = (b"%d" % request.options.input_type, b"%d" % request.options.offset_unit)
        known = hashlib.blake2b(request.options.known_segment_digests, digest_size=32).digest()
        tasks = (task.SerializeToString(deterministic=True) for task in request.tasks)
        fingerprints = (call.fingerprint.encode() for call in calls)
        subject = (calls[0].client.tenant.encode(), text, *fingerprints, *options, known, *tasks)
        return Cursors(self._secret, subject, places=len(calls))

    def _embed_result(
        self, document: pb.Document, answer: Answer | EmptyDocument, call: Call, unit: Unit
    ) -> pb.EmbedResult:
        if isinstance(answer, EmptyDocument):
            return pb.EmbedResult(id=document.id, status=status_of(answer, call.request_id))
        infos, kept = replies.described(answer.segments, Ruler(document.text, unit))
        (result,) = Results(call.tasks, document.text, unit).of_document(answer)
        return pb.EmbedResult(
            id=document.id,
            segments=infos,
            kept=kept,
            embedding=result.embed,
            usage=replies.usage_of(answer.usage, self._service.price(answer.usage)),
        )


def _order(tasks: Sequence[pb.Task]) -> Callable[[pb.TaskResult], int]:
    """The place of a result among a request's tasks."""
    places = {task.name: i for i, task in enumerate(tasks)}
    return lambda result: places[result.name]
