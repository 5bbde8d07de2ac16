"""The client for asyncio: `AsyncClient`, `Client`'s methods awaited."""
# ruff: noqa: ASYNC109 - a timeout travels to the server as the call's deadline, which asyncio.timeout does not

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast, overload

import grpc.aio

from octavo.client import replies
from octavo.client.arguments import CallArguments, Embed, EmbedArguments, EmbedManyArguments, ProcessArguments
from octavo.client.base import BaseClient
from octavo.client.documents import AsyncDocumentStream
from octavo.client.errors import OctavoError, from_call
from octavo.client.ledger import Ledger
from octavo.client.results import Analysis, EmbedResult, Model, SegmentationResult
from octavo.client.retry import Attempts
from octavo.client.streams import AsyncSegmentStream
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from octavo.v1.models_pb2_grpc import ModelServiceStub

if TYPE_CHECKING:
    from octavo.v1.inference_pb2_grpc import InferenceServiceAsyncStub
    from octavo.v1.models_pb2_grpc import ModelServiceAsyncStub

_Response = TypeVar("_Response")
K = TypeVar("K")
T = TypeVar("T")


class AsyncClient(BaseClient):
    """`Client` for asyncio, for the event loop in which it is made. Arguments and errors are those of `Client`."""

    def _open(self, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]) -> None:
        self._channel = (
            grpc.aio.secure_channel(self.address, credentials, options)
            if credentials
            else grpc.aio.insecure_channel(self.address, options)
        )
        self._inference = cast("InferenceServiceAsyncStub", InferenceServiceStub(self._channel))
        self._models = cast("ModelServiceAsyncStub", ModelServiceStub(self._channel))

    async def embed(
        self,
        text: str,
        *,
        timeout: float | None = None,
        **arguments: Unpack[EmbedArguments],
    ) -> EmbedResult:
        """The document's vector, its segments and, where asked, their vectors and those of spans."""
        request = self._embed_request(text, arguments)
        return replies.embed_result(await self._call(self._inference.Embed, request, self._attempts(timeout)))

    @overload
    def embed_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        return_exceptions: Literal[False] = False,
        **arguments: Unpack[EmbedManyArguments],
    ) -> AsyncIterator[EmbedResult]: ...

    @overload
    def embed_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        return_exceptions: Literal[True],
        **arguments: Unpack[EmbedManyArguments],
    ) -> AsyncIterator[EmbedResult | OctavoError]: ...

    def embed_many(
        self,
        texts: Iterable[str] | AsyncIterable[str],
        *,
        in_flight: int = 8,
        return_exceptions: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[EmbedArguments],
    ) -> AsyncIterator[EmbedResult | OctavoError]:
        """The texts' results in their order, with up to `in_flight` calls under way and as many texts read ahead.

        `timeout` is each call's. A fault ends the iteration, or takes its text's place with `return_exceptions`.
        """
        self._check_many(in_flight, arguments)
        return self._embed_many(_asynchronous(texts), in_flight, return_exceptions, timeout, arguments)

    async def segment(
        self,
        text: str,
        *,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> SegmentationResult:
        """How the document is cut and what it would cost; the model does not run."""
        request = self._segment_request(text, arguments)
        reply = await self._call(self._inference.Segment, request, self._attempts(timeout))
        return replies.segmentation_result(reply)

    async def analyze(
        self,
        text: str,
        tasks: Mapping[str, Embed],
        *,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Analysis:
        """One pass over the document for several tasks, each under a name of your choice."""
        request = self._analyze_request(text, tasks, arguments)
        return replies.analysis(await self._call(self._inference.Analyze, request, self._attempts(timeout)))

    def stream(
        self,
        text: str,
        tasks: Mapping[str, Embed] | None = None,
        *,
        resume: bool = True,
        partial: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> AsyncSegmentStream:
        """`analyze` segment by segment, for documents of any length; afterwards `.summary` has the document's answers.

        Without tasks: {"embed": Embed(segment_vectors=True)}. A stream that breaks goes on after its last segment, on
        a new connection and within the timeout; with `resume=False` the break is raised. Without a timeout it also goes
        on when the server's default deadline has passed. A deadline that comes before the document's end raises
        DeadlineExceeded; with `partial=True` the stream ends there, and its summary covers the segments so far.
        """
        request = self._stream_request(text, tasks, arguments)

        def start(
            cursor: str, left: float | None
        ) -> "grpc.aio.UnaryStreamCall[pb.StreamSegmentsRequest, pb.StreamSegmentsResponse]":
            request.cursor = cursor
            return self._inference.StreamSegments(request, timeout=left, metadata=self._metadata)

        return AsyncSegmentStream(start, self._attempts(timeout), resume=resume, partial=partial)

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]] | AsyncIterable[tuple[K, str]],
        tasks: Mapping[str, Embed] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **arguments: Unpack[ProcessArguments],
    ) -> AsyncIterator[tuple[K, Analysis]]: ...

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]] | AsyncIterable[tuple[K, str]],
        tasks: Mapping[str, Embed] | None = None,
        *,
        return_exceptions: Literal[True],
        **arguments: Unpack[ProcessArguments],
    ) -> AsyncIterator[tuple[K, Analysis | OctavoError]]: ...

    def process(
        self,
        documents: Iterable[tuple[K, str]] | AsyncIterable[tuple[K, str]],
        tasks: Mapping[str, Embed] | None = None,
        *,
        segments: bool = False,
        in_flight: int = 256,
        return_exceptions: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> AsyncIterator[tuple[K, Analysis | OctavoError]]:
        """Any number of documents, each an (id, text), as (id, `analyze`'s answer) in the order of completion.

        As `Client.process`; `documents` is read ahead in a task of its own.
        """
        ledger: Ledger[K] = self._ledger(tasks, segments, in_flight, arguments)
        stream = AsyncDocumentStream(
            lambda sent, left: self._inference.ProcessDocuments(sent, timeout=left, metadata=self._metadata),
            _asynchronous(documents),
            ledger,
            self._attempts(timeout),
        )
        return stream.answers(return_exceptions=return_exceptions)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that the server serves."""
        found: list[Model] = []
        request = models_pb2.ListModelsRequest()
        attempts = self._attempts(timeout)
        while True:
            reply = await self._call(self._models.ListModels, request, attempts)
            found.extend(map(replies.model, reply.models))
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    async def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """One model by "name" or "name@version"; the server's default without a name."""
        request = models_pb2.GetModelRequest(name=name)
        reply = await self._call(self._models.GetModel, request, self._attempts(timeout))
        return replies.model(reply.model)

    async def close(self) -> None:
        """Ends the connection, and with it all calls under way."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _call(
        self, method: Callable[..., Awaitable[_Response]], request: object, attempts: Attempts
    ) -> _Response:
        """The answer, after as many attempts as it takes."""
        while True:
            try:
                return await method(request, timeout=attempts.timeout(), metadata=self._metadata)
            except grpc.aio.AioRpcError as fault:
                error = from_call(fault)
                wait = attempts.next_wait(error)
                if wait is None:
                    raise error from fault
            await asyncio.sleep(wait)

    async def _embed_many(
        self,
        texts: AsyncIterator[str],
        in_flight: int,
        return_exceptions: bool,
        timeout: float | None,
        arguments: EmbedArguments,
    ) -> AsyncIterator[EmbedResult | OctavoError]:
        under_way: deque[asyncio.Task[EmbedResult]] = deque()
        indices = count()
        try:
            async for text in texts:
                under_way.append(asyncio.create_task(self.embed(text, timeout=timeout, **arguments)))
                if len(under_way) == in_flight:
                    yield await _outcome(under_way.popleft(), next(indices), return_exceptions)
            while under_way:
                yield await _outcome(under_way.popleft(), next(indices), return_exceptions)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)


async def _outcome(task: asyncio.Task[EmbedResult], index: int, return_exceptions: bool) -> EmbedResult | OctavoError:
    try:
        return await task
    except OctavoError as error:
        error.number(index)
        if return_exceptions:
            return error
        raise


async def _asynchronous(items: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
