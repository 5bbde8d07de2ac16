"""ProcessDocuments over a fleet: each document goes where its text belongs, and one stream returns all results.

Ids are no places: clients number the documents of a stream.

A replica gets a stream of its own with the first document that belongs there. If one is lost, the caller's stream
ends, and the caller sends the unanswered documents again, as it does when a server stops.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeAlias

import grpc

from octavo.v1 import inference_pb2 as pb
from server.errors import InvalidCall
from server.fleet.calls import BYTES_OF_TOKEN, PROCESS_DOCUMENTS, id_key, text_key
from server.fleet.replicas import Replica, Replicas
from server.fleet.upstream import Relayed, forwarded, has_left
from server.v1.messages import parse

WAITING_RESPONSES: Final = 2  # not yet written

Upstream: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"


async def split(replicas: Replicas, requests: AsyncIterator[bytes], relayed: Relayed) -> AsyncGenerator[bytes, None]:
    """Answer a stream of documents.

    Raises:
        AioRpcError: a replica ended its part with an error; the others' parts are cancelled.
    """
    stream = _Split(replicas, relayed)
    try:
        async for message in stream.answers(requests):
            yield message
    finally:
        await stream.close()


class _Split:
    def __init__(self, replicas: Replicas, relayed: Relayed) -> None:
        self._replicas = replicas
        self._slot = relayed.call.slot
        self._context = relayed.grpc
        self._start = b""
        self._calls: dict[Replica, Upstream] = {}
        self._costs: dict[str, tuple[Replica, int]] = {}  # tokens of documents without a final result
        self._responses: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(WAITING_RESPONSES)
        self._tasks: list[asyncio.Task[None]] = []
        self._ids: set[int] = set()  # hashes of all; replicas bound their number
        self._is_ready = False
        self._draining = asyncio.Event()

    async def answers(self, requests: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        self._spawn(self._feed(requests))
        ended = 0
        while ended < len(self._tasks):
            response = await self._responses.get()
            if isinstance(response, Exception):
                raise response
            if response is None:
                ended += 1
            else:
                yield response

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for call in self._calls.values():
            call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for replica, tokens in self._costs.values():
            self._replicas.settle(replica, tokens, 0)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(self._run(work)))

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do a part of the work, and report its end in the queue of responses."""
        try:
            await work
        except Exception as error:  # noqa: BLE001 - raised where the caller is answered
            await self._responses.put(error)
        else:
            await self._responses.put(None)

    async def _feed(self, requests: AsyncIterator[bytes]) -> None:
        """Send each document to its replica, and the start to each replica."""
        if (start := await anext(requests, None)) is None:
            raise InvalidCall("start", "the start comes first, and once")
        self._start = start
        call = await self._open(await self._replicas.choose(id_key(self._start), 0))
        within = False  # a document, of which more parts follow
        while (request := await self._next(requests, within=within)) is not None:
            message = parse(request, pb.ProcessDocumentsRequest.FromString)
            if not within and message.document.id:
                call = await self._call_for(message.document)
                self._slot.busy += 1
            within = message.document.more
            await self._write(call, request)
        for call in self._calls.values():
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # its reader says why it has ended
                await call.done_writing()

    async def _next(self, requests: AsyncIterator[bytes], *, within: bool) -> bytes | None:
        """The next message; None at the end, or between documents once a replica is draining."""
        reading = asyncio.ensure_future(_take(requests))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait({reading} if within else {reading, draining}, return_when=asyncio.FIRST_COMPLETED)
            return None if draining.done() and not within else reading.result()
        finally:
            reading.cancel()
            draining.cancel()

    async def _call_for(self, document: pb.DocumentPart) -> Upstream:
        number, tokens = id_key(document.id.encode()), len(document.text) // BYTES_OF_TOKEN
        if number in self._ids:  # which two replicas would not notice
            raise InvalidCall("document.id", "the ids of a stream differ")
        self._ids.add(number)
        replica = await self._replicas.choose(text_key(document.text), tokens)
        self._costs[document.id] = replica, tokens
        return self._calls[replica] if replica in self._calls else await self._open(replica)

    async def _open(self, replica: Replica) -> Upstream:
        call: Upstream = replica.channel.stream_stream(PROCESS_DOCUMENTS)(
            metadata=forwarded(self._context), timeout=self._context.time_remaining()
        )
        self._calls[replica] = call
        await self._write(call, self._start)
        self._spawn(self._read(replica, call))
        return call

    async def _write(self, call: Upstream, request: bytes) -> None:
        try:
            await call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):  # its reader says why it has ended
            self._draining.set()

    async def _read(self, replica: Replica, call: Upstream) -> None:
        """Pass on a replica's responses, those that concern the whole stream only once."""
        try:
            async for response in call:
                if self._is_new(pb.ProcessDocumentsResponse.FromString(response)):
                    await self._responses.put(response)
        except grpc.aio.AioRpcError as error:
            if has_left(error):
                self._replicas.lose(replica)
            raise
        finally:
            call.cancel()

    def _is_new(self, response: pb.ProcessDocumentsResponse) -> bool:
        kind = response.WhichOneof("message")
        if kind == "ready":
            is_new, self._is_ready = not self._is_ready, True
            return is_new
        if kind == "draining":
            is_new = not self._draining.is_set()
            self._draining.set()
            return is_new
        if not response.result.more and (cost := self._costs.pop(response.result.id, None)):
            self._slot.busy -= 1
            replica, tokens = cost
            self._replicas.settle(replica, tokens, response.result.ok.info.usage.charged_tokens)
        return True


async def _take(requests: AsyncIterator[bytes]) -> bytes | None:
    return await anext(requests, None)
