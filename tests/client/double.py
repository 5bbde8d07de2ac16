"""A server double at the wire: real gRPC on a real port, and answers that can be told beforehand."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, islice
from typing import Any, NoReturn

import grpc
import numpy as np
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from octavo.v1.inference_pb2_grpc import InferenceServiceServicer, add_InferenceServiceServicer_to_server
from octavo.v1.models_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server

CHARACTERS = 10  # of a segment, of texts up to 10,000
DIMENSIONS = 12
FINGERPRINT = "f1" * 16


def vector_of(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the double embeds a text to."""
    return np.random.default_rng(sum(text.encode())).standard_normal(DIMENSIONS).astype(np.float32)


def pieces(text: str) -> list[str]:
    size = max(CHARACTERS, len(text) // 1000)
    return [text[start : start + size] for start in range(0, len(text), size)]


@dataclass(frozen=True)
class Fault:
    """A refusal, as the contract says it."""

    code: grpc.StatusCode
    message: str = "refused"
    reason: str = ""
    field: str = ""
    retry_delay: float | None = None
    pushback: str | None = None

    def status(self) -> Status:
        details: list[Any] = []
        if self.reason:
            details.append(ErrorInfo(reason=self.reason, domain="octavo", metadata={"request_id": "r-9"}))
        if self.field:
            violation = BadRequest.FieldViolation(field=self.field, description="is wrong")
            details.append(BadRequest(field_violations=[violation]))
        if self.retry_delay is not None:
            delay = Duration()
            delay.FromNanoseconds(int(self.retry_delay * 1e9))
            details.append(RetryInfo(retry_delay=delay))
        status = Status(code=self.code.value[0], message=self.message)
        for detail in details:
            status.details.add().Pack(detail)
        return status

    def abort(self, context: grpc.ServicerContext) -> NoReturn:
        trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", self.status().SerializeToString())]
        if self.pushback is not None:
            trailers.append(("grpc-retry-pushback-ms", self.pushback))
        context.set_trailing_metadata(tuple(trailers))
        context.abort(self.code, self.message)


@dataclass
class Double(InferenceServiceServicer, ModelServiceServicer):
    """Refuses with `faults` first, one a call; then answers, after `delay(text)` seconds."""

    address: str = ""
    faults: deque[Fault] = field(default_factory=deque)
    requests: list[Any] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    delay: Callable[[str], float] = lambda text: 0.0
    result_status: Status | None = None
    summary: bool = True
    partial: bool = False
    breaks: deque[int] = field(default_factory=deque)  # before which segment a stream breaks, one a stream
    break_with: Fault = Fault(grpc.StatusCode.UNAVAILABLE, "draining", "DRAINING")
    deadlines_passed: deque[int] = field(default_factory=deque)
    """Before which segment the server's deadline ends a stream with a partial summary, one a stream."""
    cursors: bool = True
    ends: deque[tuple[int, "Fault | str"]] = field(default_factory=deque)
    """After how many answers a stream of documents ends, one a stream: a fault, "draining" or "silently"."""
    batch: int = 1  # so many documents are answered in the order of last to first
    parts: list[pb.DocumentPart] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    unread: threading.Event = field(default_factory=threading.Event)  # clear: streams of documents are not read
    segment_delay: float = 0.0
    most_at_once: int = 0
    ended: list[str] = field(default_factory=list)  # texts of calls that are over, however they ended
    _now: int = 0

    # What no test of the client asks for.
    ClassifyTokens: Any = None
    Redact: Any = None
    Classify: Any = None
    EmbedSparse: Any = None
    Rank: Any = None

    def __post_init__(self) -> None:
        self.unread.set()

    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _admit(self, request: Any, context: grpc.ServicerContext, text: str = "") -> None:
        context.add_callback(lambda: self.ended.append(text))
        with self._lock:
            self.requests.append(request)
            metadata = dict(context.invocation_metadata() or ())
            shown = metadata.get("authorization")
            self.authorizations.append(shown if shown is None else str(shown))
            self.times.append(time.monotonic())
            self.deadlines.append(context.time_remaining())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            fault = self.faults.popleft() if self.faults else None
        try:
            if fault:
                fault.abort(context)
            time.sleep(self.delay(text))
        finally:
            with self._lock:
                self._now -= 1

    def Segment(self, request: pb.SegmentRequest, context: grpc.ServicerContext) -> pb.SegmentResponse:  # noqa: N802
        self._admit(request, context, request.document.text)
        text = request.document.text
        return pb.SegmentResponse(info=info(text), segments=infos(text), uncached_tokens=7)

    def Embed(self, request: pb.EmbedRequest, context: grpc.ServicerContext) -> pb.EmbedResponse:  # noqa: N802
        text = request.documents[0].text
        self._admit(request, context, text)
        result = pb.EmbedResult(
            status=self.result_status, segments=infos(text), embedding=embedding(text, request.embed)
        )
        return pb.EmbedResponse(info=info(text), results=[result])

    def Analyze(self, request: pb.AnalyzeRequest, context: grpc.ServicerContext) -> pb.AnalyzeResponse:  # noqa: N802
        text = request.document.text
        self._admit(request, context, text)
        return pb.AnalyzeResponse(
            info=info(text), segments=infos(text), results=results(text, request.tasks), trunks=[trunk(request.tasks)]
        )

    def StreamSegments(  # noqa: N802
        self, request: pb.StreamSegmentsRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.StreamSegmentsResponse]:
        text = request.document.text
        self._admit(request, context, text)
        head = info(text)
        yield pb.StreamSegmentsResponse(
            header=pb.StreamHeader(model=head.model, fingerprint=head.fingerprint, request_id=head.request_id)
        )
        breaks = self.breaks.popleft() if self.breaks else None
        deadline = self.deadlines_passed.popleft() if self.deadlines_passed else None
        first = int(request.cursor) + 1 if request.cursor else 0
        for segment, piece in list(zip(infos(text), pieces(text), strict=True))[first:]:
            if segment.index == breaks:
                self.break_with.abort(context)
            if segment.index == deadline:
                so_far = "".join(pieces(text)[:deadline])
                yield pb.StreamSegmentsResponse(summary=summary(head, so_far, request, partial=True))
                return
            time.sleep(self.segment_delay)
            answers = [
                pb.TaskResult(
                    name=task.name,
                    embed=pb.Embedding(segment_vectors=tensor(vector_of(piece)[None]))
                    if task.embed.return_segment_vectors
                    else pb.Embedding(),
                )
                for task in request.tasks
            ]
            cursor = str(segment.index) if self.cursors else ""
            yield pb.StreamSegmentsResponse(segment=pb.SegmentResult(segment=segment, results=answers, cursor=cursor))
        if self.summary:
            yield pb.StreamSegmentsResponse(summary=summary(head, text, request, partial=self.partial))

    def ProcessDocuments(  # noqa: N802
        self, request_iterator: Iterator[pb.ProcessDocumentsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ProcessDocumentsResponse]:
        start = next(request_iterator).start
        self._admit(start, context)
        yield pb.ProcessDocumentsResponse(ready=pb.ProcessReady(info=info(""), max_document_bytes=16_000_000))
        self.unread.wait(30)
        after, end = self.ends.popleft() if self.ends else (None, "")
        documents = self._documents(request_iterator)
        answered = 0
        while batch := list(islice(documents, self.batch)):
            for number, text in reversed(batch):
                if answered == after:
                    if isinstance(end, Fault):
                        end.abort(context)
                    if end == "draining":
                        fault = Fault(grpc.StatusCode.UNAVAILABLE, "draining", "DRAINING", retry_delay=0.02)
                        yield pb.ProcessDocumentsResponse(draining=fault.status())
                    return
                time.sleep(self.delay(text))
                for result in document_results(number, text, start):
                    time.sleep(self.segment_delay)
                    yield pb.ProcessDocumentsResponse(result=result)
                answered += 1

    def _documents(self, requests: Iterator[pb.ProcessDocumentsRequest]) -> Iterator[tuple[str, str]]:
        pieces = []
        for request in requests:
            self.parts.append(request.document)
            pieces.append(request.document.text)
            if not request.document.more:
                yield request.document.id, "".join(pieces)
                pieces.clear()

    def ListModels(  # noqa: N802
        self, request: models_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> models_pb2.ListModelsResponse:
        self._admit(request, context)
        page = int(request.page_token or 0)
        return models_pb2.ListModelsResponse(
            models=[model(f"model-{page}", default=page == 0)], next_page_token=str(page + 1) if page < 2 else ""
        )

    def GetModel(  # noqa: N802
        self, request: models_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> models_pb2.GetModelResponse:
        self._admit(request, context)
        return models_pb2.GetModelResponse(model=model(request.name or "model-0"))


def tensor(values: np.ndarray[Any, Any], data_type: str = "DATA_TYPE_FLOAT32") -> pb.Tensor:
    return pb.Tensor(data_type=data_type, shape=values.shape, data=values.astype("<f4").tobytes())


def embedding(text: str, options: pb.EmbedOptions) -> pb.Embedding:
    if options.data_type == pb.DATA_TYPE_BINARY:
        packed = np.packbits(vector_of(text) > 0)
        return pb.Embedding(
            document_vector=pb.Tensor(data_type="DATA_TYPE_BINARY", shape=[DIMENSIONS], data=packed.tobytes())
        )
    message = pb.Embedding(document_vector=tensor(vector_of(text)))
    if options.return_segment_vectors:
        message.segment_vectors.CopyFrom(tensor(np.stack([vector_of(piece) for piece in pieces(text)])))
    if options.spans:
        rows = [vector_of(text[span.start : span.end]) for span in options.spans]
        message.span_vectors.CopyFrom(tensor(np.stack(rows)))
    return message


def trunk(tasks: Any) -> pb.Trunk:
    head = info("")
    return pb.Trunk(model=head.model, fingerprint=head.fingerprint, tasks=[task.name for task in tasks])


def results(text: str, tasks: Any) -> list[pb.TaskResult]:
    return [pb.TaskResult(name=task.name, embed=embedding(text, task.embed)) for task in tasks]


def summary(head: pb.ReplyInfo, text: str, request: pb.StreamSegmentsRequest, *, partial: bool) -> pb.StreamSummary:
    return pb.StreamSummary(info=head, results=results(text, request.tasks), partial=partial)


def document_results(number: str, text: str, start: pb.ProcessStart) -> Iterator[pb.DocumentResult]:
    """An answer in one message, or with many segments in two."""
    if not text:
        empty = Fault(grpc.StatusCode.INVALID_ARGUMENT, "no token", "EMPTY_DOCUMENT")
        yield pb.DocumentResult(id=number, error=empty.status())
        return
    segments, rest = infos(text) if start.return_segments else [], results(text, start.tasks)
    if len(segments) > 100:
        rows = [vector_of(piece) for piece in pieces(text)[:100]]
        first = [
            pb.TaskResult(name=task.name, embed=pb.Embedding(segment_vectors=tensor(np.stack(rows))))
            if task.embed.return_segment_vectors
            else pb.TaskResult(name=task.name)
            for task in start.tasks
        ]
        yield pb.DocumentResult(id=number, ok=pb.AnalyzeResponse(segments=segments[:100], results=first), more=True)
        segments = segments[100:]
        for result in rest:
            vectors = result.embed.segment_vectors
            if vectors.shape:
                vectors.data = vectors.data[100 * 4 * DIMENSIONS :]
                vectors.shape[0] -= 100
    yield pb.DocumentResult(
        id=number, ok=pb.AnalyzeResponse(info=info(text), segments=segments, results=rest, trunks=[trunk(start.tasks)])
    )


def infos(text: str) -> list[pb.SegmentInfo]:
    parts = pieces(text)
    starts = accumulate(map(len, parts), initial=0)
    return [
        pb.SegmentInfo(
            index=index,
            span=pb.Span(start=start, end=start + len(piece)),
            tokens=len(piece),
            processed_tokens=len(piece) + 2,
            resumed_from_layer=0 if index else None,
            digest=bytes([index % 256]),
        )
        for index, (start, piece) in enumerate(zip(starts, parts, strict=False))
    ]


def info(text: str) -> pb.ReplyInfo:
    return pb.ReplyInfo(
        model=pb.ModelRef(name="tiny", version="3", digest="d0"),
        fingerprint=FINGERPRINT,
        usage=pb.Usage(tokens=len(text), processed_tokens=len(text) + 2, computed_tokens=len(text) + 2),
        timings=pb.Timings(total=Duration(seconds=1, nanos=500_000_000), tokenize=Duration(nanos=250_000_000)),
        request_id="r-1",
    )


def model(name: str, *, default: bool = False) -> models_pb2.Model:
    return models_pb2.Model(
        ref=pb.ModelRef(name=name, version="3", digest="d0"),
        fingerprint=FINGERPRINT,
        is_default=default,
        tasks=["embed"],
        dimensions=DIMENSIONS,
        max_segment_tokens=512,
        token_budget=510,
        pooling=pb.POOLING_MEAN,
        normalize=True,
        segmentation=pb.Segmentation(policy=pb.SEGMENTATION_POLICY_CONTENT, min_tokens=256),
        layers=6,
        number_scheme="int8",
        kernels="native",
    )


@contextmanager
def serving(
    servicer: Double, address: str = "127.0.0.1:0", credentials: grpc.ServerCredentials | None = None
) -> Iterator[Double]:
    """The double on an address; port 0 takes a free one."""
    most = 32 * 1024 * 1024
    server = grpc.server(
        ThreadPoolExecutor(16),
        options=[("grpc.max_receive_message_length", most), ("grpc.max_send_message_length", most)],
    )
    add_InferenceServiceServicer_to_server(servicer, server)
    add_ModelServiceServicer_to_server(servicer, server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    servicer.address = address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
