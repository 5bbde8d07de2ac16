"""The client for threads: `Client`."""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

import grpc

from octavo.client import replies, requests
from octavo.client.arguments import CallArguments, Embed, EmbedArguments
from octavo.client.channel import MAX_DOCUMENT_BYTES, authorization, channel_options, checked_address
from octavo.client.documents import DocumentStream
from octavo.client.errors import Cancelled, OctavoError, from_call
from octavo.client.ledger import Ledger
from octavo.client.results import Analysis, EmbedResult, Model, SegmentationResult
from octavo.client.retry import Attempts, Retry
from octavo.client.streams import SegmentStream
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from octavo.v1.inference_pb2_grpc import InferenceServiceStub
from octavo.v1.models_pb2_grpc import ModelServiceStub

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
K = TypeVar("K")


class Client:
    """Calls one server. Safe to share among threads; not across a fork.

    Every call takes `timeout` in seconds (None: no limit) and the keyword arguments of `CallArguments`. A refusal
    that may pass is waited out within the timeout, as `retry` says; every other fault is raised as an OctavoError.

    Args:
        address: HOST:PORT, [IPV6]:PORT or unix:PATH.
        token: who calls, "oct_…" as `octavo keys add` shows it; sent with each call, shown nowhere.
        credentials: for TLS, as from grpc.ssl_channel_credentials; without them the connection is not encrypted.
        insecure_token: send the token without encryption even to another machine, where others can read it.
        retry: how patient to be.
        max_document_bytes: larger documents are refused before they are sent.

    Raises:
        ValueError: the address or the token can be none, or the token would travel in the open.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:50051",
        *,
        token: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        insecure_token: bool = False,
        retry: Retry | None = None,
        max_document_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> None:
        self.address = checked_address(address)
        self.max_document_bytes = max_document_bytes
        self._metadata = authorization(address, token, encrypted=credentials is not None, insecure_token=insecure_token)
        self._retry = retry or Retry()
        options = channel_options(address, max_document_bytes)
        self._channel = (
            grpc.secure_channel(address, credentials, options)
            if credentials
            else grpc.insecure_channel(address, options)
        )
        self._inference = InferenceServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)

    def embed(self, text: str, *, timeout: float | None = None, **arguments: Unpack[EmbedArguments]) -> EmbedResult:
        """The document's vector, its segments and, where asked, their vectors and those of spans."""
        request = requests.embed_request(text, self.max_document_bytes, **arguments)
        return replies.embed_result(self._call(self._inference.Embed, request, Attempts(self._retry, timeout)))

    @overload
    def embed_many(
        self,
        texts: Iterable[str],
        *,
        in_flight: int = 8,
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
        **arguments: Unpack[EmbedArguments],
    ) -> Iterator[EmbedResult]: ...

    @overload
    def embed_many(
        self,
        texts: Iterable[str],
        *,
        in_flight: int = 8,
        return_exceptions: Literal[True],
        timeout: float | None = None,
        **arguments: Unpack[EmbedArguments],
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
        """The texts' results in their order, with up to `in_flight` calls under way and as many texts read ahead.

        `timeout` is each call's. A fault ends the iteration, or takes its text's place with `return_exceptions`.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        requests.embed_request("", self.max_document_bytes, **arguments)  # tells wrong arguments now, not later
        return self._embed_many(iter(texts), in_flight, return_exceptions, timeout, arguments)

    def segment(
        self, text: str, *, timeout: float | None = None, **arguments: Unpack[CallArguments]
    ) -> SegmentationResult:
        """How the document is cut and what it would cost; the model does not run."""
        request = requests.segment_request(text, self.max_document_bytes, **arguments)
        reply = self._call(self._inference.Segment, request, Attempts(self._retry, timeout))
        return replies.segmentation_result(reply)

    def analyze(
        self,
        text: str,
        tasks: Mapping[str, Embed],
        *,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Analysis:
        """One pass over the document for several tasks, each under a name of your choice."""
        request = requests.analyze_request(text, tasks, self.max_document_bytes, **arguments)
        return replies.analysis(self._call(self._inference.Analyze, request, Attempts(self._retry, timeout)))

    def stream(
        self,
        text: str,
        tasks: Mapping[str, Embed] | None = None,
        *,
        resume: bool = True,
        partial: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> SegmentStream:
        """`analyze` segment by segment, for documents of any length; afterwards `.summary` has the document's answers.

        Without tasks: {"embed": Embed(segment_vectors=True)}. A stream that breaks goes on after its last segment, on
        a new connection and within the timeout; with `resume=False` the break is raised. Without a timeout it also goes
        on when the server's default deadline has passed. A deadline that comes before the document's end raises
        DeadlineExceeded; with `partial=True` the stream ends there, and its summary covers the segments so far.
        """
        request = requests.stream_request(text, tasks, self.max_document_bytes, **arguments)

        def start(cursor: str, left: float | None) -> "grpc._CallIterator[pb.StreamSegmentsResponse]":
            request.cursor = cursor
            return self._inference.StreamSegments(request, timeout=left, metadata=self._metadata)

        return SegmentStream(start, Attempts(self._retry, timeout), resume=resume, partial=partial)

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]],
        tasks: Mapping[str, Embed] | None = None,
        *,
        segments: bool = False,
        in_flight: int = 256,
        return_exceptions: Literal[False] = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Iterator[tuple[K, Analysis]]: ...

    @overload
    def process(
        self,
        documents: Iterable[tuple[K, str]],
        tasks: Mapping[str, Embed] | None = None,
        *,
        segments: bool = False,
        in_flight: int = 256,
        return_exceptions: Literal[True],
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Iterator[tuple[K, Analysis | OctavoError]]: ...

    def process(
        self,
        documents: Iterable[tuple[K, str]],
        tasks: Mapping[str, Embed] | None = None,
        *,
        segments: bool = False,
        in_flight: int = 256,
        return_exceptions: bool = False,
        timeout: float | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Iterator[tuple[K, Analysis | OctavoError]]:
        """Any number of documents, each an (id, text), as (id, `analyze`'s answer) in the order of completion.

        They go through one stream in the bulk class, at the server's pace, with up to `in_flight` unanswered at a time
        (less when they are long). `documents` is read ahead in another thread. Ids are for you alone: they are not
        sent and need not differ. When the server stops or the connection breaks, what is unanswered is sent again over
        a new one. An empty document and the like spoil no other: with `return_exceptions` their errors take the place
        of answers, else one DocumentsFailed tells of all of them after the last answer. `timeout` is for everything.

        Without tasks: {"embed": Embed()}. Answers tell segments with `segments`, or where a task asks for vectors.
        """
        if in_flight < 1:
            raise ValueError(f"in_flight must be at least 1, not {in_flight}")
        start = requests.process_start(tasks, segments=segments, **arguments)
        ledger: Ledger[K] = Ledger(start, in_flight, self.max_document_bytes)
        stream = DocumentStream(
            lambda sent, left: self._inference.ProcessDocuments(sent, timeout=left, metadata=self._metadata),
            documents,
            ledger,
            Attempts(self._retry, timeout),
        )
        return stream.answers(return_exceptions=return_exceptions)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that the server serves."""
        found: list[Model] = []
        request = models_pb2.ListModelsRequest()
        attempts = Attempts(self._retry, timeout)
        while True:
            reply = self._call(self._models.ListModels, request, attempts)
            found.extend(map(replies.model, reply.models))
            if not reply.next_page_token:
                return found
            request.page_token = reply.next_page_token

    def model(self, name: str = "", *, timeout: float | None = None) -> Model:
        """One model by "name" or "name@version"; the server's default without a name."""
        request = models_pb2.GetModelRequest(name=name)
        return replies.model(self._call(self._models.GetModel, request, Attempts(self._retry, timeout)).model)

    def close(self) -> None:
        """Ends the connection, and with it all calls under way."""
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
        """The answer, after as many attempts as it takes; `future` is a first one that is under way."""
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
        try:
            while True:
                for text in islice(texts, in_flight - len(under_way)):
                    under_way.append(self._start(text, timeout, arguments))
                if not under_way:
                    return
                try:
                    yield self._finish(under_way.popleft())
                except OctavoError as error:
                    if not return_exceptions:
                        raise
                    yield error
        finally:
            for started in under_way:
                if isinstance(started, _Started):
                    started.future.cancel()

    def _start(self, text: str, timeout: float | None, arguments: EmbedArguments) -> "_Started | OctavoError":
        try:
            request = requests.embed_request(text, self.max_document_bytes, **arguments)
        except OctavoError as error:
            return error
        attempts = Attempts(self._retry, timeout)
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
    """A call of `embed_many` that is under way."""

    request: pb.EmbedRequest
    attempts: Attempts
    future: "grpc._CallFuture[pb.EmbedResponse]"
