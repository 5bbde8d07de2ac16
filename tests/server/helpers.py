"""A real server in a thread of this process, and what tests say to it."""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol
from unittest.mock import patch

import grpc
import numpy as np
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo
from google.rpc.status_pb2 import Status
from numpy.typing import NDArray

from octavo.v1 import inference_pb2 as pb
from octavo.v1 import inference_pb2_grpc, models_pb2_grpc
from server import app
from server.config.schema import (
    CacheSettings,
    ComputeSettings,
    MetricsSettings,
    ModelSettings,
    ServerSettings,
    Settings,
)
from server.telemetry.metrics import Metrics

TINY = "splade-tiny"  # BERT of 2 layers, 128 wide: where speed matters
MINILM = "all-MiniLM-L6-v2"  # where numbers matter
E5 = "multilingual-e5-small-enpt"  # SentencePiece, with prefixes
WORDS = (  # noqa: SIM905 - a token each, in every vocabulary here
    "the river town old men of north sea light house over many years winter road stone "
    "field bread water night letter war peace law people work ship"
).split()
SOON = 30.0  # seconds; what takes so long hangs


def model(path: str, scheme: Literal["auto", "int8", "bf16", "fp32"] = "fp32") -> ModelSettings:
    return ModelSettings(path=path, scheme=scheme, device="cpu")


def settings(*models: ModelSettings, compute: ComputeSettings | None = None, **server: Any) -> Settings:
    """Settings of a server on a free port, without a cache and without a listener for metrics."""
    return Settings(
        server=ServerSettings(**{"listen": ("127.0.0.1:0",), "stop_grace_seconds": 1.0, **server}),
        models=models or (model(TINY),),
        compute=compute or ComputeSettings(),
        cache=CacheSettings(enabled=False),
        metrics=MetricsSettings(listen=""),
    )


class Events(Protocol):
    """What a stream's call is to its client."""

    def __iter__(self) -> Iterator[pb.StreamSegmentsResponse]: ...
    def __next__(self) -> pb.StreamSegmentsResponse: ...
    def cancel(self) -> object: ...


@dataclass(frozen=True, eq=False)
class Server:
    """A server that runs."""

    address: str
    metrics: Metrics
    loop: asyncio.AbstractEventLoop
    channels: list[grpc.Channel] = field(default_factory=list)
    addresses: tuple[str, ...] = ()

    def channel(self) -> grpc.Channel:
        """A connection of its own, with a stock client's limits."""
        self.channels.append(grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]))
        return self.channels[-1]

    @cached_property
    def inference(self) -> inference_pb2_grpc.InferenceServiceStub:
        return inference_pb2_grpc.InferenceServiceStub(self.channel())

    @cached_property
    def models(self) -> models_pb2_grpc.ModelServiceStub:
        return models_pb2_grpc.ModelServiceStub(self.channel())

    def sample(self, name: str, **labels: str) -> float:
        """A metric's value, summed over the labels that are not given."""
        return sum(
            sample.value
            for family in self.metrics.registry.collect()
            for sample in family.samples
            if sample.name == f"octavo_{name}" and labels.items() <= sample.labels.items()
        )


@contextmanager
def serving(configured: Settings) -> Iterator[Server]:
    """A server on a loop of its own, in a thread of its own, until the end of the block."""
    started: Future[Server] = Future()
    stop = threading.Event()
    kept: list[Metrics] = []

    class Kept(Metrics):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            kept.append(self)

    async def run() -> None:
        try:
            async with app.running(configured) as running:
                addresses = tuple(running.addresses)
                started.set_result(Server(addresses[0], kept[0], asyncio.get_running_loop(), addresses=addresses))
                await asyncio.to_thread(stop.wait)
        except BaseException as error:
            with suppress(Exception):
                started.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="server")
    with patch.object(app, "Metrics", Kept):
        thread.start()
        server = started.result(120)
    try:
        yield server
    finally:
        for channel in server.channels:
            channel.close()
        stop.set()
        thread.join(SOON)
        assert not thread.is_alive(), "the server does not stop"


def prose(tokens: int, seed: int = 0) -> str:
    """Sentences of about so many tokens, each word being one."""
    choose = random.Random(seed)
    sentences: list[str] = []
    left = tokens
    while left > 0:
        length = min(choose.randint(5, 20), left)
        sentences.append(" ".join(choose.choices(WORDS, k=max(1, length - 1))).capitalize() + ".")
        left -= length
    return " ".join(sentences)


def document(text: str, identifier: str = "") -> pb.Document:
    return pb.Document(id=identifier, text=text)


def embed(server: Server, *texts: str, timeout: float | None = SOON, **fields: Any) -> pb.EmbedResponse:
    """Embed with `options` and `embed` as given."""
    request = pb.EmbedRequest(documents=[document(text) for text in texts], **fields)
    response: pb.EmbedResponse = server.inference.Embed(request, timeout=timeout)
    return response


def analyze(
    server: Server, text: str, *tasks: pb.Task, timeout: float | None = SOON, **options: Any
) -> pb.AnalyzeResponse:
    request = pb.AnalyzeRequest(document=document(text), tasks=tasks or [task()], options=pb.CallOptions(**options))
    response: pb.AnalyzeResponse = server.inference.Analyze(request, timeout=timeout)
    return response


def segment(server: Server, text: str, timeout: float | None = SOON, **options: Any) -> pb.SegmentResponse:
    request = pb.SegmentRequest(document=document(text), options=pb.CallOptions(**options))
    response: pb.SegmentResponse = server.inference.Segment(request, timeout=timeout)
    return response


def stream(server: Server, text: str, *tasks: pb.Task, timeout: float | None = SOON, **options: Any) -> Events:
    request = pb.StreamSegmentsRequest(
        document=document(text), tasks=tasks or [task()], options=pb.CallOptions(**options)
    )
    return server.inference.StreamSegments(request, timeout=timeout)


def task(name: str = "", **options: Any) -> pb.Task:
    return pb.Task(name=name, embed=pb.EmbedOptions(**options))


DTYPES = {pb.DATA_TYPE_FLOAT32: "<f4", pb.DATA_TYPE_FLOAT16: "<f2", pb.DATA_TYPE_INT8: "i1"}


def array(tensor: pb.Tensor) -> NDArray[Any]:
    """A tensor's values; the bits of a binary one."""
    shape = tuple(tensor.shape)
    if tensor.data_type == pb.DATA_TYPE_BINARY:
        rows = np.frombuffer(tensor.data, np.uint8).reshape(*shape[:-1], -1)
        return np.unpackbits(rows, axis=-1, count=shape[-1])
    return np.frombuffer(tensor.data, DTYPES[tensor.data_type]).reshape(shape)


def vector(response: pb.EmbedResponse) -> NDArray[Any]:
    """The vector of the only document."""
    (result,) = response.results
    return array(result.embedding.document_vector)


@dataclass(frozen=True)
class Refusal:
    """A call's error as a client sees it."""

    code: grpc.StatusCode
    reason: str
    field: str
    message: str


def refusal_of(error: grpc.RpcError) -> Refusal:
    assert isinstance(error, grpc.Call)
    return refusal_of_trailers(error.code(), error.details() or "", error.trailing_metadata())


def refusal_of_trailers(code: grpc.StatusCode, message: str, trailers: Any) -> Refusal:
    """What an error says; the reason is "" where the status has no details, which is gRPC's own doing."""
    details = dict(trailers or ()).get("grpc-status-details-bin")
    if details is None:
        return Refusal(code, "", "", message)
    refusal = refusal_of_status(Status.FromString(details))
    assert (refusal.code, refusal.message) == (code, message), "the status contradicts its own details"
    return refusal


def refusal_of_status(status: Status) -> Refusal:
    reason = where = ""
    for detail in status.details:
        if detail.Is(ErrorInfo.DESCRIPTOR):
            info = ErrorInfo()
            detail.Unpack(info)
            assert info.domain == "octavo"
            assert len(info.metadata["request_id"]) == 32
            reason = info.reason
        elif detail.Is(BadRequest.DESCRIPTOR):
            bad = BadRequest()
            detail.Unpack(bad)
            (violation,) = bad.field_violations
            where = violation.field
    codes = {code.value[0]: code for code in grpc.StatusCode}
    return Refusal(codes[status.code], reason, where, status.message)


def refused(call: Callable[[], Any]) -> Refusal:
    """Make a call that must fail, to its end if it is a stream."""
    try:
        answer = call()
        if isinstance(answer, Iterator):
            list(answer)
    except grpc.RpcError as error:
        return refusal_of(error)
    raise AssertionError("the call was answered")


def eventually(condition: Callable[[], object], seconds: float = SOON) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.002)


def spans(segments: Sequence[pb.SegmentInfo]) -> list[tuple[int, int]]:
    return [(info.span.start, info.span.end) for info in segments]


def computed(server: Server) -> float:
    """Segments that the server has answered so far."""
    return server.sample("segments_total")
