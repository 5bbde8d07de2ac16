"""The client and the real server together: refusals are obeyed, streams and documents survive a stop, keys count."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from octavo.client import (
    AsyncClient,
    Client,
    DeadlineExceeded,
    Embed,
    OctavoError,
    ResourceExhausted,
    Retry,
    Unauthenticated,
)
from octavo.v1 import inference_pb2 as pb
from server import app
from server.auth.keys import KeptKey, Key, changing_keys
from server.config.schema import CacheSettings, ClientSettings, LimitSettings, PlanSettings, Settings
from server.front_ends import Running
from server.inference.runner import Runner
from tests.client.test_identity import certificate as certificate  # noqa: PLC0414 - a fixture
from tests.server.conftest import models as models  # noqa: PLC0414
from tests.server.conftest import state_home as state_home  # noqa: PLC0414
from tests.server.helpers import SOON, eventually, prose, refused, serving, settings

pytestmark = pytest.mark.usefixtures("models")
NEVER = Retry(attempts=1, patience=0)


def limited(limits: LimitSettings | None = None, **plan: Any) -> Settings:
    """Settings under which whoever shows no key has this plan."""
    update = {"plans": {"anonymous": PlanSettings(**plan)}, "limits": limits or LimitSettings()}
    return settings().model_copy(update=update)


@asynccontextmanager
async def stopping(address: str, **server: Any) -> AsyncIterator[Running]:
    """A server that is there until it is stopped, at an address that the next one takes over."""
    async with app.running(settings(listen=(address,), **server)) as running:
        yield running


def test_a_rate_limit_is_waited_out_with_few_refusals() -> None:
    with serving(limited(requests_per_second=5)) as server, Client(server.address) as client:
        began = time.monotonic()
        results = list(client.embed_many([f"text {i}" for i in range(12)], in_flight=3))
        seconds = time.monotonic() - began
        refused = server.sample("requests_total", reason="RATE_LIMITED")
    assert len(results) == 12
    assert seconds >= 1.0, "the limit did not bite"
    assert 0 < refused < 30


def test_a_limit_that_outlasts_the_timeout_is_told_at_once() -> None:
    with serving(limited(tokens_per_minute=1000)) as server, Client(server.address) as client:
        began = time.monotonic()
        with pytest.raises(ResourceExhausted) as caught:
            client.embed(prose(5000), timeout=20)
        assert time.monotonic() - began < 10
        assert caught.value.reason == "RATE_LIMITED"
        assert caught.value.metadata["quota"] == "tokens_per_minute"


def test_a_limit_that_a_client_s_other_calls_wait_for_is_told_at_once() -> None:
    with serving(limited(tokens_per_minute=3000)) as server:
        request = pb.EmbedRequest(documents=[pb.Document(text=prose(2500))])
        server.inference.Embed(request, timeout=SOON)
        waits = server.inference.Embed.future(request, timeout=300)  # about a minute
        eventually(lambda: server.sample("queue_depth_segments") > 0)
        began = time.monotonic()
        refusal = refused(lambda: server.inference.Embed(request, timeout=70))
        assert time.monotonic() - began < 10
        assert refusal.reason == "RATE_LIMITED"
        waits.cancel()


def test_a_full_server_is_asked_again_when_it_says() -> None:
    with serving(limited(LimitSettings(max_concurrent=1))) as server, ExitStack() as stack:
        busy, waiting = (stack.enter_context(Client(server.address)) for _ in range(2))
        stream = stack.enter_context(busy.stream(prose(30_000)))
        next(stream)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(waiting.embed, "a text", timeout=SOON)
            eventually(lambda: server.sample("requests_total", reason="QUEUE_FULL") >= 1)
            assert not answer.done()
            list(stream)
            assert answer.result(SOON).usage.tokens == 2


async def test_a_draining_server_is_left_alone_until_its_successor_answers(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/socket"
    async with AsyncClient(address) as client:
        async with stopping(address, drain_delay_seconds=0.3) as first:
            await client.embed("a")
            stop = asyncio.create_task(first.stop())
            await asyncio.sleep(0.1)
            answer = asyncio.create_task(client.embed("b", timeout=SOON))
            await stop
        assert not answer.done()
        async with stopping(address):
            assert (await answer).usage.tokens == 1


async def test_a_stream_goes_on_at_the_next_server_and_no_segment_is_lost_or_doubled(tmp_path: Path) -> None:
    address, text = f"unix:{tmp_path}/socket", prose(60_000)
    async with AsyncClient(address, retry=Retry(patience=SOON)) as client:
        async with stopping(address) as first:
            whole = [each async for each in client.stream(text)]
            stream = client.stream(text, timeout=SOON)
            got = [await anext(stream) for _ in range(5)]
            await first.stop_at_once()
        async with stopping(address):
            got += [each async for each in stream]
    assert len(got) > 100
    assert [each.segment.index for each in got] == list(range(len(whole)))
    assert stream.summary is not None
    assert not stream.summary.partial
    assert stream.summary.usage.tokens == sum(each.segment.token_count for each in whole)
    for one, other in zip(got, whole, strict=True):
        assert np.array_equal(one.results["embed"].vector, other.results["embed"].vector)


@pytest.fixture(scope="module")
def answers(models: Path) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Texts, and what a server that nobody stops makes of them."""
    texts = {f"d{i}": prose(50 + 97 * i % 2000, seed=i) for i in range(60)}
    with serving(settings()) as server, Client(server.address) as client:
        yield texts, {key: client.analyze(text, {"embed": Embed()}) for key, text in texts.items()}


@pytest.mark.parametrize("how", ["stop", "stop_at_once"])
async def test_documents_survive_a_server_that_stops(
    tmp_path: Path, how: str, answers: tuple[dict[str, str], dict[str, Any]]
) -> None:
    address, (texts, expected) = f"unix:{tmp_path}/socket", answers
    got: list[tuple[str, Any]] = []

    def work() -> None:
        with Client(address, retry=Retry(patience=SOON)) as client:
            for each in client.process(texts.items(), in_flight=15):
                got.append(each)  # noqa: PERF402 - one by one, for the test to see

    async with stopping(address, drain_delay_seconds=0.1) as first:
        working = asyncio.create_task(asyncio.to_thread(work))
        while len(got) < 10:
            await asyncio.sleep(0.01)
        await (first.stop() if how == "stop" else first.stop_at_once())
    assert len(got) < len(texts), "the server stopped too late to prove anything"
    async with stopping(address):
        await asyncio.wait_for(working, SOON)
    assert sorted(key for key, _ in got) == sorted(texts)
    for key, answer in got:
        assert np.array_equal(answer.results["embed"].vector, expected[key].results["embed"].vector)


async def test_documents_go_through_while_one_is_empty_and_one_too_large() -> None:
    documents = [("good", "a text"), ("empty", " \n"), ("large", "word " * 300), ("more", "b")]
    async with app.running(settings(max_document_bytes=1000)) as server, AsyncClient(server.addresses[0]) as client:
        got = {key: each async for key, each in client.process(documents, return_exceptions=True)}
    assert {key: getattr(each, "reason", "") for key, each in got.items()} == {
        "good": "",
        "empty": "EMPTY_DOCUMENT",
        "large": "DOCUMENT_TOO_LARGE",
        "more": "",
    }


def test_a_long_document_with_all_its_segments_is_what_a_stream_says(models: Path) -> None:
    text = prose(40_000).replace(" ", " " * 25)  # many bytes in few tokens
    tasks = {"full": Embed(segment_vectors=True)}
    with serving(settings()) as server, Client(server.address) as client:
        ((_, answer),) = client.process([("long", text)], tasks)
        with client.stream(text, tasks) as stream:
            segments = list(stream)
    assert len(text.encode()) > 900_000
    assert [each.index for each in answer.segments] == list(range(len(segments)))
    vectors = answer.results["full"].segment_vectors
    assert vectors is not None
    rows = [row for each in segments if (row := each.results["full"].vector) is not None]
    assert np.array_equal(vectors, np.stack(rows))
    assert stream.summary is not None
    whole, other = answer.results["full"].vector, stream.summary.results["full"].vector
    assert whole is not None
    assert other is not None
    assert np.array_equal(whole, other)


def test_over_tls_a_key_says_who_calls(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    key, token = Key.make()
    with changing_keys(tmp_path / "keys.json") as kept:
        kept.append(KeptKey(key, "acme", datetime.now(UTC)))
    base = settings(tls_certificate=certificate[0], tls_key=certificate[1], keys_file=tmp_path / "keys.json")
    clients = {"acme": ClientSettings(), "anonymous": ClientSettings(disabled=True)}
    trust = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    with serving(base.model_copy(update={"clients": clients})) as server:
        with Client(server.address, token=token, credentials=trust) as client:
            assert client.embed("a text").usage.tokens == 2
            assert len(dict(client.process([("a", "a text")]))) == 1
            assert len(list(client.stream("a text"))) == 1
        for wrong in (None, token[:-1] + ("0" if token[-1] != "0" else "1")):
            with Client(server.address, token=wrong, credentials=trust) as client, pytest.raises(Unauthenticated):
                client.embed("a text")


# Deadlines of the server's own


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run of a model takes 0.15 s more."""
    compute = Runner.compute

    def slowed(*arguments: Any) -> Any:
        time.sleep(0.15)
        return compute(*arguments)

    monkeypatch.setattr(Runner, "compute", slowed)


async def whole(client: AsyncClient, text: str) -> tuple[list[Any], Any]:
    stream = client.stream(text)
    return [each async for each in stream], stream.summary


def test_a_stream_outlasts_the_servers_default_deadline(slow: None, tmp_path: Path, state_home: Path) -> None:
    text = prose(20_000, seed=3)
    base = settings(default_deadline_seconds=2.0)
    cut = base.model_copy(update={"cache": CacheSettings(dir=tmp_path / "cut")})
    with serving(cut) as server, Client(server.address) as client:
        with client.stream(text, resume=False, partial=True) as stream:
            part = list(stream)
        assert stream.summary is not None
        assert stream.summary.partial, "the deadline did not pass"
        with client.stream(text) as resumed:
            got = list(resumed)
    with serving(cut.model_copy(update={"cache": CacheSettings(dir=tmp_path / "aio")})) as server:

        async def stream_all() -> tuple[list[Any], Any]:
            async with AsyncClient(server.address) as client:
                return await whole(client, text)

        asynchronous, summary = asyncio.run(stream_all())
    with serving(settings()) as server, Client(server.address) as client:
        expected = client.embed(text, segment_vectors=True)
    assert len(part) < len(expected.segments)
    for segments, told in ((got, resumed.summary), (asynchronous, summary)):
        assert told is not None
        assert not told.partial
        assert [each.segment.index for each in segments] == list(range(len(expected.segments)))
        vector = told.results["embed"].vector
        assert vector is not None
        assert np.array_equal(vector, expected.vector)


def test_no_call_ends_at_the_servers_default_deadline_without_an_error(slow: None) -> None:
    text = prose(20_000, seed=4)
    with serving(settings(default_deadline_seconds=0.5)) as server, Client(server.address, retry=NEVER) as client:
        for call in (client.embed, partial(client.analyze, tasks={"embed": Embed()})):
            with pytest.raises(OctavoError) as caught:
                call(text)
            assert caught.value.reason in {"DEADLINE", "QUEUE_FULL"}
        with pytest.raises(DeadlineExceeded):  # without a cache the next call begins from the front
            list(client.stream(text))
        ((_, answer),) = client.process([("long", text)])  # has no deadline, as bulk calls
    assert answer.usage.tokens > 19_000


@pytest.mark.parametrize("retry", [Retry(), NEVER])
def test_documents_go_on_in_another_stream_when_one_is_full(monkeypatch: pytest.MonkeyPatch, retry: Retry) -> None:
    monkeypatch.setattr("server.v1.bulk.MOST_DOCUMENTS", 5)
    with serving(settings()) as server, Client(server.address, retry=retry) as client:
        answers = dict(client.process((number, f"text {number}") for number in range(23)))
        streams = server.sample("requests_total", method="/octavo.v1.InferenceService/ProcessDocuments")
    assert sorted(answers) == list(range(23))
    assert not [answer for answer in answers.values() if isinstance(answer, OctavoError)]
    assert streams >= 5
