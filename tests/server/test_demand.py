"""What is left of the machine for one client; and promises that hold under overload, on a machine that is simulated."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from server.auth.clients import Client, Plan
from server.errors import QueueFull
from server.scheduling.fair_queue import PriorityFairQueue
from server.scheduling.forecast import DEMAND_MEMORY_SECONDS, Demand, Forecast, Reservation
from server.types import Priority

SPEED = 40_000.0  # tokens a second
SEGMENT = 330


class Clock:
    """A time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("server.scheduling.forecast.time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def client(name: str, weight: float = 1.0) -> Client:
    return Client(name, name, Plan(name, weight=weight))


def asking(rates: dict[str, float], weights: dict[str, float] | None = None) -> Demand:
    demand = Demand()
    for name, rate in rates.items():
        demand.ask(client(name, (weights or {}).get(name, 1.0)), round(rate * DEMAND_MEMORY_SECONDS))
    return demand


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ({}, 900.0),
        ({"a": 300.0}, 600.0),  # asks for less than its half
        ({"a": 5000.0}, 450.0),
        ({"a": 100.0, "b": 5000.0}, 400.0),
        ({"a": 5000.0, "b": 5000.0}, 300.0),
    ],
)
def test_others_get_what_they_ask_for_and_their_share_at_most(
    clock: Clock, others: dict[str, float], left: float
) -> None:
    outlook = asking({**others, "me": 9000.0}).outlook(client("me"), 900.0)
    assert outlook.rate == pytest.approx(left)
    assert not outlook.within_share


def test_who_asks_for_less_than_his_share_comes_before_those_who_ask_for_more(clock: Clock) -> None:
    outlook = asking({"modest": 100.0, "greedy": 5000.0, "me": 300.0}).outlook(client("me"), 900.0)
    assert outlook.within_share
    assert outlook.behind == {"greedy"}
    assert outlook.rate == pytest.approx(800.0)
    assert not asking({"modest": 100.0, "greedy": 5000.0, "me": 500.0}).outlook(client("me"), 900.0).within_share


def test_shares_go_by_weight(clock: Clock) -> None:
    demand = asking({"heavy": 5000.0, "me": 10_000.0}, {"heavy": 3.0})
    assert demand.outlook(client("me"), 800.0).rate == pytest.approx(200.0)
    assert demand.outlook(client("heavy", 3.0), 800.0).rate == pytest.approx(600.0)


def test_who_asks_no_more_is_forgotten(clock: Clock) -> None:
    demand = asking({"a": 5000.0})
    clock.now += DEMAND_MEMORY_SECONDS * 20
    assert demand.outlook(client("me"), 900.0).rate == 900.0
    assert not demand._asked


@dataclass(eq=False)
class Call:
    client: Client
    reservation: Reservation
    deadline: float
    left: int
    segments: int


def schedule(start: float, shares: dict[str, float], seconds: float, draw: random.Random) -> list[tuple[float, str]]:
    arrivals = []
    for name, share in shares.items():
        at = start
        while (at := at + draw.expovariate(share * SPEED / (8 * SEGMENT))) < start + seconds:
            arrivals.append((at, name))
    return sorted(arrivals)


@dataclass(frozen=True)
class Outcome:
    """Goodput over the machine's speed, promises kept of all, and latencies and refusals by client."""

    goodput: float
    kept: float
    latencies: dict[str, list[float]]
    refusals: Counter[str]


def outcome(  # noqa: C901
    clock: Clock, shares: dict[str, float], deadline: float, seconds: float = 30.0
) -> Outcome:
    """Offer shares of a machine's speed in documents of 1 to 15 segments, served as a scheduler does."""
    draw, forecast = random.Random(0), Forecast(2)
    queue: PriorityFairQueue[tuple[Call, int]] = PriorityFairQueue()
    latencies: dict[str, list[float]] = {name: [] for name in shares}
    refusals = Counter[str]()
    forecast.speed.observe(int(SPEED / 2), 1.0, threads=1)
    arrivals = schedule(clock.now, shares, seconds, draw)
    end, ends = clock.now + seconds, Counter[str]()
    taken: list[Call] = []

    def leave(call: Call) -> None:
        taken.remove(call)
        for number in range(call.segments):
            queue.discard((call, number), Priority.INTERACTIVE, call.client.name)

    for at, name in [*arrivals, (end, "")]:
        while clock.now < at:
            for call in [each for each in taken if each.deadline <= clock.now]:
                leave(call)
                call.reservation.close()
                ends["late"] += 1
            popped = queue.pop()
            if popped is None:
                clock.now = at
                break
            current, _ = popped
            try:
                current.reservation.reconsider()
            except QueueFull:
                leave(current)
                current.reservation.close()
                refusals[current.client.name] += 1
                continue
            current.reservation.begin(SEGMENT)
            clock.now += SEGMENT / SPEED
            current.reservation.settle(SEGMENT)
            current.left -= 1
            if not current.left and current.deadline > clock.now:
                taken.remove(current)
                ends["kept"] += 1
                latencies[current.client.name].append(clock.now - current.deadline + deadline)
                ends["tokens"] += current.segments * SEGMENT
        if name:
            caller, segments = client(name), draw.randint(1, 15)
            call = Call(caller, Reservation(forecast, caller, Priority.INTERACTIVE), at + deadline, segments, segments)
            try:
                call.reservation.promise(segments * SEGMENT, call.deadline)
            except QueueFull:
                refusals[name] += 1
                continue
            taken.append(call)
            for number in range(segments):
                within_share = forecast.within_share(caller, Priority.INTERACTIVE)
                queue.push((call, number), SEGMENT, Priority.INTERACTIVE, name, 1.0, within_share=within_share)
    kept = ends["kept"] / (ends["kept"] + ends["late"])
    return Outcome(ends["tokens"] / (SPEED * seconds), kept, latencies, refusals)


@pytest.mark.parametrize("deadline", [1.0, 2.0])
def test_promises_are_kept_when_all_ask_for_five_times_what_there_is(clock: Clock, deadline: float) -> None:
    result = outcome(clock, {f"client-{i}": 0.5 for i in range(10)}, deadline)
    assert result.kept > 0.998
    assert result.goodput > 0.97


def test_nobody_is_refused_while_there_is_enough(clock: Clock) -> None:
    result = outcome(clock, {f"client-{i}": 0.06 for i in range(10)}, 2.0)
    assert result.kept == 1.0
    assert not result.refusals


def test_nine_polite_clients_do_not_notice_a_tenth_who_floods(clock: Clock) -> None:
    polite = {f"client-{i}": 0.6 / 9 for i in range(9)}
    alone = outcome(clock, polite, 1.0, seconds=90)
    beside = outcome(clock, {**polite, "flood": 5.0}, 1.0, seconds=90)
    answered = sum(len(beside.latencies[name]) for name in polite)
    assert sum(beside.refusals[name] for name in polite) < 0.01 * answered
    assert p99(beside, polite) < 1.4 * p99(alone, polite)
    assert beside.kept > 0.9, "the flood has most of its promises, though the polite come as they like"
    assert beside.goodput > 0.97, "the flood gets all that is left"


def p99(result: Outcome, names: Iterable[str]) -> float:
    latencies = sorted(each for name in names for each in result.latencies[name])
    return latencies[int(0.99 * len(latencies))]
