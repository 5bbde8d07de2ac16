"""Time at a real server: deadlines, cancelling, and one computation for many callers."""

import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from cache import HeadFields, TokensFields
from cache.key import encode_fields
from octavo.v1 import inference_pb2 as pb
from server.config.schema import CacheSettings, ComputeSettings
from server.inference.runner import Runner
from server.scheduling.forecast import Speed
from server.scheduling.scheduler import Scheduler
from server.types import Computed, Work
from tests.server.helpers import (
    SOON,
    Refusal,
    Server,
    analyze,
    array,
    document,
    embed,
    eventually,
    prose,
    refusal_of,
    refused,
    segment,
    serving,
    settings,
    stream,
    task,
    vector,
)

pytestmark = pytest.mark.usefixtures("nothing_internal")


class Machine:
    """Counts and slows down the runs of a server's models."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        self.runs = 0
        self.segments: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        compute = Runner.compute

        def slowed(runner: Runner, works: Sequence[Work], threads: int) -> list[Computed]:
            self.runs += 1
            self.segments += [bytes(work.key) for work in works]
            self.started.set()
            assert self.gate.wait(SOON)
            time.sleep(self.seconds)
            return compute(runner, works, threads)

        patch.setattr(Runner, "compute", slowed)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(monkeypatch)
    yield machine
    machine.gate.set()


@pytest.fixture
def own(models: object) -> Iterator[Server]:
    """A server of its own, with a model that computes each segment by itself, on one stream."""
    with serving(settings(compute=ComputeSettings(streams=1, threads=1, in_flight_segments=4))) as server:
        yield server


def test_a_unary_call_ends_at_its_deadline(own: Server, machine: Machine) -> None:
    machine.seconds = 0.2
    began = time.monotonic()
    # Time enough, as the server reckons before it finds the machine slowed: less would be refused at once.
    refusal = refused(lambda: analyze(own, prose(10_000, seed=13), timeout=2.5))
    assert refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 3.5
    runs = machine.runs
    time.sleep(0.5)
    assert machine.runs <= runs + 1  # what was begun


def test_a_call_without_a_deadline_gets_the_server_s(models: object, machine: Machine) -> None:
    machine.seconds = 0.2
    with serving(settings(default_deadline_seconds=0.5)) as server:
        for call in (analyze, embed):
            refusal = refused(lambda call=call: call(server, prose(10_000, seed=14), timeout=None))  # type: ignore[misc]
            assert refusal.code in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
            assert refusal.reason in {"DEADLINE", "QUEUE_FULL"}
        events = list(stream(server, prose(10_000, seed=14), timeout=None))
        assert events[-1].summary.partial
        assert server.sample("requests_total", code="INTERNAL") == 0


def test_a_stream_tells_before_its_deadline_how_far_it_got(own: Server, machine: Machine) -> None:
    machine.seconds = 0.1
    text = prose(20_000, seed=15)
    began = time.monotonic()
    events = list(stream(own, text, task(return_segment_vectors=True, normalize=False), timeout=2.0))
    assert time.monotonic() - began < 2.0
    summary, parts = events[-1].summary, [event.segment for event in events[1:-1]]
    assert summary.partial
    assert 2 < len(parts) < 30
    assert summary.info.usage.tokens == sum(part.segment.tokens for part in parts)
    rows = np.stack([array(part.results[0].embed.segment_vectors)[0] for part in parts])
    mean = np.average(rows, axis=0, weights=[part.segment.tokens for part in parts])
    np.testing.assert_allclose(array(summary.results[0].embed.document_vector), mean, atol=1e-5)


def test_a_stream_that_gets_nowhere_says_so(own: Server, machine: Machine) -> None:
    machine.gate.clear()
    events = list(stream(own, prose(900, seed=16), timeout=1.0))
    machine.gate.set()
    assert [event.WhichOneof("event") for event in events] == ["header", "summary"]
    assert events[-1].summary.partial
    assert events[-1].summary.info.usage.tokens == 0
    assert not events[-1].summary.results


def test_a_partial_summary_does_not_say_what_is_gone(models: object, machine: Machine) -> None:
    """What was not reached may still be there."""
    text = prose(900, seed=16)
    with serving(settings(default_deadline_seconds=1.0)) as server:
        digest = segment(server, text).segments[-1].digest
        machine.gate.clear()
        vectors = task(return_segment_vectors=True)
        events = list(stream(server, text, vectors, timeout=None, known_segment_digests=digest))
        machine.gate.set()
    assert events[-1].summary.partial
    assert not events[-1].summary.gone
    assert not any(event.segment.kept.positions for event in events)


def test_the_header_comes_before_anything_is_computed(own: Server, machine: Machine) -> None:
    machine.gate.clear()
    events = stream(own, prose(900, seed=17))
    assert next(events).HasField("header")
    machine.gate.set()
    assert list(events)[-1].HasField("summary")


@pytest.mark.parametrize("method", ["StreamSegments", "Analyze", "Embed"])
def test_a_call_that_is_cancelled_computes_no_more(own: Server, machine: Machine, method: str) -> None:
    machine.gate.clear()
    text = prose(3000, seed=18)
    call: Any
    if method == "StreamSegments":
        call = stream(own, text)
    elif method == "Analyze":
        call = own.inference.Analyze.future(pb.AnalyzeRequest(document=document(text), tasks=[task()]))
    else:
        call = own.inference.Embed.future(pb.EmbedRequest(documents=[document(text)]))
    assert machine.started.wait(SOON)
    eventually(lambda: own.sample("queue_depth_segments") == 3)  # the window, less what is being computed
    call.cancel()
    eventually(lambda: own.sample("requests_total", code="CANCELLED") == 1)
    machine.gate.set()
    time.sleep(0.2)
    assert machine.runs == 1
    assert own.sample("segments_total") == own.sample("requests_in_flight") == own.sample("queue_depth_segments") == 0


def test_a_stream_that_is_cancelled_in_its_middle_stops_there(own: Server, machine: Machine) -> None:
    machine.seconds = 0.02
    events = stream(own, prose(60_000, seed=19))
    for _ in range(4):
        next(events)
    events.cancel()
    eventually(lambda: own.sample("requests_total", code="CANCELLED") == 1)
    time.sleep(0.1)
    runs, segments = machine.runs, own.sample("segments_total")
    time.sleep(0.3)
    assert (machine.runs, own.sample("segments_total")) == (runs, segments)
    assert runs < 30


def test_a_million_tokens_are_as_few_in_flight_as_ten(own: Server, machine: Machine) -> None:
    in_flight = most = 0
    submit = Scheduler.submit
    lock = threading.Lock()

    async def counted(*arguments: Any) -> Computed:
        nonlocal in_flight, most
        with lock:
            in_flight += 1
            most = max(most, in_flight)
        try:
            return await submit(*arguments)
        finally:
            with lock:
                in_flight -= 1

    text = prose(20_000, seed=20) * 50
    read = own.sample("tokenize_seconds_count")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scheduler, "submit", counted)
        events = stream(own, text, timeout=120)
        next(events)
        eventually(lambda: most >= 4)
        for _ in range(50):
            assert next(events).HasField("segment")
        assert most <= 4
        assert own.sample("tokenize_seconds_count") - read < 200  # of some 500 regions: it reads as it computes
        events.cancel()
        eventually(lambda: in_flight == 0)


# One for many


def test_the_same_document_at_the_same_time_is_computed_once(own: Server, machine: Machine) -> None:
    text = prose(1500, seed=21)
    machine.gate.clear()
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(embed, own, text) for _ in range(4)]
        assert machine.started.wait(SOON)
        eventually(lambda: own.sample("requests_in_flight") == 4)
        time.sleep(0.2)  # all have boarded
        machine.gate.set()
        responses = [answer.result() for answer in answers]
    assert len(machine.segments) == len(set(machine.segments))
    usages = [response.info.usage for response in responses]
    assert {usage.processed_tokens for usage in usages} == {usages[0].processed_tokens}
    assert sum(usage.computed_tokens for usage in usages) == usages[0].processed_tokens
    assert all(usage.computed_tokens + usage.cached_tokens == usage.processed_tokens for usage in usages)
    assert len({vector(response).tobytes() for response in responses}) == 1
    waited = [info for response in responses for info in response.results[0].segments if info.resumed_from_layer == 2]
    assert sum(info.processed_tokens for info in waited) == sum(usage.cached_tokens for usage in usages)


def test_one_who_leaves_takes_nothing_from_those_who_wait_for_the_same(own: Server, machine: Machine) -> None:
    text = prose(1500, seed=22)
    machine.gate.clear()
    request = pb.EmbedRequest(documents=[document(text)])
    first = own.inference.Embed.future(request, timeout=SOON)
    assert machine.started.wait(SOON)
    second = own.inference.Embed.future(request, timeout=SOON)
    eventually(lambda: own.sample("requests_in_flight") == 2)
    time.sleep(0.2)
    first.cancel()
    eventually(lambda: own.sample("requests_total", code="CANCELLED") == 1)
    machine.gate.set()
    response = second.result()
    usage = response.info.usage
    assert usage.processed_tokens == usage.computed_tokens + usage.cached_tokens
    np.testing.assert_array_equal(vector(response), vector(embed(own, text)))
    assert len(set(machine.segments)) == len(response.results[0].segments)


def test_one_whose_time_is_over_takes_nothing_from_those_who_have_more(own: Server, machine: Machine) -> None:
    """The one with the short deadline came first and started the work; the other one's goes on."""
    text = prose(2500, seed=23)
    machine.gate.clear()
    request = pb.EmbedRequest(documents=[document(text)])
    hasty = own.inference.Embed.future(request, timeout=0.6)
    assert machine.started.wait(SOON)
    patient = own.inference.Embed.future(request, timeout=SOON)
    with pytest.raises(grpc.RpcError) as caught:
        hasty.result()
    assert refusal_of(caught.value).code is grpc.StatusCode.DEADLINE_EXCEEDED
    time.sleep(0.1)
    machine.gate.set()
    assert np.isfinite(vector(patient.result())).all()


def test_different_tasks_on_one_document_at_a_time_are_one_computation(own: Server, machine: Machine) -> None:
    text = prose(600, seed=24)
    alone = analyze(own, text, task(pooling=pb.POOLING_CLS)).results[0]
    machine.segments.clear()
    machine.started.clear()
    machine.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(analyze, own, text, task())
        assert machine.started.wait(SOON)
        other = pool.submit(analyze, own, text, task(pooling=pb.POOLING_CLS))
        eventually(lambda: own.sample("requests_in_flight") == 2)
        time.sleep(0.2)
        machine.gate.set()
        answers = one.result(), other.result()
    assert len(machine.segments) == len(set(machine.segments)) == len(answers[0].segments)
    assert answers[1].results[0] == alone


def test_a_bug_in_the_machine_is_internal_for_its_callers_and_forgotten_then(
    own: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("SECRET TEXT")

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "compute", broken)
        for call in (analyze, embed, stream):
            refusal = refused(lambda call=call: call(own, prose(900)))  # type: ignore[misc]
            assert refusal == Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", "", refusal.message)
            assert "SECRET" not in refusal.message
    assert np.isfinite(vector(embed(own, prose(900)))).all()


SPANS = [pb.Span(start=i % 7, end=900 - i % 11) for i in range(4096)]  # which all cover the one segment


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the runs that teach the forecast how fast the machine is."""
    seconds: list[float] = []
    observe = Speed.observe

    def noted(speed: Speed, tokens: int, taken: float, threads: int) -> None:
        seconds.append(taken)
        observe(speed, tokens, taken, threads)

    monkeypatch.setattr(Speed, "observe", noted)
    return seconds


def test_heads_over_a_known_segment_teach_the_forecast_nothing(
    models: Path, tmp_path: Path, observed: list[float]
) -> None:
    cache = CacheSettings(dir=tmp_path / "cache", secret_file=tmp_path / "secret")
    with serving(settings().model_copy(update={"cache": cache})) as server:
        text = prose(200)
        analyze(server, text)
        before = list(observed)
        answer = analyze(server, text, task(spans=SPANS))
        assert [info.resumed_from_layer for info in answer.segments] == [2], "known: heads alone"
        assert array(answer.results[0].embed.span_vectors).any()
        assert observed == before


def test_a_first_call_sets_nothing_up(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connections: list[str] = []
    digested: list[type] = []
    connect, encode = sqlite3.connect, encode_fields

    def connected(*arguments: Any, **options: Any) -> Any:
        connections.append(threading.current_thread().name)
        return connect(*arguments, **options)

    def encoded(record: Any) -> bytes:
        digested.append(type(record))
        return encode(record)

    cache = CacheSettings(dir=tmp_path / "cache", secret_file=tmp_path / "secret")
    with serving(settings().model_copy(update={"cache": cache})) as server:
        monkeypatch.setattr(sqlite3, "connect", connected)
        monkeypatch.setattr("cache.key.encode_fields", encoded)
        answer = analyze(server, prose(2000), cache_mode=pb.CACHE_MODE_READ_ONLY)
        assert len(answer.segments) > 3
        # The cache's writer connects when it likes.
        assert not [name for name in connections if name.startswith("reader")]
        assert {*digested} == {HeadFields, TokensFields}


def test_heads_that_take_long_do_not_make_the_machine_slow(
    models: Path, observed: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = 0.2
    apply, compute = Runner.apply, Runner.compute
    took: list[float] = []

    def applied(*arguments: Any) -> Any:
        time.sleep(slow)
        return apply(*arguments)

    def computed(*arguments: Any) -> list[Computed]:
        done = compute(*arguments)
        took.append(done[0].finished - done[0].started)
        return done

    with serving(settings()) as server:
        monkeypatch.setattr(Runner, "apply", applied)
        monkeypatch.setattr(Runner, "compute", computed)
        analyze(server, prose(200), task(spans=SPANS))
        eventually(lambda: took and observed[-1] <= took[-1] - slow)
