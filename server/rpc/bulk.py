"""ProcessDocuments: any number of documents through one stream, a bounded number of bytes at a time.

One task reads requests, as long as there is room; each document is a task; what they have to say goes through a short
queue to the writer. While the caller does not read, the queue stays full, documents do not end, room does not come
free, and nothing more is read: the caller's pace is the stream's.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from google.rpc.status_pb2 import Status

from chunking import Ruler, Unit
from octavo.v1 import inference_pb2 as pb
from server.errors import CallError, DocumentTooLarge, EmptyDocument, InvalidCall
from server.health.drain import Drain
from server.inference.call import Call, Timings
from server.inference.pipeline import Pipeline
from server.rpc import replies
from server.rpc.answer import Answer
from server.rpc.interceptor import report
from server.rpc.requests import Limits
from server.rpc.status import status_of
from server.scheduling.forecast import Reservation

READ_AHEAD_BYTES = 1 << 20  # of text, about 250,000 tokens; a longer document is read when it is alone
WAITING_RESPONSES = 16
PART_BYTES = 900_000  # of a result; messages stay below 1 MiB

Parts = AsyncIterator[pb.ProcessDocumentsRequest]


@dataclass(slots=True)
class _Incoming:
    """A document whose parts are coming in; its text is dropped once it is too long."""

    id: str
    parts: list[str]
    size: int = 0


class Bulk:
    """The documents of one stream."""

    def __init__(
        self,
        pipeline: Pipeline,
        call: Call,
        reservation: Reservation,
        drain: Drain,
        limits: Limits,
        unit: Unit,
        *,
        return_segments: bool,
    ) -> None:
        self._pipeline = pipeline
        self._call = call
        self._reservation = reservation
        self._drain = drain
        self._limits = limits
        self._unit = unit
        self._return_segments = return_segments
        self._responses: asyncio.Queue[pb.ProcessDocumentsResponse] = asyncio.Queue(WAITING_RESPONSES)
        self._room = _Room(READ_AHEAD_BYTES)
        self._ids: set[str] = set()

    async def responses(self, parts: Parts) -> AsyncGenerator[pb.ProcessDocumentsResponse, None]:
        """Answer all documents of the stream.

        Raises:
            InvalidCall: the stream itself is malformed: an id is missing or comes twice, parts are mixed up.
        """
        work = asyncio.create_task(self._work(parts))
        try:
            while not (work.done() and self._responses.empty()):
                response = asyncio.ensure_future(self._responses.get())
                try:
                    await asyncio.wait((response, work), return_when=asyncio.FIRST_COMPLETED)
                    if response.done():
                        yield response.result()
                finally:
                    response.cancel()
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
                        await self._say(draining=status_of(self._drain.fault, self._call.request_id))
                finally:
                    reading.cancel()
                    draining.cancel()
        except* CallError as faults:
            raise faults.exceptions[0] from None

    async def _read(self, parts: Parts, documents: asyncio.TaskGroup) -> None:
        """Begin each document once it has come in whole and there is room."""
        incoming: _Incoming | None = None
        async for request in parts:
            if request.WhichOneof("message") != "document":
                raise InvalidCall("start", "the start comes first, and once")
            part = request.document
            incoming = self._take_in(part, incoming)
            if part.more:
                continue
            text = "".join(incoming.parts)
            await self._room.enter(incoming.size)
            documents.create_task(self._process(incoming, text))
            incoming = None
        if incoming:
            raise InvalidCall("document.more", "the stream ended within a document")

    def _take_in(self, part: pb.DocumentPart, incoming: _Incoming | None) -> _Incoming:
        if not part.id:
            raise InvalidCall("document.id", "each document has an id")
        if incoming is None:
            if part.id in self._ids:
                raise InvalidCall("document.id", "the ids of a stream differ")
            self._ids.add(part.id)
            incoming = _Incoming(part.id, [])
        elif part.id != incoming.id:
            raise InvalidCall("document.more", "a document's parts follow one another")
        text = part.text
        incoming.size += len(text.encode())
        incoming.parts.append(text)
        if incoming.size > self._limits.max_document_bytes:
            incoming.parts.clear()
        return incoming

    async def _process(self, incoming: _Incoming, text: str) -> None:
        try:
            outcome = await self._answer(incoming, text)
        except CallError as fault:
            outcome = status_of(fault, self._call.request_id)
        except Exception as error:  # noqa: BLE001 - a poisonous document fails alone
            report(error)
            outcome = status_of(error, self._call.request_id)
        finally:
            self._room.leave(incoming.size)
        if isinstance(outcome, Status):
            await self._say(result=pb.DocumentResult(id=incoming.id, error=outcome))
        else:
            await self._say(result=pb.DocumentResult(id=incoming.id, ok=outcome))

    async def _answer(self, incoming: _Incoming, text: str) -> pb.AnalyzeResponse:
        """Compute a document; its segments, if they are wanted, are said as they come, but for the last of them."""
        most = self._limits.max_document_bytes
        if incoming.size > most:
            raise DocumentTooLarge("document.text", f"{incoming.size:,} bytes of text; this server takes {most:,}")
        call, timings = self._call, Timings()
        answer = Answer(call, Ruler(text, self._unit), stream=True)
        said = replies.SegmentBatch(call.tasks)
        document = self._pipeline.open(call, text, timings, self._reservation)
        async with aclosing(self._pipeline.results(document, self._pipeline.read(document))) as results:
            async for segment in results:
                info = answer.take(segment)
                if not self._return_segments:
                    continue
                said.add(info, answer.of_segment(segment))
                if said.size > PART_BYTES:
                    await self._say(result=pb.DocumentResult(id=incoming.id, ok=said.take(), more=True))
        if not answer.usage.tokens:
            raise EmptyDocument("document.text")
        reply = said.take()
        charged = self._pipeline.price(answer.usage.computed, answer.usage.cached)
        reply.info.CopyFrom(replies.reply_info(call, answer.usage, timings, charged))
        for result, of_document in zip(reply.results, answer.of_document(), strict=True):
            result.MergeFrom(of_document)
        return reply

    async def _say(self, **message: pb.DocumentResult | Status) -> None:
        await self._responses.put(pb.ProcessDocumentsResponse(**message))  # type: ignore[arg-type]


class _Room:
    """Lets documents in while their bytes together are below a bound, and any document when it is alone.

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
