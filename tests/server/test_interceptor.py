"""The outermost layer around a real server: whatever a handler does, its caller gets a status of ours, without text."""

import asyncio
import logging
import string
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
import structlog
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from server.config.schema import ServerSettings, Settings
from server.errors import EmptyDocument, UnknownModel
from server.limits import Context, Limiter
from server.rpc import interceptor
from server.rpc.interceptor import Outermost
from server.telemetry import logs
from server.telemetry.metrics import Metrics
from tests.server.entry import gate_of
from tests.server.helpers import Refusal, refusal_of_trailers

SECRET = "SECRET TEXT"  # noqa: S105 - of a document
SERVICE = "octavo.test.Service"
SOON = 10.0

Behaviour = Callable[..., Any]


class Said(logging.Handler):
    """Everything that any logger says, down to debug, with exceptions as a careless formatter would print them, and
    everything that anybody prints, gRPC's own core included."""

    def __init__(self, printed: pytest.CaptureFixture[str]) -> None:
        super().__init__(logging.DEBUG)
        self._printed = printed
        self._lines: list[str] = []
        self._plain = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self._plain.format(record) + repr(record.__dict__))

    def lines(self) -> list[str]:
        out, err = self._printed.readouterr()
        self._lines += out.splitlines() + err.splitlines()
        return self._lines


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Said]:
    root, handler = logging.getLogger(), Said(capfd)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


class Wire:
    """A client that sends bytes."""

    def __init__(self, channel: grpc.aio.Channel, metrics: Metrics) -> None:
        self.channel = channel
        self._metrics = metrics

    def call(self, kind: str, method: str = "Do") -> Any:
        make = getattr(self.channel, kind)
        return make(f"/{SERVICE}/{method}", request_serializer=None, response_deserializer=StringValue.FromString)

    def counted(self) -> list[tuple[str, str]]:
        """Code and reason of each call that was counted, once for each."""
        return [
            (sample.labels["code"], sample.labels["reason"])
            for family in self._metrics.registry.collect()
            for sample in family.samples
            if sample.name == "octavo_requests_total"
            for _ in range(int(sample.value))
        ]

    async def counts(self, *expected: tuple[str, str]) -> None:
        async with asyncio.timeout(SOON):
            while self.counted() != list(expected):
                await asyncio.sleep(0.005)

    @property
    def in_flight(self) -> float:
        samples = (sample for family in self._metrics.registry.collect() for sample in family.samples)
        return sum(sample.value for sample in samples if sample.name == "octavo_requests_in_flight")


@asynccontextmanager
async def guarded(metrics: Metrics, kind: str, behaviour: Behaviour, **server_settings: Any) -> AsyncIterator[Wire]:
    """A server with one method behind the interceptor, and health beside it."""
    settings = Settings(server=ServerSettings(keys_file=Path("/nonexistent/keys.json"), **server_settings))
    gate = gate_of(settings, metrics, Limiter(settings.limits, metrics))
    server = grpc.aio.server(interceptors=[Outermost(metrics, gate)])
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    handler = make(behaviour, StringValue.FromString, StringValue.SerializeToString)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Do": handler}),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Wire(channel, metrics)
    await server.stop(None)


async def refused(call: Any) -> Refusal:
    """The refusal of a unary call or of a stream, whose messages before it are dropped."""
    try:
        async with asyncio.timeout(SOON):
            if hasattr(call, "__aiter__"):
                async for _ in call:
                    pass
            else:
                await call
    except grpc.aio.AioRpcError as error:
        everything = f"{error.code()} {error.details()} {error.initial_metadata()} {error.trailing_metadata()}"
        assert "SECRET" not in everything
        return refusal_of_trailers(error.code(), error.details() or "", error.trailing_metadata())
    raise AssertionError("the call was answered")


def fail(*_: Any) -> NoReturn:
    """A bug that quotes what a user sent, with a cause that does so, too."""
    raise ValueError(SECRET, {SECRET: SECRET}) from UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET)


async def fail_at_once(_: StringValue, __: Any) -> StringValue:
    fail()


async def fail_before_a_message(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
    fail()
    yield StringValue()


async def fail_after_a_message(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
    yield StringValue(value="first")
    fail()


async def fail_after_writing(_: StringValue, context: Any) -> None:
    await context.write(StringValue(value="first"))
    fail()


async def fail_in_tasks(request: StringValue, context: Any) -> StringValue:
    async with asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(fail_at_once(request, context))
    return StringValue()


async def echo(request: StringValue, _: Any) -> StringValue:
    return request


async def echo_twice(request: StringValue, _: Any) -> AsyncIterator[StringValue]:
    yield request
    yield request


async def join(requests: AsyncIterator[StringValue], _: Any) -> StringValue:
    return StringValue(value="".join([request.value async for request in requests]))


async def echo_each(requests: AsyncIterator[StringValue], _: Any) -> AsyncIterator[StringValue]:
    async for request in requests:
        yield request


FAILURES = [
    ("unary_unary", fail_at_once),
    ("unary_unary", fail_in_tasks),
    ("unary_stream", fail_before_a_message),
    ("unary_stream", fail_after_a_message),
    ("unary_stream", fail_after_writing),
]


@pytest.mark.parametrize(("kind", "behaviour"), FAILURES, ids=lambda value: getattr(value, "__name__", value))
async def test_an_exception_becomes_internal_and_its_text_goes_nowhere(
    kind: str, behaviour: Behaviour, metrics: Metrics, said: Said
) -> None:
    async with guarded(metrics, kind, behaviour) as wire:
        refusal = await refused(wire.call(kind)(StringValue(value=SECRET).SerializeToString()))
        await wire.counts(("INTERNAL", "INTERNAL"))
        assert wire.in_flight == 0
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    bugs = [line for line in said.lines() if "internal error" in line]
    assert bugs, "the bug was not logged"
    assert any("Error" in line or "ExceptionGroup" in line for line in bugs)
    assert any(__name__.rpartition(".")[2] in line for line in bugs), "its place was not logged"
    assert not [line for line in said.lines() if "SECRET" in line]


async def test_its_text_does_not_reach_the_log_that_the_server_writes(
    metrics: Metrics, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        logs.configure("debug", "json")
        async with guarded(metrics, "unary_unary", fail_at_once) as wire:
            refusal = await refused(wire.call("unary_unary")(b""))
            await wire.counts(("INTERNAL", "INTERNAL"))
    finally:
        root.handlers, root.level = handlers, level
        structlog.reset_defaults()
    written = capsys.readouterr().err
    assert "internal error" in written
    assert refusal.message.split()[-1] in written  # the request id
    assert "SECRET" not in written


async def test_messages_before_the_failure_arrive(metrics: Metrics) -> None:
    async with guarded(metrics, "unary_stream", fail_after_a_message) as wire:
        call = wire.call("unary_stream")(b"")
        assert (await call.read()).value == "first"
        with pytest.raises(grpc.aio.AioRpcError, match="internal error"):
            await call.read()


async def answer_empty(_: StringValue, __: Any) -> StringValue:
    raise EmptyDocument("document.text")


async def stream_unknown(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
    yield StringValue()
    raise UnknownModel("no model of that name is served")


async def test_an_error_of_ours_comes_with_code_reason_field_and_message(metrics: Metrics) -> None:
    async with guarded(metrics, "unary_unary", answer_empty) as wire:
        refusal = await refused(wire.call("unary_unary")(b""))
        await wire.counts(("INVALID_ARGUMENT", "EMPTY_DOCUMENT"))
    assert refusal == Refusal(
        grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_DOCUMENT", "document.text", str(EmptyDocument("document.text"))
    )


async def test_an_error_of_ours_ends_a_stream_in_the_same_way(metrics: Metrics) -> None:
    async with guarded(metrics, "unary_stream", stream_unknown) as wire:
        refusal = await refused(wire.call("unary_stream")(b""))
        await wire.counts(("NOT_FOUND", "UNKNOWN_MODEL"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


MALFORMED = {
    "noise": b"\xff\xff\xff\xff",
    "cut short": b"\x0a\x7fSECRET",
    "a string that is not UTF-8": b"\x0a\x06\xffECRET",
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize(("kind", "behaviour"), [("unary_unary", echo), ("unary_stream", echo_twice)])
async def test_a_malformed_frame_is_the_caller_s_fault(
    frame: bytes, kind: str, behaviour: Behaviour, metrics: Metrics, said: Said
) -> None:
    async with guarded(metrics, kind, behaviour) as wire:
        refusal = await refused(wire.call(kind)(frame))
        await wire.counts(("INVALID_ARGUMENT", "MALFORMED_REQUEST"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_REQUEST")
    assert not [line for line in said.lines() if "SECRET" in line or "ECRET" in line]


@pytest.mark.parametrize(("kind", "behaviour"), [("stream_unary", join), ("stream_stream", echo_each)])
async def test_a_malformed_frame_among_others_is_the_caller_s_fault(
    kind: str, behaviour: Behaviour, metrics: Metrics
) -> None:
    async with guarded(metrics, kind, behaviour) as wire:
        frames = [StringValue(value="sound").SerializeToString(), MALFORMED["cut short"]]
        refusal = await refused(wire.call(kind)(iter(frames)))
    assert refusal.reason == "MALFORMED_REQUEST"


async def test_every_kind_of_method_gets_through(metrics: Metrics) -> None:
    message = StringValue(value="x").SerializeToString()
    async with guarded(metrics, "unary_unary", echo) as wire:
        assert (await wire.call("unary_unary")(message)).value == "x"
    async with guarded(metrics, "unary_stream", echo_twice) as wire:
        assert [answer.value async for answer in wire.call("unary_stream")(message)] == ["x", "x"]
    async with guarded(metrics, "stream_unary", join) as wire:
        assert (await wire.call("stream_unary")(iter([message] * 3))).value == "xxx"
    async with guarded(metrics, "stream_stream", echo_each) as wire:
        assert [answer.value async for answer in wire.call("stream_stream")(iter([message] * 3))] == ["x"] * 3


async def stray(_: StringValue, __: Any) -> StringValue:
    raise asyncio.CancelledError(SECRET)


async def stray_of_a_task(_: StringValue, __: Any) -> StringValue:
    task = asyncio.create_task(asyncio.sleep(60))
    task.cancel()
    await task
    return StringValue()


async def stray_in_a_stream(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
    yield StringValue()
    raise asyncio.CancelledError(SECRET)


@pytest.mark.parametrize(
    ("kind", "behaviour"),
    [("unary_unary", stray), ("unary_unary", stray_of_a_task), ("unary_stream", stray_in_a_stream)],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_a_stray_cancellation_does_not_hang_the_caller(
    kind: str, behaviour: Behaviour, metrics: Metrics, said: Said
) -> None:
    async with guarded(metrics, kind, behaviour) as wire:
        refusal = await refused(wire.call(kind)(b""))  # within SOON
        await wire.counts(("INTERNAL", "INTERNAL"))
    assert refusal.reason == "INTERNAL"
    assert not [line for line in said.lines() if "SECRET" in line]


async def test_a_client_that_leaves_is_counted_and_its_handler_hears_of_it(metrics: Metrics) -> None:
    entered, left = asyncio.Event(), asyncio.Event()

    async def wait(_: StringValue, __: Any) -> StringValue:
        entered.set()
        try:
            await asyncio.sleep(60)
        finally:
            left.set()
        return StringValue()

    async with guarded(metrics, "unary_unary", wait) as wire:
        call = wire.call("unary_unary")(b"")
        await asyncio.wait_for(entered.wait(), SOON)
        call.cancel()
        await asyncio.wait_for(left.wait(), SOON)
        await wire.counts(("CANCELLED", ""))
        assert wire.in_flight == 0


async def flood(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
    for letter in string.ascii_letters:
        yield StringValue(value=letter * 1_000_000)


async def test_a_caller_that_reads_too_late_is_told_so_where_its_connection_stays(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = asyncio.Event()

    def stay(*_: object) -> bool:
        left.set()
        return False

    monkeypatch.setattr(interceptor, "hang_up", stay)
    monkeypatch.setattr(interceptor, "CANCEL_SECONDS", 0.1)
    async with guarded(metrics, "unary_stream", flood, default_deadline_seconds=0.5) as wire:
        call = wire.call("unary_stream")(b"")
        await asyncio.wait_for(left.wait(), SOON)
        refusal = await refused(call)
        await wire.counts(("DEADLINE_EXCEEDED", "DEADLINE"))
        assert wire.in_flight == 0
    assert refusal.reason == "DEADLINE"


async def test_a_call_ends_though_its_cancellation_was_lost(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    late = asyncio.Event()

    async def flood_deafly(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        try:
            async for message in flood(request, context):
                yield message
        finally:
            late.set()
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(60)

    monkeypatch.setattr(interceptor, "CANCEL_SECONDS", 0.1)
    async with guarded(metrics, "stream_stream", flood_deafly, default_deadline_seconds=0.5) as wire:
        call = wire.call("stream_stream")(iter([b""]))
        await asyncio.wait_for(late.wait(), SOON)
        call.cancel()
        await wire.counts(("DEADLINE_EXCEEDED", "DEADLINE"))
        assert wire.in_flight == 0


async def test_a_status_that_nobody_is_left_to_receive_is_no_fault_of_ours(
    metrics: Metrics, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def refuse_late(*arguments: Any) -> None:
        entered.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await arguments[-1].abort(grpc.StatusCode.NOT_FOUND, "unknown")

    monkeypatch.setattr(health.aio.HealthServicer, "Check", refuse_late)
    async with guarded(metrics, "unary_unary", echo) as wire:
        stub: Any = health_pb2_grpc.HealthStub(wire.channel)
        call = stub.Check(health_pb2.HealthCheckRequest())
        await asyncio.wait_for(entered.wait(), SOON)
        call.cancel()
        await wire.counts(("CANCELLED", ""))
    assert not [line for line in said.lines() if "internal error" in line or "Abort already called" in line]


async def test_a_client_that_leaves_a_stream_is_counted_and_its_handler_is_closed(metrics: Metrics) -> None:
    closed = asyncio.Event()

    async def endless(_: StringValue, __: Any) -> AsyncIterator[StringValue]:
        try:
            while True:
                yield StringValue(value="x")
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with guarded(metrics, "unary_stream", endless) as wire:
        call = wire.call("unary_stream")(b"")
        await call.read()
        call.cancel()
        await asyncio.wait_for(closed.wait(), SOON)
        await wire.counts(("CANCELLED", ""))
        assert wire.in_flight == 0


async def test_a_call_has_an_id_of_its_own(metrics: Metrics) -> None:
    async def tell(_: StringValue, context: Context) -> StringValue:
        return StringValue(value=context.request_id)

    async with guarded(metrics, "unary_unary", tell) as wire:
        ids = await asyncio.gather(*(wire.call("unary_unary")(b"") for _ in range(8)))
    assert len({answer.value for answer in ids}) == 8
    assert all(len(answer.value) == 32 for answer in ids)


async def test_an_unknown_method_is_unimplemented(metrics: Metrics) -> None:
    async with guarded(metrics, "unary_unary", echo) as wire:
        refusal = await refused(wire.call("unary_unary", "Undo")(b""))
        assert wire.counted() == []  # its name is a client's word: never a label
    assert refusal.code is grpc.StatusCode.UNIMPLEMENTED


async def test_what_health_says_passes_unchanged(metrics: Metrics, said: Said) -> None:
    async with guarded(metrics, "unary_unary", echo) as wire:
        stub: Any = health_pb2_grpc.HealthStub(wire.channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        refusal = await refused(stub.Check(health_pb2.HealthCheckRequest(service="none")))
        await wire.counts(("OK", ""), ("NOT_FOUND", ""))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "")
    assert not [line for line in said.lines() if "internal error" in line]
