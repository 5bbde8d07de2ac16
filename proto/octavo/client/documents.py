"""Streams of documents, for threads and asyncio.

A separate thread (or task) reads the caller's documents ahead, up to a limit. gRPC sends them as fast as the server
reads them. The caller's thread (or task) receives the answers. `Ledger` keeps the state.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc

from octavo.client.errors import DocumentsFailed, IncompleteStream, OctavoError, from_call
from octavo.client.ledger import Ledger
from octavo.client.results import Analysis
from octavo.client.retry import Attempts
from octavo.v1 import inference_pb2 as pb

if TYPE_CHECKING:
    SyncCall = grpc._CallIterator[pb.ProcessDocumentsResponse]  # noqa: SLF001
    AsyncCall = grpc.aio.StreamStreamCall[pb.ProcessDocumentsRequest, pb.ProcessDocumentsResponse]

K = TypeVar("K")


class DocumentStream(Generic[K]):
    """The documents of one `Client.process`."""

    def __init__(
        self,
        start: Callable[[Iterator[pb.ProcessDocumentsRequest], float | None], "SyncCall"],
        documents: Iterable[tuple[K, str]],
        ledger: Ledger[K],
        attempts: Attempts,
    ) -> None:
        self._start = start
        self._documents = documents
        self._ledger = ledger
        self._attempts = attempts
        self._changed = threading.Condition()  # guards the ledger and the next two fields
        self._stream: object | None = None  # identifies the current stream
        self._closed = False
        self._fault: BaseException | None = None

    def answers(self, *, return_exceptions: bool) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Yield outcomes; with `return_exceptions`, failed documents too, else raise their errors together at the end.

        Raises:
            DocumentsFailed: some documents failed.
            OctavoError: some documents could not be answered.
        """
        failed: list[tuple[K, OctavoError]] = []
        for key, outcome in self.outcomes():
            if isinstance(outcome, OctavoError) and not return_exceptions:
                failed.append((key, outcome))
            else:
                yield key, outcome
        if failed:
            raise DocumentsFailed(failed)

    def outcomes(self) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Yield the outcome of each document, in order of completion.

        Raises:
            OctavoError: some documents could not be answered.
        """
        threading.Thread(target=self._read, name="octavo-documents", daemon=True).start()
        try:
            while True:
                try:
                    yield from self._converse()
                    break
                except OctavoError as error:
                    wait = self._attempts.next_wait(error)
                    if wait is None:
                        raise
                time.sleep(wait)
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
        if self._fault is not None:
            raise self._fault

    def _read(self) -> None:
        """Read documents while there is room. Runs in a separate thread."""
        try:
            documents = iter(self._documents)
            while self._wait_for_room():
                key, text = next(documents)
                with self._changed:
                    self._ledger.add(key, text)
                    self._changed.notify_all()
        except StopIteration:
            pass
        except BaseException as fault:  # noqa: BLE001 - raised again in the caller's thread
            self._fault = fault
        with self._changed:
            self._ledger.exhausted = True
            self._changed.notify_all()

    def _wait_for_room(self) -> bool:
        """Wait for room; False if the stream is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._ledger.has_room)
            return not self._closed

    def _converse(self) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Run one stream. Raises why another one is needed unless everything is answered."""
        self._stream = stream = object()
        call = self._start(self._requests(stream), self._attempts.timeout())
        error: OctavoError = _cut_short()
        try:
            for response in call:
                with self._changed:
                    self._ledger.take(response)
                    outcomes = list(self._ledger.outcomes())
                    self._changed.notify_all()
                if outcomes:
                    self._attempts.progressed()
                yield from outcomes
        except grpc.RpcError as fault:
            error = from_call(fault)
            error.__cause__ = fault
        finally:
            call.cancel()
            with self._changed:
                error = self._ledger.reason(error)
                self._stream = None
                self._ledger.reopen()
                outcomes = list(self._ledger.outcomes())
                finished = self._ledger.finished
                self._changed.notify_all()
        yield from outcomes
        if not finished:
            raise error

    def _requests(self, stream: object) -> Iterator[pb.ProcessDocumentsRequest]:
        """The messages to send. gRPC iterates this in its own thread."""
        yield self._ledger.start
        while (messages := self._next_to_send(stream)) is not None:
            yield from messages

    def _next_to_send(self, stream: object) -> Iterator[pb.ProcessDocumentsRequest] | None:
        """The messages of the next document; None after the last."""
        with self._changed:
            while self._stream is stream:
                if (messages := self._ledger.next_to_send()) is not None:
                    return messages
                if self._ledger.nothing_follows:
                    break
                self._changed.wait()
            return None


class AsyncDocumentStream(Generic[K]):
    """`DocumentStream` for asyncio."""

    def __init__(
        self,
        start: Callable[[AsyncIterator[pb.ProcessDocumentsRequest], float | None], "AsyncCall"],
        documents: AsyncIterator[tuple[K, str]],
        ledger: Ledger[K],
        attempts: Attempts,
    ) -> None:
        self._start = start
        self._documents = documents
        self._ledger = ledger
        self._attempts = attempts
        self._changed = asyncio.Event()  # set on each change, cleared before waiting for the next
        self._stream: object | None = None

    async def answers(self, *, return_exceptions: bool) -> AsyncGenerator[tuple[K, Analysis | OctavoError], None]:
        """Yield outcomes; with `return_exceptions`, failed documents too, else raise their errors together at the end.

        Raises:
            DocumentsFailed: some documents failed.
            OctavoError: some documents could not be answered.
        """
        failed: list[tuple[K, OctavoError]] = []
        async with aclosing(self.outcomes()) as outcomes:
            async for key, outcome in outcomes:
                if isinstance(outcome, OctavoError) and not return_exceptions:
                    failed.append((key, outcome))
                else:
                    yield key, outcome
        if failed:
            raise DocumentsFailed(failed)

    async def outcomes(self) -> AsyncGenerator[tuple[K, Analysis | OctavoError], None]:
        """Yield the outcome of each document, in order of completion.

        Raises:
            OctavoError: some documents could not be answered.
        """
        reading = asyncio.create_task(self._read())
        try:
            while True:
                try:
                    async with aclosing(self._converse()) as outcomes:
                        async for outcome in outcomes:
                            yield outcome
                    break
                except OctavoError as error:
                    wait = self._attempts.next_wait(error)
                    if wait is None:
                        raise
                await asyncio.sleep(wait)
            await reading  # raises the error of reading documents, if any
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        """Read documents while there is room. Runs in a separate task."""
        try:
            while True:
                while not self._ledger.has_room:
                    await self._change()
                key, text = await anext(self._documents)
                self._ledger.add(key, text)
                self._changed.set()
        except StopAsyncIteration:
            pass
        finally:
            self._ledger.exhausted = True
            self._changed.set()

    async def _converse(self) -> AsyncGenerator[tuple[K, Analysis | OctavoError], None]:
        """Run one stream. Raises why another one is needed unless everything is answered."""
        self._stream = stream = object()
        call = self._start(self._requests(stream), self._attempts.timeout())
        error: OctavoError = _cut_short()
        try:
            async for response in call:
                self._ledger.take(response)
                outcomes = list(self._ledger.outcomes())
                self._changed.set()
                if outcomes:
                    self._attempts.progressed()
                for outcome in outcomes:
                    yield outcome
        except grpc.aio.AioRpcError as fault:
            if not _is_masked(fault):
                error = from_call(fault)
            error.__cause__ = fault
        finally:
            call.cancel()
            error = self._ledger.reason(error)
            self._stream = None
            self._ledger.reopen()
            self._changed.set()
        for outcome in self._ledger.outcomes():
            yield outcome
        if not self._ledger.finished:
            raise error

    async def _requests(self, stream: object) -> AsyncGenerator[pb.ProcessDocumentsRequest, None]:
        """The messages to send. gRPC iterates this in its own task."""
        yield self._ledger.start
        while (messages := await self._next_to_send(stream)) is not None:
            for message in messages:
                yield message

    async def _next_to_send(self, stream: object) -> Iterator[pb.ProcessDocumentsRequest] | None:
        """The messages of the next document; None after the last."""
        while self._stream is stream:
            if (messages := self._ledger.next_to_send()) is not None:
                return messages
            if self._ledger.nothing_follows:
                break
            await self._change()
        return None

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _is_masked(fault: grpc.aio.AioRpcError) -> bool:
    """Whether grpc.aio replaced the server's status with our failed write (https://github.com/grpc/grpc/issues/36066)."""
    return fault.code() is grpc.StatusCode.INTERNAL and fault.details() == "Internal error from Core"


def _cut_short() -> IncompleteStream:
    return IncompleteStream("the stream ended before all documents were answered", transient=True)
