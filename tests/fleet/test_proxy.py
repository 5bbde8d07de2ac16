"""The fleet's front before real servers: bytes, errors, deadlines and cancellations pass; a lost server is replaced."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from octavo.client import Client
from octavo.v1 import inference_pb2 as pb
from octavo.v1 import models_pb2
from server.auth.keys import Key
from server.config.schema import ClientSettings, PlanSettings, Settings
from server.fleet.calls import charge_of, place_of
from server.fleet.front import Front, fronting
from server.fleet.proxy import MOST_DEATHS
from server.fleet.replicas import Replicas
from tests.server.conftest import models, state_home  # noqa: F401 - fixtures
from tests.server.helpers import (
    SOON,
    Server,
    analyze,
    array,
    embed,
    eventually,
    prose,
    refused,
    segment,
    serving,
    settings,
    stream,
)

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SEGMENTS = pb.EmbedOptions(return_segment_vectors=True)


class Fleet(Server):
    """A front, and the servers behind it."""

    front: Front

    def know(self, addresses: Mapping[str, str]) -> None:
        asyncio.run_coroutine_threadsafe(self.front.update(addresses.items()), self.loop).result(SOON)


@contextmanager
def fronted(configured: Settings, servers: Mapping[str, str]) -> Iterator[Fleet]:
    """A front on a loop and a thread of its own, which knows these servers."""
    started: Future[Fleet] = Future()
    stop = threading.Event()

    async def run() -> None:
        try:
            async with fronting(configured, 2) as front:
                await front.update(servers.items())
                fleet = Fleet(front.addresses[0], front.metrics, asyncio.get_running_loop())
                object.__setattr__(fleet, "front", front)
                started.set_result(fleet)
                await asyncio.to_thread(stop.wait)
        except BaseException as error:
            with suppress(Exception):
                started.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(run()), name="front")
    thread.start()
    fleet = started.result(SOON)
    try:
        yield fleet
    finally:
        for channel in fleet.channels:
            channel.close()
        stop.set()
        thread.join(SOON)
        assert not thread.is_alive(), "the front does not stop"


@pytest.fixture(scope="module")
def servers(models: Path) -> Iterator[tuple[Server, Server]]:  # noqa: F811
    with serving(settings()) as one, serving(settings()) as other:
        yield one, other


@pytest.fixture(scope="module")
def fleet(servers: tuple[Server, Server]) -> Iterator[Fleet]:
    with fronted(settings(), {"a": servers[0].address, "b": servers[1].address}) as fleet:
        yield fleet


def calls(server: Server, method: str) -> float:
    return server.sample("requests_total", method=f"/octavo.v1.InferenceService/{method}")


def test_answers_are_those_of_one_server(fleet: Fleet, servers: tuple[Server, Server]) -> None:
    for seed in range(4):
        text = prose(900, seed)
        one = embed(servers[0], text, embed=SEGMENTS).results
        assert embed(fleet, text, embed=SEGMENTS).results[0].embedding == one[0].embedding
        assert analyze(fleet, text).results == analyze(servers[0], text).results
        assert segment(fleet, text).segments == segment(servers[0], text).segments
        events = list(stream(fleet, text))
        assert [event.WhichOneof("event") for event in events][:1] == ["header"]
        assert events[-1].summary.results == analyze(servers[0], text).results
    assert fleet.models.ListModels(models_pb2.ListModelsRequest()).models[0].ref.name == "splade-tiny"


def test_a_document_and_its_edits_go_to_one_server(fleet: Fleet, servers: tuple[Server, Server]) -> None:
    def new(before: tuple[float, ...] = (0, 0)) -> tuple[float, ...]:
        return tuple(calls(server, "Segment") - some for server, some in zip(servers, before, strict=True))

    went = []
    for seed in range(20):
        text, before = prose(2000, seed), new()
        for version in (text, text.replace("river", "brook", 1), text + " The end."):
            segment(fleet, version)
        eventually(partial(lambda before: sum(new(before)) == 3, before))
        went.append(new(before))
    assert {(3, 0), (0, 3)} <= set(went)
    assert sum(3 in each for each in went) >= 18  # an edit may touch the very window that is the key


def test_bulk_is_shared_and_each_document_answered_once(fleet: Fleet, servers: tuple[Server, Server]) -> None:
    before = [calls(server, "ProcessDocuments") for server in servers]
    texts = {f"d{i}": prose(30 * i + 5, seed=i) for i in range(24)}
    start = pb.ProcessDocumentsRequest(start=pb.ProcessStart(tasks=[pb.Task(name="e", embed=pb.EmbedOptions())]))
    parts = [pb.ProcessDocumentsRequest(document=pb.DocumentPart(id=name, text=text)) for name, text in texts.items()]
    responses = list(fleet.inference.ProcessDocuments(iter([start, *parts]), timeout=SOON))
    assert [each.WhichOneof("message") for each in responses] == ["ready"] + ["result"] * len(texts)
    found = {each.result.id: each.result for each in responses[1:]}
    assert found.keys() == texts.keys()
    for name, text in texts.items():
        assert found[name].ok.results[0].embed == analyze(servers[0], text).results[0].embed
    eventually(lambda: [calls(server, "ProcessDocuments") for server in servers] == [each + 1 for each in before])
    twice = refused(lambda: list(fleet.inference.ProcessDocuments(iter([start, parts[0], parts[0]]), timeout=SOON)))
    assert (twice.code, twice.field) == (grpc.StatusCode.INVALID_ARGUMENT, "document.id")


def test_errors_are_the_servers_own(fleet: Fleet, servers: tuple[Server, Server]) -> None:
    unknown = pb.ProcessDocumentsRequest(
        start=pb.ProcessStart(
            options=pb.CallOptions(model="nobody"), tasks=[pb.Task(name="e", embed=pb.EmbedOptions())]
        )
    )
    for call in (
        lambda server: embed(server, "text", options=pb.CallOptions(model="nobody")),
        lambda server: segment(server, ""),
        lambda server: list(stream(server, "text", expected_fingerprint="another")),
        lambda server: list(server.inference.ProcessDocuments(iter([]), timeout=SOON)),
        lambda server: list(server.inference.ProcessDocuments(iter([unknown]), timeout=SOON)),
        lambda server: server.channel().unary_unary("/octavo.v1.InferenceService/Nothing")(b""),
        lambda server: server.channel().unary_unary("/octavo.v1.InferenceService/Embed")(b"\xff"),
    ):
        ours, theirs = refused(lambda: call(fleet)), refused(lambda: call(servers[0]))  # noqa: B023
        assert ours == theirs
        assert len(fleet.front._replicas) == 2, "a caller's fault is not the server's"


def test_health_and_reflection_answer(fleet: Fleet, servers: tuple[Server, Server]) -> None:
    channel = fleet.channel()
    check = cast("Any", health_pb2_grpc.HealthStub(channel)).Check
    assert check(health_pb2.HealthCheckRequest()).status == SERVING
    fleet.know({})
    assert check(health_pb2.HealthCheckRequest()).status == NOT_SERVING
    fleet.know({"a": servers[0].address, "b": servers[1].address})
    stub: Any = cast("Any", reflection_pb2_grpc.ServerReflectionStub)(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = stub.ServerReflectionInfo(iter([request]))
    assert "octavo.v1.InferenceService" in {each.name for each in response.list_services_response.service}


def test_a_cancelled_call_ends_on_the_server(fleet: Fleet, servers: tuple[Server, Server]) -> None:
    def running() -> float:
        return sum(server.sample("requests_in_flight") for server in servers)

    events = stream(fleet, prose(400_000))
    next(events)
    eventually(lambda: running() == 1)
    events.cancel()
    eventually(lambda: running() == 0)


def test_a_stream_ends_in_time_for_its_deadline(fleet: Fleet) -> None:
    *segments, last = list(stream(fleet, prose(400_000), timeout=2.0))
    assert last.summary.partial
    assert len(segments) > 1


def test_keys_and_refusals_pass(models: Path) -> None:  # noqa: F811
    key, token = Key.make()
    configured = settings().model_copy(
        update={
            "plans": {"little": PlanSettings(tokens_per_minute=1000)},
            "clients": {
                "known": ClientSettings(plan="little", keys=(str(key),)),
                "anonymous": ClientSettings(disabled=True),
            },
        }
    )
    with serving(configured) as server, fronted(configured, {"a": server.address}) as fleet:
        assert refused(lambda: embed(fleet, "text")).code is grpc.StatusCode.UNAUTHENTICATED
        assert calls(server, "Embed") == 0, "a caller without a key reaches no server"
        metadata = (("authorization", f"Bearer {token}"),)
        request = pb.EmbedRequest(documents=[pb.Document(text=prose(900))])
        fleet.inference.Embed(request, metadata=metadata, timeout=SOON)
        with pytest.raises(grpc.RpcError) as caught:
            fleet.inference.Embed(
                request.__class__(documents=[pb.Document(text=prose(800, 1))]), metadata=metadata, timeout=1
            )
        trailers = dict(cast("Any", caught.value).trailing_metadata())
        assert cast("Any", caught.value).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = Status.FromString(trailers["grpc-status-details-bin"]).details
        assert any(detail.Is(RetryInfo.DESCRIPTOR) for detail in details)
        assert int(trailers["grpc-retry-pushback-ms"]) > 1000


def test_a_lost_server_is_replaced_and_a_stream_resumes(models: Path) -> None:  # noqa: F811
    text = prose(60_000)
    with ExitStack() as rest, serving(settings(stop_grace_seconds=0.0)) as survivor:
        dying = rest.enter_context(serving(settings(stop_grace_seconds=0.0)))
        with fronted(settings(), {"a": dying.address}) as fleet, Client(fleet.address) as client:
            expected = array(embed(survivor, text).results[0].embedding.document_vector)
            segments = client.stream(text)
            next(segments)
            fleet.know({"a": dying.address, "b": survivor.address})
            rest.close()
            assert len([*segments]) + 1 == len(segment(survivor, text).segments)
            for seed in range(8):  # some belong to the server that is gone
                assert embed(fleet, prose(300, seed)).results
            assert (array(embed(fleet, text).results[0].embedding.document_vector) == expected).all()


def test_calls_wait_for_the_first_server(servers: tuple[Server, Server]) -> None:
    with fronted(settings(), {}) as fleet:
        waiting = fleet.inference.Embed.future(pb.EmbedRequest(documents=[pb.Document(text="text")]), timeout=SOON)
        with pytest.raises(grpc.FutureTimeoutError):
            waiting.result(0.3)
        fleet.know({"a": servers[0].address})
        assert waiting.result(SOON).results


async def test_a_call_that_replicas_die_of_is_refused() -> None:
    """Each replica ends the call as a connection that breaks does: without a status of Octavo."""
    asked = []

    async def break_off(request: bytes, context: Any) -> bytes:
        asked.append(request)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        return b""

    class Broken(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(break_off)

    server = grpc.aio.server(handlers=[Broken()])
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(6)]
    await server.start()

    def ask() -> None:
        with fronted(settings(), {f"{port}": f"127.0.0.1:{port}" for port in ports}) as fleet:
            refusal = refused(lambda: segment(fleet, "text"))
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")

    try:
        await asyncio.to_thread(ask)
    finally:
        await server.stop(None)
    assert len(asked) == MOST_DEATHS


def test_replicas_with_one_name_are_both_used(servers: tuple[Server, Server]) -> None:

    async def chosen() -> set[str]:
        replicas = Replicas(0)
        replicas.update([("engine-0", server.address) for server in servers])
        found = {(await replicas.choose(key << 55, 0)).address for key in range(100)}
        await replicas.close()
        return found

    assert asyncio.run(chosen()) == {server.address for server in servers}


def test_places_and_charges_are_read_from_bytes(servers: tuple[Server, Server]) -> None:
    method = "/octavo.v1.InferenceService/"
    named = [pb.EmbedRequest(documents=[pb.Document(id="a", text=text)]).SerializeToString() for text in ("b", "c")]
    assert place_of(method + "Embed", named[0])[0] == place_of(method + "Embed", named[1])[0]
    text = prose(3000)
    request = pb.AnalyzeRequest(document=pb.Document(text=text)).SerializeToString()
    assert place_of(method + "Analyze", request)[1] == len(text) // 4
    response = embed(servers[0], text)
    charged = charge_of(method + "Embed", response.SerializeToString())
    assert charged == response.info.usage.charged_tokens > 0
    events = [event.SerializeToString() for event in stream(servers[0], text)]
    assert charge_of(method + "StreamSegments", events[-1]) == charged
    assert charge_of(method + "StreamSegments", events[1]) is None
