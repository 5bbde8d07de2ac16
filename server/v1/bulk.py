"""ProcessDocuments: any number of documents through one stream, a bounded number at a time.

One task reads requests while there is room; each document is a task; their responses go through a short queue to the
writer. A document keeps its room until its answer has gone to the caller. So while the caller does not read, nothing
more is read from it: the caller's pace is the stream's.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from google.rpc.status_pb2 import Status

from chunking import Ruler
from octavo.v1 import inference_pb2 as pb
from server.errors import CallError, DocumentTooLarge, Draining, EmptyDocument, InvalidCall, Refused
from server.health.drain import Drain
from server.inference.answer import Answer
from server.inference.call import Call, Timings, Usage
from server.inference.known import KnownDigests
from server.inference.service import Service
from server.limits import Slot
from server.scheduling.forecast import Reservation
from server.status import status_of
from server.telemetry.logs import report
from server.v1 import replies
from server.v1.requests import Limits, check_message, known_digests, offset_unit
from server.v1.results import Results, SegmentBatch

READ_AHEAD_BYTES = 1 << 20  # of text, about 250,000 tokens; a longer document is read when it is alone
DOCUMENT_BYTES = 4096  # that a document takes beside its text, so that tiny ones are bounded too
WAITING_RESPONSES = 2  # not yet written
PART_SECONDS = 1.0  # after which a result is sent in part, so that callers see progress within a long document
MOST_ID_BYTES = 1024
MAX_PART_BYTES = 1 << 20  # of a document's text
MOST_DOCUMENTS = 1 << 16  # of one stream, whose ids must be remembered; then the caller is asked for another stream

_KNOWN = "document.known_segment_digests"

Parts = AsyncIterator[pb.ProcessDocumentsRequest]


@dataclass(slots=True)
class _Incoming:
    """A document whose parts are coming in; its text is dropped once it cannot be answered.

    Attributes:
        held: bytes that count as in flight.
        known: digests of segments whose vectors the caller holds, as they came: objects would take ten times as much.
        refusal: why it will not be answered.
    """

    id: str
    parts: list[str] = field(default_factory=list)
    size: int = 0
    held: int = 0
    known: bytes = b""
    refusal: CallError | None = None

    @property
    def room(self) -> int:
        """What it takes of the stream's read-ahead."""
        return self.held + DOCUMENT_BYTES


class Bulk:
    """The documents of one stream."""

    def __init__(
        self,
        service: Service,
        calls: Sequence[Call],
        start: pb.ProcessStart,
        reservation: Reservation,
        slot: Slot,
        drain: Drain,
        limits: Limits,
    ) -> None:
        self._service = service
        self._calls = calls
        self._names = [task.name for task in start.tasks]
        self._request_id = calls[0].request_id
        self._reservation = reservation
        self._slot = slot
        self._drain = drain
        self._limits = limits
        self._unit = offset_unit(start.options)
        self._return_segments = start.return_segments
        self._takes_known = start.return_segments and all(
            task.embed.return_segment_vectors for task in start.tasks if task.WhichOneof("kind") == "embed"
        )
        self._responses: asyncio.Queue[tuple[pb.ProcessDocumentsResponse, _Incoming | None]] = asyncio.Queue(
            WAITING_RESPONSES
        )
        self._room = _Room(READ_AHEAD_BYTES)
        # Hashes keyed by the process, 64 bits each: the chance of an equal pair in a full stream is 1e-10.
        self._ids: set[int] = set()

    async def responses(self, parts: Parts) -> AsyncGenerator[pb.ProcessDocumentsResponse, None]:
        """Answer all documents of the stream.

        Raises:
            InvalidCall: the stream itself is malformed: an id is missing or comes twice, parts are mixed up.
        """
        work = asyncio.create_task(self._work(parts))
        try:
            while not (work.done() and self._responses.empty()):
                waiting = asyncio.ensure_future(self._responses.get())
                try:
                    await asyncio.wait((waiting, work), return_when=asyncio.FIRST_COMPLETED)
                    if waiting.done():
                        response, answered = waiting.result()
                        yield response
                        if answered:
                            self._forget(answered)
                finally:
                    waiting.cancel()
            await work  # whose fault, if any, is the stream's
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self, parts: Parts) -> None:
        try:
            async with asyncio.TaskGroup() as documents:
                reading = asyncio.create_task(self._read(parts, documents))
                draining = asyncio.create_task(self._drain.wait())
                try:
                    await asyncio.wait((reading, draining), return_when=asyncio.FIRST_COMPLETED)
                    if reading.done():
                        reading.result()
                    else:
                        await self._say(draining=status_of(self._drain.fault, self._request_id))
                finally:
                    reading.cancel()
                    draining.cancel()
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from None

    async def _read(self, parts: Parts, documents: asyncio.TaskGroup) -> None:
        """Begin each document once it has come in whole and there is room."""
        incoming: _Incoming | None = None
        async for request in parts:
            if request.WhichOneof("message") != "document":
                raise InvalidCall("start", "the start comes first, and once")
            part = request.document
            incoming = await self._take_in(part, incoming)
            if part.more:
                continue
            text = "".join(incoming.parts)
            incoming.parts.clear()
            await self._room.enter(incoming.room)
            self._slot.busy += 1
            documents.create_task(self._process(incoming, text))
            incoming = None
            del text
            if len(self._ids) >= MOST_DOCUMENTS:
                full = Draining(f"a stream takes {MOST_DOCUMENTS:,} documents: send the others in another", 0.0)
                await self._say(draining=status_of(full, self._request_id))
                return
        if incoming:
            raise InvalidCall("document.more", "the stream ended within a document")

    async def _take_in(self, part: pb.DocumentPart, incoming: _Incoming | None) -> _Incoming:
        if not part.id:
            raise InvalidCall("document.id", "each document has an id")
        text = part.text
        size = len(text.encode())
        if size > MAX_PART_BYTES:
            raise InvalidCall("document.text", f"a part has at most {MAX_PART_BYTES:,} bytes")
        if incoming is None:
            self._check_id(part.id)
            held = size + len(part.known_segment_digests)
            self._slot.hold_again(held)  # streams that waited here would wait for each other
            incoming = _Incoming(part.id, held=held, known=part.known_segment_digests)
            self._check_known(incoming)
        elif part.known_segment_digests:
            self._refuse(incoming, InvalidCall(_KNOWN, "only a document's first part has digests"))
        elif part.id != incoming.id:
            raise InvalidCall("document.more", "a document's parts follow one another")
        elif incoming.refusal is None:
            self._hold_more(incoming, size)
        incoming.size += size
        if incoming.size > self._limits.max_document_bytes:
            most = self._limits.max_document_bytes
            self._refuse(incoming, DocumentTooLarge("document.text", f"the text is over {most:,} bytes"))
        if incoming.refusal is None:
            incoming.parts.append(text)
        return incoming

    def _check_known(self, incoming: _Incoming) -> None:
        try:
            known_digests(incoming.known, _KNOWN)
        except InvalidCall as fault:
            self._refuse(incoming, fault)
        if incoming.known and not self._takes_known:
            why = "they need start.return_segments, and return_segment_vectors of each embed task"
            self._refuse(incoming, InvalidCall(_KNOWN, why))

    def _check_id(self, identifier: str) -> None:
        if len(identifier.encode()) > MOST_ID_BYTES:
            raise InvalidCall("document.id", f"an id has at most {MOST_ID_BYTES:,} bytes")
        number = hash(identifier)
        if number in self._ids:
            raise InvalidCall("document.id", "the ids of a stream differ")
        self._ids.add(number)

    def _hold_more(self, incoming: _Incoming, size: int) -> None:
        """Count a further part. It must not wait: streams that wait within a document would wait for each other."""
        try:
            self._slot.hold(size)
            incoming.held += size
        except Refused as refusal:
            self._refuse(incoming, refusal)

    def _refuse(self, incoming: _Incoming, refusal: CallError) -> None:
        incoming.refusal = incoming.refusal or refusal
        incoming.parts.clear()
        self._slot.give_back(incoming.held)
        incoming.held = 0
        incoming.known = b""

    def _forget(self, answered: _Incoming) -> None:
        self._room.leave(answered.room)
        self._slot.give_back(answered.held)
        self._slot.busy -= 1

    async def _process(self, incoming: _Incoming, text: str) -> None:
        outcome: pb.AnalyzeResponse | Status
        try:
            outcome = await self._answer(incoming, text)
        except CallError as fault:
            outcome = status_of(fault, self._request_id)
        except Exception as error:  # noqa: BLE001 - a poisonous document fails alone
            report(error)
            outcome = status_of(error, self._request_id)
        if isinstance(outcome, Status):
            await self._say(incoming, result=pb.DocumentResult(id=incoming.id, error=outcome))
        else:
            await self._say(incoming, result=pb.DocumentResult(id=incoming.id, ok=outcome))

    async def _answer(self, incoming: _Incoming, text: str) -> pb.AnalyzeResponse:
        """Compute a document; segments that were asked for are said as they come, but for the last of them."""
        if incoming.refusal:
            raise incoming.refusal
        timings, reply = Timings(), pb.AnalyzeResponse()
        answers = []
        for number in range(len(self._calls)):
            answer = await self._pass(incoming, text, timings, number, reply)
            if not answer.usage.tokens:
                raise EmptyDocument("document.text")
            answers.append(answer)
        for answer, trunk in zip(answers, reply.trunks, strict=True):
            charged = self._service.price(answer.usage)
            trunk.MergeFrom(replies.trunk(answer.call, replies.usage_of(answer.usage, charged)))
        usage = sum((answer.usage for answer in answers), Usage())
        reply.info.CopyFrom(replies.reply_info(self._calls, usage, timings, self._service.price(usage)))
        reply.results.sort(key=lambda result: self._names.index(result.name))
        reply.gone.extend(replies.gone(answers))
        check_message(reply.ByteSize() + replies.REPLY_BYTES)
        return reply

    async def _pass(
        self, incoming: _Incoming, text: str, timings: Timings, number: int, reply: pb.AnalyzeResponse
    ) -> Answer:
        """Run a document through one trunk; what is left to say when it ends goes into the last reply."""
        call = self._calls[number].knowing(KnownDigests.unpacked(incoming.known))
        answer, ruler = Answer(call, text, stream=True), Ruler(text, self._unit)
        writer = Results(call.tasks, text, self._unit)
        batch = SegmentBatch(call.tasks, self._unit, return_segments=self._return_segments)
        said = time.monotonic()
        async with aclosing(self._service.results(call, text, timings, self._reservation)) as results:
            async for result in results:
                segment = answer.take(result)
                if not (self._return_segments or batch.flows):
                    continue
                described = replies.described([segment], ruler)
                of_segment = writer.of_segment(answer.of_segment(result))
                while not batch.add(*described, of_segment):
                    await self._say_part(incoming, number, batch)
                    said = time.monotonic()
                if time.monotonic() - said > PART_SECONDS:
                    await self._say_part(incoming, number, batch)
                    said = time.monotonic()
        of_document = writer.of_document(answer)
        is_last = number == len(self._calls) - 1
        if batch.size and not (is_last and batch.has_room([*reply.results, *of_document])):
            await self._say_part(incoming, number, batch)
        rest = _part(number, batch)
        for of_task, whole in zip(rest.results, of_document, strict=False):
            of_task.MergeFrom(whole)
        reply.segments.extend(rest.segments)
        if rest.HasField("kept"):
            reply.kept.CopyFrom(rest.kept)
        reply.trunks.extend(rest.trunks[len(reply.trunks) :])
        reply.results.extend(rest.results)
        return answer

    async def _say_part(self, incoming: _Incoming, number: int, batch: SegmentBatch) -> None:
        """Queue what there is of a document."""
        await self._say(result=pb.DocumentResult(id=incoming.id, ok=_part(number, batch), more=True))

    async def _say(self, answered: _Incoming | None = None, **message: pb.DocumentResult | Status) -> None:
        """Queue a response; a document that it answers to the end is forgotten once it has gone."""
        await self._responses.put((pb.ProcessDocumentsResponse(**message), answered))  # type: ignore[arg-type]


def _part(number: int, batch: SegmentBatch) -> pb.AnalyzeResponse:
    """What one trunk says of some segments."""
    infos, kept, results = batch.take()
    part = pb.AnalyzeResponse(results=results, trunks=[pb.Trunk() for _ in range(number + 1)])
    described = part.trunks[number] if number else part
    described.segments.extend(infos)
    if kept.positions:
        described.kept.CopyFrom(kept)
    return part


class _Room:
    """Lets documents in while what they take together is below a bound, and any document when it is alone.

    One task enters; any may leave.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._inside = 0
        self._left = asyncio.Event()

    async def enter(self, size: int) -> None:
        while self._inside and self._taken + size > self._most:
            self._left.clear()
            await self._left.wait()
        self._taken += size
        self._inside += 1

    def leave(self, size: int) -> None:
        self._taken -= size
        self._inside -= 1
        self._left.set()
