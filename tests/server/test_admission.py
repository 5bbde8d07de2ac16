"""Stage one: what is refused before it is parsed, and that clients obey what they are told."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from server.auth.clients import Client, Plan
from server.config.schema import LimitSettings, Settings
from server.errors import QueueFull, RateLimited
from server.limits import Admission, Limiter
from server.telemetry.metrics import Metrics
from tests.server.entry import METHOD, STREAM, Entry, Refusal, echo, entry, refusal

DOCS = Path(__file__).parents[2] / "docs"


def configured(plan: dict[str, Any] | None = None, **limits: Any) -> Settings:
    """A server whose anonymous client has such a plan."""
    return Settings.model_validate(
        {
            "plans": {"anonymous": plan or {}},
            "limits": limits,
            "server": {"max_document_bytes": 1_000_000, "max_reply_bytes": 1, "keys_file": "/nonexistent/keys.json"},
            "metrics": {"listen": ""},
        }
    )


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def until(server: Entry, calls: int) -> None:
    """Wait until so many requests were parsed: they have their places then."""
    async with asyncio.timeout(10):
        while len(server.parsed) < calls:
            await asyncio.sleep(0.005)


async def test_requests_a_second() -> None:
    async with entry(configured({"requests_per_second": 4})) as server, server.channel() as channel:
        answers = await asyncio.gather(*(echo(channel) for _ in range(10)), return_exceptions=True)
        errors = [refusal(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert len(errors) == 6
        assert len(server.parsed) == 4
        told = errors[0]
        assert (told.code, told.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert told.quota == ("client:anonymous", "requests_per_second")
        assert told.retry_after
        assert 0.5 < told.retry_after <= 1
        assert told.pushback == str(round(1000 * told.retry_after))
        await asyncio.sleep(told.retry_after)
        assert await echo(channel) == "anonymous", "who comes back when told to is let in"


async def test_concurrent_calls_of_a_client() -> None:
    async with entry(configured({"max_concurrent": 2})) as server, server.channel() as channel:
        waiting = [asyncio.ensure_future(echo(channel, b"wait")) for _ in range(2)]
        await until(server, 2)
        told = await refused(echo(channel))
        assert (told.reason, told.quota) == ("RATE_LIMITED", ("client:anonymous", "max_concurrent"))
        assert told.retry_after
        server.open.set()
        await asyncio.gather(*waiting)
        assert await echo(channel)


async def test_a_cancelled_call_gives_its_place_back() -> None:
    async with entry(configured({"max_concurrent": 1})) as server, server.channel() as channel:
        call = asyncio.ensure_future(echo(channel, b"wait"))
        await until(server, 1)
        call.cancel()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert await echo(channel)
                    break
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.01)


async def test_concurrent_calls_of_all() -> None:
    async with entry(configured(max_concurrent=1)) as server, server.channel() as channel:
        waiting = asyncio.ensure_future(echo(channel, b"wait"))
        await until(server, 1)
        told = await refused(echo(channel))
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
        assert told.retry_after
        assert told.pushback
        assert told.quota is None
        server.open.set()
        await waiting


async def test_bytes_in_flight_of_a_client() -> None:
    async with entry(configured({"max_bytes_in_flight": 1_000})) as server, server.channel() as channel:
        waiting = asyncio.ensure_future(echo(channel, b"wait" * 200))
        await until(server, 1)
        told = await refused(echo(channel, b"x" * 300))
        assert told.quota == ("client:anonymous", "max_bytes_in_flight")
        assert told.retry_after
        assert len(server.parsed) == 1, "the text was not parsed"
        assert server.registry.get_sample_value("octavo_request_bytes_in_flight") == 800
        assert await echo(channel, b"x" * 200)
        server.open.set()
        await waiting
        assert server.registry.get_sample_value("octavo_request_bytes_in_flight") == 0
        too_much = await refused(echo(channel, b"x" * 1_001))
        assert (too_much.pushback, too_much.retry_after) == ("-1", None), "it will never fit"


async def test_bytes_in_flight_of_all() -> None:
    async with entry(configured(max_bytes_in_flight=1_000_002)) as server, server.channel() as channel:
        waiting = asyncio.ensure_future(echo(channel, b"wait" * 200_000))
        await until(server, 1)
        told = await refused(echo(channel, b"x" * 300_000))
        assert (told.code, told.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_FULL")
        server.open.set()
        await waiting


async def test_a_stream_waits_for_room_rather_than_break() -> None:
    async with entry(configured({"max_bytes_in_flight": 1_000})) as server, server.channel() as channel:
        waiting = asyncio.ensure_future(echo(channel, b"wait" * 200))
        await until(server, 1)

        async def messages() -> AsyncIterator[bytes]:
            for message in (b"a" * 100, b"b" * 900, b"c" * 5_000):
                yield message

        call: Any = channel.stream_stream(STREAM)
        answers = call(messages(), timeout=10)
        assert await answers.read() == b"aaaa"
        following = asyncio.ensure_future(answers.read())
        await asyncio.sleep(0.1)
        assert not following.done()
        assert len(server.parsed) == 2
        server.open.set()
        assert await following == b"bbbb"
        assert await answers.read() == b"cccc", "what is larger than allowed goes alone"
        assert await answers.read() is grpc.aio.EOF
        await waiting
        assert server.registry.get_sample_value("octavo_request_bytes_in_flight") == 0


async def test_a_call_whose_deadline_has_passed_is_not_begun() -> None:
    async with entry(configured()) as server:
        async with server.channel() as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await echo(channel, seconds=-1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert server.parsed == []


async def test_a_refused_call_holds_nothing() -> None:
    settings, metrics = LimitSettings(max_concurrent=3), Metrics(CollectorRegistry())
    admission = Admission(Limiter(settings, metrics), settings, metrics)
    client = Client("acme", "acme", Plan("p", max_concurrent=1, requests_per_second=2, max_bytes_in_flight=10))
    async with admission.enter(client) as slot:
        slot.hold(5)
        with pytest.raises(RateLimited):
            slot.hold(6)
        with pytest.raises(RateLimited):
            async with admission.enter(client):
                pass
    async with admission.enter(client) as slot:
        slot.hold(10)
    with pytest.raises(RateLimited, match="2 calls a second"):
        async with admission.enter(client):
            pass
    assert not admission._calls
    assert not admission._bytes


async def test_other_clients_have_bounds_of_their_own() -> None:
    settings, metrics = LimitSettings(max_concurrent=3), Metrics(CollectorRegistry())
    admission = Admission(Limiter(settings, metrics), settings, metrics)
    plan = Plan("p", max_concurrent=2)
    one, other, third = (Client(name, "t", plan) for name in ("one", "other", "third"))
    async with admission.enter(one), admission.enter(one), admission.enter(other):
        with pytest.raises(RateLimited):
            async with admission.enter(one):
                pass
        with pytest.raises(QueueFull):
            async with admission.enter(third):
                pass


@pytest.mark.parametrize("streams", [False, True], ids=["calls", "streams of documents"])
async def test_a_client_leaves_as_many_places_to_others_as_it_holds(streams: bool) -> None:
    settings, metrics = (
        LimitSettings(max_concurrent=100 if streams else 8, max_bulk_streams=8),
        Metrics(CollectorRegistry()),
    )
    admission = Admission(Limiter(settings, metrics), settings, metrics)
    greedy, other = Client("greedy", "t"), Client("other", "t")
    async with AsyncExitStack() as held:
        for _ in range(4):
            await held.enter_async_context(admission.enter(greedy, streams_requests=streams))
        with pytest.raises(QueueFull, match="for this client"):
            await held.enter_async_context(admission.enter(greedy, streams_requests=streams))
        for _ in range(2):
            await held.enter_async_context(admission.enter(other, streams_requests=streams))
        with pytest.raises(QueueFull, match="for this client"):
            await held.enter_async_context(admission.enter(other, streams_requests=streams))
    assert not admission._calls
    assert not admission._streams


async def test_a_client_leaves_as_many_bytes_to_others_as_it_holds() -> None:
    settings, metrics = LimitSettings(max_bytes_in_flight=1_000_000), Metrics(CollectorRegistry())
    admission = Admission(Limiter(settings, metrics), settings, metrics)
    greedy, other = Client("greedy", "t"), Client("other", "t")
    async with admission.enter(greedy) as one, admission.enter(greedy) as two, admission.enter(other) as theirs:
        one.hold(300_000)
        two.hold(200_000)
        with pytest.raises(QueueFull):
            two.hold(100_000)
        two.release()
        one.hold(600_000)  # a single call may take whatever is left
        theirs.hold(100_000)
    assert not admission._bytes


async def test_the_wait_that_is_told_is_as_long_as_calls_take() -> None:
    settings, metrics = LimitSettings(max_concurrent=1), Metrics(CollectorRegistry())
    admission = Admission(Limiter(settings, metrics), settings, metrics)
    client = Client("acme", "acme")

    async def told() -> float:
        async with admission.enter(client):
            with pytest.raises(QueueFull) as caught:
                async with admission.enter(client):
                    pass
            return caught.value.retry_after or 0.0

    before = await told()
    for _ in range(5):
        async with admission.enter(client):
            await asyncio.sleep(0.3)
    after = await told()
    assert before < after < 0.3


def service_config() -> dict[str, Any]:
    """The JSON that docs/limits.md gives to users of stock clients."""
    page = (DOCS / "limits.md").read_text("utf-8")
    config: dict[str, Any] = json.loads(page.partition("```json\n")[2].partition("```")[0])
    return config


async def test_a_stock_client_with_the_documented_service_config_waits_and_succeeds() -> None:
    config = service_config()
    config["methodConfig"][0]["name"] = [{"service": "test.Echo"}]  # in place of ours, which the page names
    options = {"grpc.service_config": json.dumps(config), "grpc.enable_retries": 1}
    async with entry(configured({"requests_per_second": 2})) as server:
        async with server.channel(**options) as channel:
            began = time.monotonic()
            answers = await asyncio.gather(*(echo(channel) for _ in range(4)))
            assert answers == ["anonymous"] * 4
            assert time.monotonic() - began >= 0.9, "the second two had to wait for the second second"
        async with server.channel() as channel:
            await asyncio.gather(*(echo(channel) for _ in range(2)), return_exceptions=True)
            assert (await refused(echo(channel))).reason == "RATE_LIMITED", "without it they fail at once"


async def test_a_stock_client_does_not_repeat_what_would_fail_again() -> None:
    config = service_config()
    config["methodConfig"][0]["name"] = [{"service": "test.Echo"}]
    options = {"grpc.service_config": json.dumps(config), "grpc.enable_retries": 1}
    async with entry(configured({"max_bytes_in_flight": 10})) as server, server.channel(**options) as channel:
        assert (await refused(echo(channel, b"x" * 11))).reason == "RATE_LIMITED"
        labels = {"method": METHOD, "code": "RESOURCE_EXHAUSTED", "reason": "RATE_LIMITED"}
        async with asyncio.timeout(10):
            while not (requests := server.registry.get_sample_value("octavo_requests_total", labels)):
                await asyncio.sleep(0.005)  # a refusal is counted once it has been sent
        assert requests == 1


async def test_our_service_s_name_is_in_the_documented_service_config() -> None:
    from octavo.v1 import inference_pb2, models_pb2

    names = {name["service"] for name in service_config()["methodConfig"][0]["name"]}
    ours = (inference_pb2.DESCRIPTOR, models_pb2.DESCRIPTOR)
    assert names == {service.full_name for file in ours for service in file.services_by_name.values()}


async def test_what_a_plan_never_has_room_for_is_not_tried_again() -> None:
    metrics = Metrics(CollectorRegistry())
    admission = Admission(Limiter(LimitSettings(), metrics), LimitSettings(), metrics)
    client = Client("acme", "acme", Plan("p", max_bytes_in_flight=1_000_000))
    async with admission.enter(client) as slot:
        slot.hold(600_000)
        with pytest.raises(RateLimited) as caught:
            slot.hold(600_000)
        assert caught.value.retry_after is None
