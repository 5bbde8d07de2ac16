"""The load's arithmetic: schedules, percentiles from planned arrivals, goodput, shares, windows. No server."""

import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from statistics import mean
from typing import Any

import grpc
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Distribution, Figure
from benchmarks.histograms import percentiles
from benchmarks.loading import stall
from benchmarks.loading.bench import Bench
from benchmarks.loading.corpus import MEAN_SEGMENTS, MOST_SEGMENTS, Document, draw_segments, segment_weights
from benchmarks.loading.generator import Generator
from benchmarks.loading.guests import invite, toml
from benchmarks.loading.schedule import STREAM, Call, calls_of, poisson, request_of
from benchmarks.loading.tally import Answer, Look, accepted, goodput, latencies, most_granted, of_callers
from octavo.v1 import inference_pb2 as pb


def answer(planned: float = 0.0, ended: float = 1.0, code: str = "OK", **fields: Any) -> Answer:
    given: dict[str, Any] = {"caller": 0, "tokens": 100, "sent": planned, **fields}
    return Answer(planned=planned, ended=ended, code=code, **given)


def test_arrivals_follow_from_the_seed_and_are_poisson() -> None:
    times = poisson(50.0, 200.0, random.Random(1))
    assert times == poisson(50.0, 200.0, random.Random(1))
    assert times != poisson(50.0, 200.0, random.Random(2))
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 200
    assert len(times) == pytest.approx(10_000, rel=0.03)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert mean(gap > 1 / 50 for gap in gaps) == pytest.approx(0.368, abs=0.02), "exponential: 1/e exceed their mean"


def test_documents_have_1_to_20_segments_8_on_average_and_each_count_occurs() -> None:
    weights = segment_weights()
    assert sum((i + 1) * weight for i, weight in enumerate(weights)) / sum(weights) == pytest.approx(MEAN_SEGMENTS)
    counts = draw_segments(20_000, random.Random(0))
    assert set(counts) == set(range(1, MOST_SEGMENTS + 1))
    assert mean(counts) == pytest.approx(MEAN_SEGMENTS, rel=0.02)


def test_requests_are_ready_to_be_sent() -> None:
    document = Document("One sentence.", 4)
    request = pb.AnalyzeRequest.FromString(request_of(document))
    assert request.document.text == document.text
    assert request.options.cache_mode == pb.CACHE_MODE_BYPASS
    assert [task.WhichOneof("kind") for task in request.tasks] == ["embed"]
    stream = pb.StreamSegmentsRequest.FromString(request_of(document, priority="BULK", method=STREAM))
    assert stream.options.priority == pb.PRIORITY_BULK
    (call,) = calls_of([1.5], 3, [document], cache="READ_WRITE")
    assert (call.at, call.caller, call.tokens) == (1.5, 3, 4)
    assert pb.AnalyzeRequest.FromString(call.request).options.cache_mode == pb.CACHE_MODE_READ_WRITE


def test_a_stall_of_the_generator_counts_for_the_calls_that_were_planned_in_it() -> None:
    # A server stalls for a second; a generator that waited sent its calls after it, each answered in 10 ms.
    stalled = [answer(planned=i / 100, sent=1.0, ended=1.01) for i in range(100)]
    assert latencies(stalled) == pytest.approx([1.01 - i / 100 for i in range(100)])


def test_calls_without_an_answer_improve_no_percentile() -> None:
    answers = [answer(ended=0.1) for _ in range(150)]
    assert latencies([*answers, answer(ended=0.8), answer(ended=0.01, code="UNAVAILABLE")]) == [0.1] * 150 + [0.8] * 2
    with pytest.raises(ValueError, match=r"3 of 153 calls were not answered: DEADLINE_EXCEEDED, UNAVAILABLE"):
        latencies([*answers, *(answer(code=code) for code in ("UNAVAILABLE", "UNAVAILABLE", "DEADLINE_EXCEEDED"))])


def test_goodput_counts_tokens_of_what_was_answered_in_time_within_the_window() -> None:
    answers = [
        answer(planned=0.0, ended=1.0),  # before the window
        answer(planned=0.0, ended=2.5, tokens=300),
        answer(planned=1.0, ended=3.0, tokens=200),  # exactly at its deadline
        answer(planned=0.5, ended=2.8, tokens=1000),  # late
        answer(planned=2.0, ended=3.0, tokens=1000, code="UNAVAILABLE"),
        answer(planned=9.0, ended=11.0),  # behind the window
    ]
    assert goodput(answers, since=2.0, until=10.0) == pytest.approx((300 + 200 + 1000) / 8)
    assert goodput(answers, since=2.0, until=10.0, deadline=2.0) == pytest.approx(200 / 8)


def test_refusals_are_no_broken_promises_and_late_answers_are() -> None:
    answers = [
        *(answer(ended=1.0) for _ in range(6)),
        answer(ended=3.0),
        answer(ended=2.0, code="DEADLINE_EXCEEDED"),
        *(answer(ended=0.1, code=code) for code in ("UNAVAILABLE", "RESOURCE_EXHAUSTED") * 5),
    ]
    assert [each.in_time(2.0) for each in accepted(answers)] == [True] * 6 + [False] * 2
    with pytest.raises(ValueError, match="all calls were refused"):
        accepted(answers[-4:])


def test_callers_can_be_told_apart() -> None:
    answers = [answer(caller=caller) for caller in (0, 9, 3, 9)]
    assert [each.caller for each in of_callers(answers, range(9))] == [0, 3]


def test_grants_are_counted_in_the_worst_window_wherever_it_begins() -> None:
    def looks(*grants: float) -> list[Look]:
        """One grant a second, looked at a little after each."""
        return [Look(i, i + 0.01, sum(grants[: i + 1])) for i in range(len(grants))]

    fixed_window = [
        100.0 if 50 <= i < 70 else 0.0 for i in range(120)
    ]  # the rate of a minute, on both sides of its edge
    assert most_granted(looks(*fixed_window), 60) == 2000
    paced = [30.0] * 200
    assert most_granted(looks(*paced), 60) == pytest.approx(1800, rel=0.05)
    assert most_granted(looks(*paced), 60) >= 1800, "bounded from above"
    with pytest.raises(ValueError, match="not watched for 60 s"):
        most_granted(looks(*[1.0] * 30), 60)


def test_a_share_of_the_capacity_becomes_calls_of_that_many_tokens() -> None:
    class Corpus:
        segment_tokens = 300.0

        def documents(self, count: int) -> list[Document]:
            return [Document("text", 2400)] * count

    bench = Bench(None, [], Corpus(), random.Random(0), capacity=24_000.0)  # type: ignore[arg-type]
    calls = bench.arrivals(0.6, 500.0, range(9))
    assert sum(call.tokens for call in calls) / 500 == pytest.approx(0.6 * 24_000, rel=0.03)
    of_one = [call for call in calls if call.caller == 4]
    assert len(of_one) == pytest.approx(len(calls) / 9, rel=0.12)


def test_guests_are_let_in_by_their_keys() -> None:
    import tomllib

    from server.auth.authenticator import Authenticator
    from server.auth.authenticator import Caller as Shown
    from server.config.schema import Settings

    guests = invite(3)
    settings = Settings.model_validate(tomllib.loads(toml(guests, "tokens_per_minute = 60_000")))
    doorman = Authenticator(settings)
    client = doorman.identify(Shown((f"Bearer {guests[1].key}",), local=True, encrypted=False))
    assert client.name == guests[1].name
    assert client.plan.tokens_per_minute == 60_000


def test_the_generator_is_another_process_and_imports_no_model() -> None:
    with Generator() as generator:
        assert generator._process.submit(_modules).result() == set()


def _modules() -> set[str]:
    import sys

    return {"torch", "transformers"} & set(sys.modules)


@pytest.fixture
def stalling() -> Iterator[str]:
    """A server that stalls for half a second once, on one thread, and refuses who has no key."""
    first = iter([0.5])

    def analyze(request: bytes, context: grpc.ServicerContext) -> bytes:
        if ("authorization", "Bearer oct_key") not in [(each[0], each[1]) for each in context.invocation_metadata()]:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no key")
        time.sleep(next(first, 0.0))
        return request

    server = grpc.server(ThreadPoolExecutor(1))
    handler: Any = grpc.unary_unary_rpc_method_handler(analyze)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("octavo.v1.InferenceService", {"Analyze": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0)


def test_a_stall_is_seen_by_every_call_that_was_planned_in_it(stalling: str) -> None:
    callers = [Endpoint(stalling, "oct_key"), Endpoint(stalling)]
    calls = [*calls_of([i / 50 for i in range(25)], 0, [Document("text", 7)] * 25), Call(0.9, 1, b"", 0)]
    with Generator() as generator:
        sent = generator.offer(callers, calls, deadline=2.0).result()
    by_plan = sorted(sent.answers, key=lambda answer: answer.planned)
    assert [answer.code for answer in by_plan] == ["OK"] * 25 + ["UNAUTHENTICATED"]
    assert [answer.planned for answer in by_plan] == sorted(call.at for call in calls)
    assert by_plan[1].sent < by_plan[0].ended, "the schedule does not wait for the server"
    for each in by_plan[:20]:
        assert each.latency > 0.5 - each.planned - 0.02
    assert sent.cores > 0


def test_a_deadline_runs_from_the_planned_arrival(stalling: str) -> None:
    with Generator() as generator:
        calls = calls_of([0.0, 0.1], 0, [Document("text", 7)] * 2)
        sent = generator.offer([Endpoint(stalling, "oct_key")], calls, deadline=0.3).result()
    assert [answer.code for answer in sent.answers] == ["DEADLINE_EXCEEDED"] * 2
    assert min(answer.latency for answer in sent.answers) > 0.28, "the second has until 0.4"


def test_a_closed_loop_keeps_so_many_calls_under_way_and_begins_none_too_late(stalling: str) -> None:
    with Generator() as generator:
        calls = calls_of([0.0] * 2000, 0, [Document("text", 7)] * 2000)
        sent = generator.saturate([Endpoint(stalling, "oct_key")], calls, in_flight=4, seconds=0.8).result()
    sends = sorted(answer.sent for answer in sent.answers)
    assert sends[3] < min(answer.ended for answer in sent.answers) <= sends[4], "the fifth waits for the stall's end"
    assert sum(sent_at >= 0.8 for sent_at in sends) <= 4, "what had looked at the clock in time"
    assert 4 < len(sends) < 2000


def test_a_double_that_stalls_is_seen_in_the_99th_percentile_and_not_by_who_waits() -> None:
    for _ in range(5):  # whatever else the machine does stalls calls too: until it lets some time be quiet
        figures = stall.stalled()
        drawn = figures["stall.by_schedule"]
        assert isinstance(drawn, Distribution)
        median = percentiles(drawn, 50)[0]
        if value(figures["stall_p99_ms.one_by_one"]) < 450 and median < 0.45:
            break
    assert value(figures["stall_seen"]) == 1
    assert value(figures["stall_p99_ms.by_schedule"]) > 900
    assert value(figures["stall_p99_ms.one_by_one"]) < 450
    assert median < 0.45, "most calls come before it or after it"


def test_what_is_left_out_is_missing_with_the_reason() -> None:
    result = CliRunner().invoke(main, ["load", "--part", "polite", "--server", "127.0.0.1:1"])
    assert result.exit_code == 1
    reasons = dict(re.findall(r"^(\S+) .*MISSING: (.*)$", result.stdout, re.MULTILINE))
    assert reasons.pop("polite_p99") == reasons.pop("polite_p99_warm_flood") == "takes a server of its own"
    assert set(reasons) >= {"server_over_engine", "granted_3", "stall_seen"}
    assert reasons["stall_seen"] == "left out by --part"


def value(outcome: object) -> float:
    assert isinstance(outcome, Figure)
    return outcome.value
