"""The client for asyncio: `AsyncClient`."""
# ruff: noqa: ASYNC109 - unlike asyncio.timeout, these timeouts are sent to the server as the call's deadline

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, cast, overload

import grpc.aio

from octavo.client import replies
from octavo.client.arguments import (
    CallArguments,
    Classify,
    ClassifyArguments,
    ClassifyTokens,
    ClassifyTokensArguments,
    DocumentArguments,
    EmbedArguments,
    EmbedManyArguments,
    EmbedSparse,
    EmbedSparseArguments,
    ProcessArguments,
    RankArguments,
    Redact,
    RedactArguments,
    SegmentArguments,
    SyncArguments,
    Task,
)
from octavo.client.base import BaseClient
from octavo.client.documents import AsyncDocumentStream
from octavo.client.errors import OctavoError, from_call
from octavo.client.ledger import Ledger
from octavo.client.results import (
    Analysis,
    Classification,
    EmbedResult,
    Entities,
    Model,
    RankResult,
    Redaction,
    Segment,
    SegmentationResult,
    SparseEmbedding,
    TaskReply,
)
from octavo.client.retry import Attempts
from octavo.client.streams import AsyncSegmentStream
from octavo.client.upsert import SegmentIndex, Sync, SyncReport
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
    """`Client` for asyncio, bound to the event loop it is created in. Arguments and errors are those of `Client`."""

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
        """Return the document's vector and segments and, if requested, vectors of segments and spans."""
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
        """Yield the texts' results in order, with up to `in_flight` calls at a time and as many texts read ahead.

        `timeout` applies to each call. An error ends the iteration; with `return_exceptions` it is yielded in place of
        the result.
        """
        self._check_many(in_flight, arguments)
        return self._embed_many(_asynchronous(texts), in_flight, return_exceptions, timeout, arguments)

    async def classify_tokens(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[ClassifyTokensArguments]
    ) -> TaskReply[Entities]:
        """Find entities in a document."""
        request = self._task_request(pb.ClassifyTokensRequest, ClassifyTokens, text, arguments)
        return replies.task_reply(await self._call(self._inference.ClassifyTokens, request, self._attempts(timeout)))

    async def redact(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[RedactArguments]
    ) -> TaskReply[Redaction]:
        """Mask entities in a document."""
        request = self._task_request(pb.RedactRequest, Redact, text, arguments)
        return replies.task_reply(await self._call(self._inference.Redact, request, self._attempts(timeout)))

    async def classify(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[ClassifyArguments]
    ) -> TaskReply[Classification]:
        """Label a document."""
        request = self._task_request(pb.ClassifyRequest, Classify, text, arguments)
        return replies.task_reply(await self._call(self._inference.Classify, request, self._attempts(timeout)))

    async def embed_sparse(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[EmbedSparseArguments]
    ) -> TaskReply[SparseEmbedding]:
        """Return the document's sparse vector, over the vocabulary."""
        request = self._task_request(pb.EmbedSparseRequest, EmbedSparse, text, arguments)
        return replies.task_reply(await self._call(self._inference.EmbedSparse, request, self._attempts(timeout)))

    async def rank(
        self, query: str, texts: Sequence[str], *, timeout: float | None = None, **arguments: Unpack[RankArguments]
    ) -> RankResult:
        """Rank documents by how well they answer a query, with the best passages of each."""
        request = self._rank_request(query, texts, arguments)
        return replies.rank_result(await self._call(self._inference.Rank, request, self._attempts(timeout)))

    async def segment(
        self,
        text: str,
        *,
        timeout: float | None = None,
        **arguments: Unpack[SegmentArguments],
    ) -> SegmentationResult:
        """Return the document's segments and its cost, without running the model."""
        request = self._segment_request(text, arguments)
        reply = await self._call(self._inference.Segment, request, self._attempts(timeout))
        return replies.segmentation_result(reply, request.options.known_segment_digests)

    async def analyze(
        self,
        text: str,
        tasks: Mapping[str, Task],
        *,
        timeout: float | None = None,
        **arguments: Unpack[DocumentArguments],
    ) -> Analysis:
        """Run several tasks in one pass over the document. The keys of `tasks` name the results."""
        request = self._analyze_request(text, tasks, arguments)
        reply = await self._call(self._inference.Analyze, request, self._attempts(timeout))
        return replies.analysis(reply, request.options.known_segment_digests)

    def stream(
        self,
        text: str,
        tasks: Mapping[str, Task] | None = None,
        *,
        resume: bool = True,
        partial: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[DocumentArguments],
    ) -> AsyncSegmentStream:
        """Like `analyze`, but segment by segment. After the last segment, `.summary` has the document's results.

        By default, `tasks` is {"embed": Embed(segment_vectors=True)}. A broken stream resumes after its last segment on
        a new connection, within the timeout; with `resume=False` it raises instead. Without a timeout, it also resumes
        after the server's default deadline. If the deadline passes before the document's end, the stream raises
        DeadlineExceeded; with `partial=True` it ends, and its summary covers the segments so far.
        """
        request = self._stream_request(text, tasks, arguments)

        def start(
            cursor: str, left: float | None
        ) -> "grpc.aio.UnaryStreamCall[pb.StreamSegmentsRequest, pb.StreamSegmentsResponse]":
            request.cursor = cursor
            return self._inference.StreamSegments(request, timeout=left, metadata=self._metadata)

        return AsyncSegmentStream(
            start, self._attempts(timeout), request.options.known_segment_digests, resume=resume, partial=partial
        )

    async def sync(
        self,
        document_id: str,
        text: str,
        index: SegmentIndex,
        *,
        dry_run: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[SyncArguments],
    ) -> SyncReport:
        """Bring what an index holds of a document in step with its text, for the price of what changed.

        Only vectors that the index does not hold are computed and sent; the index gets one change. With `dry_run`,
        nothing is computed or changed, and the report says what would be. By default, `input_type` is "passage".

        Raises:
            FingerprintMismatch: the vectors that the index holds of the document must not be mixed with the server's.
        """
        job = Sync(await asyncio.to_thread(index.held, document_id), arguments)
        try:
            if dry_run:
                return job.forecast(await self.segment(text, timeout=timeout, **job.segment_arguments()))
            tasks, call = job.stream_arguments()
            async with self.stream(text, tasks, timeout=timeout, **call) as stream:
                change = job.change([each async for each in stream], stream.summary)
        except OctavoError as error:
            change = job.change_of(error)
        if not dry_run and (change.segments or change.gone):
            await asyncio.to_thread(index.apply, document_id, change)
        return job.report(change)

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]] | AsyncIterable[tuple[K, str]],
        tasks: Mapping[str, Task] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **arguments: Unpack[ProcessArguments],
    ) -> AsyncIterator[tuple[K, Analysis]]: ...

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]] | AsyncIterable[tuple[K, str]],
        tasks: Mapping[str, Task] | None = None,
        *,
        return_exceptions: Literal[True],
        **arguments: Unpack[ProcessArguments],
    ) -> AsyncIterator[tuple[K, Analysis | OctavoError]]: ...

    def process(
        self,
        documents: Iterable[tuple[K, str]] | AsyncIterable[tuple[K, str]],
        tasks: Mapping[str, Task] | None = None,
        *,
        segments: bool = False,
        on_segments: Callable[[K, Sequence[Segment]], None] | None = None,
        in_flight: int = 256,
        return_exceptions: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> AsyncIterator[tuple[K, Analysis | OctavoError]]:
        """Analyze (id, text) documents and yield (id, result) in order of completion.

        Like `Client.process`, but `documents` is read ahead in a separate task.
        """
        ledger: Ledger[K] = self._ledger(tasks, segments, on_segments, in_flight, arguments)
        stream = AsyncDocumentStream(
            lambda sent, left: self._inference.ProcessDocuments(sent, timeout=left, metadata=self._metadata),
            _asynchronous(documents),
            ledger,
            self._attempts(timeout),
        )
        return stream.answers(return_exceptions=return_exceptions)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """List the server's models."""
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
        """Return one model by "name" or "name@version"; the default model if the name is empty."""
        request = models_pb2.GetModelRequest(name=name)
        reply = await self._call(self._models.GetModel, request, self._attempts(timeout))
        return replies.model(reply.model)

    async def close(self) -> None:
        """Close the connection and cancel all calls in progress."""
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
        """Call until it succeeds or no further attempt is allowed."""
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
