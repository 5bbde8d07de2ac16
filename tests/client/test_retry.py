"""When clients try again, for how long, and when they do not."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from octavo.client import Client, DeadlineExceeded, InvalidArgument, ResourceExhausted, Retry, Unavailable
from octavo.client.retry import Attempts
from tests.client.conftest import Caller
from tests.client.double import Double, Fault, serving

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    "fault",
    [
        Fault(EXHAUSTED, reason="RATE_LIMITED", retry_delay=0.03),
        Fault(EXHAUSTED, reason="RATE_LIMITED", pushback="30"),
        Fault(UNAVAILABLE, reason="DRAINING", retry_delay=0.03),
        Fault(UNAVAILABLE, reason="QUEUE_FULL", pushback="30"),
    ],
    ids=["exhausted-info", "exhausted-pushback", "unavailable-info", "unavailable-pushback"],
)
def test_a_refusal_with_a_hint_is_waited_out_and_never_asked_again_too_early(
    call: Caller, double: Double, fault: Fault
) -> None:
    double.faults.extend([fault] * 7)  # more than the attempts without a hint
    call("embed", "text", timeout=10)
    assert len(double.requests) == 8
    assert all(later - earlier >= 0.03 for earlier, later in zip(double.times, double.times[1:], strict=False))


def test_each_wait_is_told(double: Double) -> None:
    told: list[tuple[str, float, int]] = []
    retry = Retry(on_wait=lambda error, seconds: told.append((error.reason, seconds, len(double.requests))))
    double.faults.extend([Fault(EXHAUSTED, reason="RATE_LIMITED", retry_delay=0.03), Fault(UNAVAILABLE)])
    with Client(double.address, retry=retry) as client:
        client.embed("text")
    assert [(reason, requests) for reason, _, requests in told] == [("RATE_LIMITED", 1), ("", 2)]
    assert told[0][1] >= 0.03
    assert told[1][1] > 0


def test_a_servers_pushback_wins_over_its_retry_info(call: Caller, double: Double) -> None:
    double.faults.append(Fault(EXHAUSTED, reason="RATE_LIMITED", retry_delay=60, pushback="10"))
    call("embed", "text", timeout=5)
    assert len(double.requests) == 2


@pytest.mark.parametrize(
    "fault",
    [
        Fault(UNAVAILABLE, reason="DRAINING", pushback="-1"),
        Fault(UNAVAILABLE, reason="QUEUE_FULL", pushback="-1"),  # the document would never fit its deadline
        Fault(UNAVAILABLE, reason="QUEUE_FULL"),
        Fault(EXHAUSTED, reason="RATE_LIMITED", retry_delay=0.01, pushback="-1"),
        Fault(EXHAUSTED, reason="RATE_LIMITED", retry_delay=0.01, pushback="soon"),  # as gRPC reads it
        Fault(EXHAUSTED, "message larger than max"),  # gRPC's own, for ever true
        Fault(grpc.StatusCode.INVALID_ARGUMENT, reason="INVALID_OPTION"),
        Fault(grpc.StatusCode.INTERNAL, reason="INTERNAL"),
    ],
    ids=[
        "pushback",
        "never-fits",
        "never-fits-in-band",
        "pushback-over-info",
        "unreadable",
        "too-large",
        "invalid",
        "internal",
    ],
)
def test_what_will_not_pass_is_not_tried_again(call: Caller, double: Double, fault: Fault) -> None:
    double.faults.append(fault)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each its own
        call("embed", "text")
    assert caught.value.code is fault.code  # type: ignore[attr-defined]
    assert len(double.requests) == 1


def test_a_wait_that_would_outlast_the_timeout_is_not_begun(call: Caller, double: Double) -> None:
    double.faults.append(Fault(EXHAUSTED, "busy", reason="RATE_LIMITED", retry_delay=30))
    started = time.monotonic()
    with pytest.raises(ResourceExhausted) as caught:
        call("embed", "text", timeout=5)
    assert time.monotonic() - started < 2
    assert caught.value.retry_after == 30
    assert caught.value.transient


def test_later_attempts_have_what_is_left_of_the_timeout(call: Caller, double: Double) -> None:
    double.faults.append(Fault(UNAVAILABLE, reason="QUEUE_FULL", retry_delay=0.5))
    call("embed", "text", timeout=5)
    first, second = double.deadlines
    assert first is not None
    assert second is not None
    assert 4 < first < 5.1  # gRPC rounds deadlines up
    assert second < first - 0.45


def test_a_timeout_is_told_as_such(call: Caller, double: Double) -> None:
    double.delay = lambda _: 0.5
    with pytest.raises(DeadlineExceeded) as caught:
        call("embed", "text", timeout=0.1)
    assert isinstance(caught.value, TimeoutError)


def test_without_a_timeout_patience_ends() -> None:
    now = [0.0]
    attempts = Attempts(Retry(patience=10), None, clock=lambda: now[0])
    refusal = ResourceExhausted("busy", transient=True, retry_after=2.0)
    waits = []
    while (wait := attempts.next_wait(refusal)) is not None:
        waits.append(wait)
        now[0] += wait
    assert all(2.0 <= wait <= 2.6 for wait in waits)
    assert len(waits) in {3, 4}
    assert sum(waits) < 10


def test_waits_without_a_hint_double_are_spread_and_end() -> None:
    attempts = Attempts(Retry(attempts=6, first_wait=1.0, longest_wait=5.0), None)
    gone = Unavailable("gone", transient=True)
    waits = [attempts.next_wait(gone) for _ in range(6)]
    assert waits[-1] is None
    for wait, longest in zip(waits, [1, 2, 4, 5, 5], strict=False):
        assert wait is not None
        assert longest / 2 <= wait <= longest
    assert Attempts(Retry(attempts=1, patience=0), None).next_wait(gone) is None


def test_a_break_is_sought_to_be_mended_for_as_long_as_patience_lasts_each_time_anew() -> None:
    now = [0.0]
    attempts = Attempts(Retry(attempts=2, longest_wait=5.0, patience=30), None, clock=lambda: now[0])
    gone = Unavailable("gone", transient=True)
    for _ in range(2):
        attempts.progressed()
        waits = []
        while (wait := attempts.next_wait(gone)) is not None:
            waits.append(wait)
        assert 20 < sum(waits) < 30
    attempts = Attempts(Retry(attempts=1, patience=0), 100)
    attempts.progressed()
    assert attempts.next_wait(gone) is None
    assert attempts.next_wait(ResourceExhausted("busy", transient=True, retry_after=2.0)) is None


def test_nobody_there_is_told_soon_and_without_the_servers_reason(call: Caller, double: Double) -> None:
    with socket.socket() as taken:  # bound and deaf: nobody else gets this port meanwhile
        taken.bind(("127.0.0.1", 0))
        nobody = Caller(Double(address=f"127.0.0.1:{taken.getsockname()[1]}"), call.manner)
        started = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            nobody("embed", "text")
    assert time.monotonic() - started < 5
    assert caught.value.reason == ""
    assert not double.requests


def test_a_server_that_comes_back_is_found_again() -> None:
    first, second = Double(), Double()
    with ExitStack() as stack:
        with serving(first):
            client = stack.enter_context(Client(first.address))
            client.embed("a")

        def restart() -> None:
            time.sleep(0.3)
            stack.enter_context(serving(second, first.address))

        with ThreadPoolExecutor(1) as pool:
            restarted = pool.submit(restart)
            client.embed("b", timeout=10)
            restarted.result()
    assert [request.documents[0].text for request in second.requests] == ["b"]


def test_an_invalid_request_in_a_stream_is_not_tried_again(call: Caller, double: Double) -> None:
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "no text", "EMPTY_DOCUMENT"))
    with pytest.raises(InvalidArgument, match="no text"):
        call.stream("text")
    assert len(double.requests) == 1
