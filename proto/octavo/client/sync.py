"""The synchronous client: `Client`."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, overload

import grpc

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
from octavo.client.documents import DocumentStream
from octavo.client.errors import Cancelled, OctavoError, from_call
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
from octavo.client.streams import SegmentStream
from octavo.client.upsert import SegmentIndex, Sync, SyncReport
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from octavo.v1.models_pb2_grpc import ModelServiceStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
K = TypeVar("K")


class Client(BaseClient):
    """Calls one server. Thread-safe, but not fork-safe."""

    def _open(self, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]) -> None:
        self._channel = (
            grpc.secure_channel(self.address, credentials, options)
            if credentials
            else grpc.insecure_channel(self.address, options)
        )
        self._inference = InferenceServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)

    def embed(self, text: str, *, timeout: float | None = None, **arguments: Unpack[EmbedArguments]) -> EmbedResult:
        """Return the document's vector and segments and, if requested, vectors of segments and spans."""
        request = self._embed_request(text, arguments)
        return replies.embed_result(self._call(self._inference.Embed, request, self._attempts(timeout)))

    @overload
    def embed_many(
        self,
        texts: Iterable[str],
        *,
        return_exceptions: Literal[False] = False,
        **arguments: Unpack[EmbedManyArguments],
    ) -> Iterator[EmbedResult]: ...

    @overload
    def embed_many(
        self, texts: Iterable[str], *, return_exceptions: Literal[True], **arguments: Unpack[EmbedManyArguments]
    ) -> Iterator[EmbedResult | OctavoError]: ...

    def embed_many(
        self,
        texts: Iterable[str],
        *,
        in_flight: int = 8,
        return_exceptions: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[EmbedArguments],
    ) -> Iterator[EmbedResult | OctavoError]:
        """Yield the texts' results in order, with up to `in_flight` calls at a time and as many texts read ahead.

        `timeout` applies to each call. An error ends the iteration; with `return_exceptions` it is yielded in place of
        the result.
        """
        self._check_many(in_flight, arguments)
        return self._embed_many(iter(texts), in_flight, return_exceptions, timeout, arguments)

    def classify_tokens(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[ClassifyTokensArguments]
    ) -> TaskReply[Entities]:
        """Find entities in a document."""
        request = self._task_request(pb.ClassifyTokensRequest, ClassifyTokens, text, arguments)
        return replies.task_reply(self._call(self._inference.ClassifyTokens, request, self._attempts(timeout)))

    def redact(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[RedactArguments]
    ) -> TaskReply[Redaction]:
        """Mask entities in a document."""
        request = self._task_request(pb.RedactRequest, Redact, text, arguments)
        return replies.task_reply(self._call(self._inference.Redact, request, self._attempts(timeout)))

    def classify(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[ClassifyArguments]
    ) -> TaskReply[Classification]:
        """Label a document."""
        request = self._task_request(pb.ClassifyRequest, Classify, text, arguments)
        return replies.task_reply(self._call(self._inference.Classify, request, self._attempts(timeout)))

    def embed_sparse(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[EmbedSparseArguments]
    ) -> TaskReply[SparseEmbedding]:
        """Return the document's sparse vector, over the vocabulary."""
        request = self._task_request(pb.EmbedSparseRequest, EmbedSparse, text, arguments)
        return replies.task_reply(self._call(self._inference.EmbedSparse, request, self._attempts(timeout)))

    def rank(
        self, query: str, texts: Sequence[str], *, timeout: float | None = None, **arguments: Unpack[RankArguments]
    ) -> RankResult:
        """Rank documents by how well they answer a query, with the best passages of each."""
        request = self._rank_request(query, texts, arguments)
        return replies.rank_result(self._call(self._inference.Rank, request, self._attempts(timeout)))

    def segment(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[SegmentArguments]
    ) -> SegmentationResult:
        """Return the document's segments and its cost, without running the model."""
        request = self._segment_request(text, arguments)
        reply = self._call(self._inference.Segment, request, self._attempts(timeout))
        return replies.segmentation_result(reply, request.options.known_segment_digests)

    def analyze(
        self,
        text: str,
        tasks: Mapping[str, Task],
        *,
        timeout: float | None = None,
        **arguments: Unpack[DocumentArguments],
    ) -> Analysis:
        """Run several tasks in one pass over the document. The keys of `tasks` name the results."""
        request = self._analyze_request(text, tasks, arguments)
        reply = self._call(self._inference.Analyze, request, self._attempts(timeout))
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
    ) -> SegmentStream:
        """Like `analyze`, but segment by segment. After the last segment, `.summary` has the document's results.

        By default, `tasks` is {"embed": Embed(segment_vectors=True)}. A broken stream resumes after its last segment on
        a new connection, within the timeout; with `resume=False` it raises instead. Without a timeout, it also resumes
        after the server's default deadline. If the deadline passes before the document's end, the stream raises
        DeadlineExceeded; with `partial=True` it ends, and its summary covers the segments so far.
        """
        request = self._stream_request(text, tasks, arguments)

        def start(cursor: str, left: float | None) -> "grpc._CallIterator[pb.StreamSegmentsResponse]":
            request.cursor = cursor
            return self._inference.StreamSegments(request, timeout=left, metadata=self._metadata)

        return SegmentStream(
            start, self._attempts(timeout), request.options.known_segment_digests, resume=resume, partial=partial
        )

    def sync(
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
        job = Sync(index.held(document_id), arguments)
        try:
            if dry_run:
                return job.forecast(self.segment(text, timeout=timeout, **job.segment_arguments()))
            tasks, call = job.stream_arguments()
            with self.stream(text, tasks, timeout=timeout, **call) as stream:
                change = job.change(list(stream), stream.summary)
        except OctavoError as error:
            change = job.change_of(error)
        if not dry_run and (change.segments or change.gone):
            index.apply(document_id, change)
        return job.report(change)

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]],
        tasks: Mapping[str, Task] | None = None,
        *,
        return_exceptions: Literal[False] = False,
        **arguments: Unpack[ProcessArguments],
    ) -> Iterator[tuple[K, Analysis]]: ...

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]],
        tasks: Mapping[str, Task] | None = None,
        *,
        return_exceptions: Literal[True],
        **arguments: Unpack[ProcessArguments],
    ) -> Iterator[tuple[K, Analysis | OctavoError]]: ...

    def process(
        self,
        documents: Iterable[tuple[K, str]],
        tasks: Mapping[str, Task] | None = None,
        *,
        segments: bool = False,
        on_segments: Callable[[K, Sequence[Segment]], None] | None = None,
        in_flight: int = 256,
        return_exceptions: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Analyze (id, text) documents and yield (id, result) in order of completion.

        The documents are sent through one stream in the bulk class, at the server's pace, with up to `in_flight` of
        them unanswered (fewer if they are long). `documents` is read ahead in another thread. Ids are not sent and need
        not be unique. If the server stops or the connection breaks, unanswered documents are sent again over a new
        stream. An invalid document does not affect others: with `return_exceptions` its error is yielded as its result,
        else one DocumentsFailed with all errors is raised at the end. `timeout` applies to the whole call.

        By default, `tasks` is {"embed": Embed()}. Results include segments with `segments=True`, or if a task returns
        segment vectors. `on_segments` is then called with a document's id and its new segments, about once a second
        while it is computed; if the stream breaks, they come again from the first.
        """
        ledger: Ledger[K] = self._ledger(tasks, segments, on_segments, in_flight, arguments)
        stream = DocumentStream(
            lambda sent, left: self._inference.ProcessDocuments(sent, timeout=left, metadata=self._metadata),
            documents,
            ledger,
            self._attempts(timeout),
        )
        return stream.answers(return_exceptions=return_exceptions)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """List the server's models."""
        found: list[Model] = []
        request = models_pb2.ListModelsRequest()
        attempts = self._attempts(timeout)
        while True:
            reply = self._call(self._models.ListModels, request, attempts)
            found.extend(map(replies.model, reply.models))
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """Return one model by "name" or "name@version"; the default model if the name is empty."""
        request = models_pb2.GetModelRequest(name=name)
        return replies.model(self._call(self._models.GetModel, request, self._attempts(timeout)).model)

    def close(self) -> None:
        """Close the connection and cancel all calls in progress."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]",
        request: _Request,
        attempts: Attempts,
        future: "grpc._CallFuture[_Response] | None" = None,
    ) -> _Response:
        """Call until it succeeds or no further attempt is allowed; `future` is a first attempt in progress."""
        while True:
            try:
                return (
                    future.result() if future else method(request, timeout=attempts.timeout(), metadata=self._metadata)
                )
            except grpc.RpcError as fault:
                error = from_call(fault)
                wait = attempts.next_wait(error)
                if wait is None:
                    raise error from fault
            except grpc.FutureCancelledError as fault:
                raise Cancelled("the client was closed") from fault
            future = None
            time.sleep(wait)

    def _embed_many(
        self,
        texts: Iterator[str],
        in_flight: int,
        return_exceptions: bool,
        timeout: float | None,
        arguments: EmbedArguments,
    ) -> Iterator[EmbedResult | OctavoError]:
        under_way: deque[_Started | OctavoError] = deque()
        index = -1
        try:
            while True:
                for text in islice(texts, in_flight - len(under_way)):
                    under_way.append(self._start(text, timeout, arguments))
                if not under_way:
                    return
                index += 1
                try:
                    yield self._finish(under_way.popleft())
                except OctavoError as error:
                    error.number(index)
                    if not return_exceptions:
                        raise
                    yield error
        finally:
            for started in under_way:
                if isinstance(started, _Started):
                    started.future.cancel()

    def _start(self, text: str, timeout: float | None, arguments: EmbedArguments) -> "_Started | OctavoError":
        try:
            request = self._embed_request(text, arguments)
        except OctavoError as error:
            return error
        attempts = self._attempts(timeout)
        future = self._inference.Embed.future(request, timeout=attempts.timeout(), metadata=self._metadata)
        return _Started(request, attempts, future)

    def _finish(self, started: "_Started | OctavoError") -> EmbedResult:
        if isinstance(started, OctavoError):
            raise started
        try:
            reply = self._call(self._inference.Embed, started.request, started.attempts, started.future)
        except BaseException:
            started.future.cancel()
            raise
        return replies.embed_result(reply)


@dataclass(frozen=True, slots=True)
class _Started:
    """A call of `embed_many` in progress."""

    request: pb.EmbedRequest
    attempts: Attempts
    future: "grpc._CallFuture[pb.EmbedResponse]"
