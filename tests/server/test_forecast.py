"""What was promised, and the refusals that follow from it."""

import time
from types import SimpleNamespace

import pytest

from server.auth.clients import Client, Plan
from server.errors import QueueFull
from server.scheduling.forecast import DEMAND_MEMORY_SECONDS, ESTIMATE_CALLS, SAFETY, SAMPLE_SECONDS, Forecast
from server.types import BULK_SHARE, Priority

INTERACTIVE, BULK = Priority.INTERACTIVE, Priority.BULK


def client(name: str, weight: float = 1.0) -> Client:
    return Client(name, name, Plan(name, weight=weight))


def forecast(speed: float = 1000.0, threads: int = 2) -> Forecast:
    """Of a machine that does so many tokens a second and thread."""
    made = Forecast(threads)
    made.speed.observe(int(speed), 1.0, threads=1)
    return made


def test_a_machine_of_unknown_speed_refuses_nobody() -> None:
    Forecast(2).check(client("a"), INTERACTIVE, 10**9, time.monotonic() + 0.001)


def test_work_that_cannot_be_done_in_time_is_refused_with_the_time_to_come_back() -> None:
    with forecast().reserve(client("a"), INTERACTIVE) as reservation:
        reservation.promise(20_000, time.monotonic() + 60)
        with pytest.raises(QueueFull) as refused, reservation._forecast.reserve(client("a"), INTERACTIVE) as other:
            other.promise(2_000, time.monotonic() + 5)
    assert refused.value.retry_after == pytest.approx(SAFETY * 11 - 5, rel=0.02)


def test_a_call_too_long_for_its_deadline_alone_is_told_that_no_time_is_right() -> None:
    made = forecast()
    with pytest.raises(QueueFull, match="allow it more time, or send less") as refused:
        made.check(client("a"), INTERACTIVE, 20_000, time.monotonic() + 5)
    assert refused.value.retry_after is None
    made.check(client("a"), INTERACTIVE, 20_000, time.monotonic() + 30)


def test_a_call_that_needs_nothing_computed_is_never_refused() -> None:
    made = forecast()
    with made.reserve(client("a"), INTERACTIVE) as reservation:
        reservation.promise(100_000, time.monotonic() + 600)
        made.check(client("b"), INTERACTIVE, 0, time.monotonic() + 0.01)


def test_a_polite_client_is_not_refused_for_anothers_flood() -> None:
    made = forecast()
    with made.reserve(client("flood"), INTERACTIVE) as flood:
        flood.promise(1_000_000, time.monotonic() + 6000)
        assert made.seconds_until_done(client("polite"), INTERACTIVE, 1000) == pytest.approx(SAFETY * 0.5)
        with made.reserve(client("second flood"), INTERACTIVE) as second:
            second.promise(100_000, time.monotonic() + 6000)
            assert made.seconds_until_done(client("second flood"), INTERACTIVE, 100_000) == pytest.approx(SAFETY * 100)


def test_bulk_waits_for_interactive_and_the_other_way_round_but_a_little() -> None:
    made = forecast()
    with made.reserve(client("a"), BULK) as bulk, made.reserve(client("b"), INTERACTIVE) as interactive:
        bulk.promise(100_000, time.monotonic() + 6000)
        assert made.seconds_until_done(client("c"), INTERACTIVE, 2000) == pytest.approx(SAFETY * (1 + BULK_SHARE))
        interactive.promise(50_000, time.monotonic() + 6000)
        assert made.seconds_until_done(client("a"), BULK, 100_000) == pytest.approx(SAFETY * 75)


def test_a_little_bulk_does_not_wait_for_all_that_is_interactive() -> None:
    made = forecast()
    with made.reserve(client("a"), INTERACTIVE) as interactive:
        interactive.promise(1_000_000, time.monotonic() + 6000)
        assert made.seconds_until_done(client("b"), BULK, 1000) == pytest.approx(SAFETY * 0.5 * (1 + 1 / BULK_SHARE))


def test_what_is_settled_or_given_up_is_nobodys_burden() -> None:
    made = forecast()
    with made.reserve(client("a"), INTERACTIVE) as reservation:
        reservation.promise(1000, time.monotonic() + 60)
        reservation.begin(400)
        reservation.settle(400)
        assert made.seconds_until_done(client("b"), INTERACTIVE, 0) == pytest.approx(0)
        assert made.seconds_until_done(client("a"), INTERACTIVE, 600) == pytest.approx(SAFETY * 0.3)
        assert made.waiting(client("a")) == 600
        reservation.begin(900)  # more than is left of the promise: a stream's
        assert made._tokens[INTERACTIVE]["a"] == 1500
    assert not made._tokens[INTERACTIVE]
    assert not made._weights


def test_a_promise_that_others_break_is_told_before_anything_is_computed_and_not_later() -> None:
    made = forecast()
    with made.reserve(client("a"), INTERACTIVE) as reservation, made.reserve(client("a"), INTERACTIVE) as begun:
        for each in (reservation, begun):
            each.promise(1000, time.monotonic() + 2)
        begun.reconsider()
        for name in "abcd":  # each wants more than a quarter of the machine
            made.demand[INTERACTIVE].ask(client(name), round(1000 * DEMAND_MEMORY_SECONDS))
        begun.reconsider()
        with pytest.raises(QueueFull) as refused:
            reservation.reconsider()
    assert refused.value.retry_after
    with made.reserve(client("a"), INTERACTIVE) as stream:
        stream.begin(10_000)
        stream.reconsider()  # nothing was promised: it gets what there is


def read(made: Forecast, name: str, characters: int, tokens: int) -> None:
    """A text that is read, promised and computed."""
    with made.reserve(client(name), INTERACTIVE) as reservation:
        reservation.foresee(characters, time.monotonic() + 60)
        reservation.promise(tokens, time.monotonic() + 60)


def refused_unread(made: Forecast, name: str, characters: int, deadline: float) -> bool:
    try:
        with made.reserve(client(name), INTERACTIVE) as reservation:
            reservation.foresee(characters, time.monotonic() + deadline)
    except QueueFull:
        return True
    return False


def test_a_text_that_has_no_chance_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    made = forecast()
    assert not refused_unread(made, "a", 10**9, 0.1), "nothing is known of the client yet"
    for _ in range(ESTIMATE_CALLS):
        read(made, "a", characters=4000, tokens=1000)
    assert not refused_unread(made, "a", 4000, 5.0)
    for later in (1, 2):
        clock = SimpleNamespace(monotonic=lambda later=later: time.monotonic() + later * SAMPLE_SECONDS)
        monkeypatch.setattr("server.scheduling.forecast.time", clock)
        assert not refused_unread(made, "a", 400_000, 5.0), "one now and then is read all the same, to learn from"
        assert all(refused_unread(made, "a", 400_000, 5.0) for _ in range(100)), "however many there are"
    assert not refused_unread(made, "b", 400_000, 5.0), "habits are each client's own"


def test_a_client_whose_texts_the_cache_may_know_is_read_first() -> None:
    made = forecast()
    for _ in range(ESTIMATE_CALLS):
        read(made, "a", characters=4000, tokens=1000)
    read(made, "a", characters=4000, tokens=0)
    assert not refused_unread(made, "a", 400_000, 5.0)


def test_a_run_that_took_no_time_tells_no_speed() -> None:
    made = Forecast(2)
    made.speed.observe(1000, 0.0, threads=1)
    assert made.seconds_until_done(client("a"), INTERACTIVE, 1000) == 0.0
    assert made.within_share(client("a"), INTERACTIVE)
