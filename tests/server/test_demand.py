"""What is left of the machine for one client; and promises that hold under overload, on a machine that is simulated."""

import random
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from server.backlog import Backlog, Claim
from server.clients import Client, Plan
from server.demand import MEMORY_SECONDS, Demand
from server.errors import QueueFull
from server.fairness import FairQueue
from server.priority import Priority

SPEED = 40_000.0  # tokens a second
SEGMENT = 330


class Clock:
    """A time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        for module in ("backlog", "demand"):
            monkeypatch.setattr(f"server.{module}.time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def client(name: str, weight: float = 1.0) -> Client:
    return Client(name, name, Plan(name, weight=weight))


def asking(rates: dict[str, float], weights: dict[str, float] | None = None) -> Demand:
    demand = Demand()
    for name, rate in rates.items():
        demand.ask(client(name, (weights or {}).get(name, 1.0)), round(rate * MEMORY_SECONDS))
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
    assert asking(others).rate_for(client("me"), 900.0) == pytest.approx(left)


def test_shares_go_by_weight_and_what_one_asks_oneself_does_not_count(clock: Clock) -> None:
    demand = asking({"heavy": 5000.0, "me": 10_000.0}, {"heavy": 3.0})
    assert demand.rate_for(client("me"), 800.0) == pytest.approx(200.0)
    assert demand.rate_for(client("heavy", 3.0), 800.0) == pytest.approx(600.0)


def test_who_asks_no_more_is_forgotten(clock: Clock) -> None:
    demand = asking({"a": 5000.0})
    clock.now += MEMORY_SECONDS * 20
    assert demand.rate_for(client("me"), 900.0) == 900.0
    assert not demand._asked


@dataclass(eq=False)
class Call:
    client: Client
    claim: Claim
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


def outcome(clock: Clock, shares: dict[str, float], deadline: float, seconds: float = 30.0) -> tuple[float, float]:
    """Offer shares of a machine's speed in documents of 1 to 15 segments; goodput over speed, and promises kept."""
    draw, backlog = random.Random(0), Backlog(2)
    queue: FairQueue[Call] = FairQueue(lambda call: call.deadline <= clock.now)
    backlog.observe(int(SPEED / 2), 1.0, threads=1)
    arrivals = schedule(clock.now, shares, seconds, draw)
    end, ends = clock.now + seconds, Counter[str]()
    taken: list[Call] = []
    for at, name in [*arrivals, (end, "")]:
        while clock.now < at:
            for call in [each for each in taken if each.deadline <= clock.now]:
                taken.remove(call)
                call.claim.close()
                ends["late"] += 1
            current = queue.pop()
            if current is None:
                clock.now = at
                break
            current.claim.begin(SEGMENT)
            clock.now += SEGMENT / SPEED
            current.claim.settle(SEGMENT)
            current.left -= 1
            if not current.left and current.deadline > clock.now:
                taken.remove(current)
                ends["kept"] += 1
                ends["tokens"] += current.segments * SEGMENT
        if name:
            caller, segments = client(name), draw.randint(1, 15)
            call = Call(caller, Claim(backlog, caller, Priority.INTERACTIVE), at + deadline, segments, segments)
            try:
                call.claim.promise(segments * SEGMENT, call.deadline)
            except QueueFull:
                continue
            taken.append(call)
            for _ in range(segments):
                queue.push(name, 1.0, SEGMENT, call)
    return ends["tokens"] / (SPEED * seconds), ends["kept"] / (ends["kept"] + ends["late"])


@pytest.mark.parametrize("deadline", [1.0, 2.0])
def test_promises_are_kept_when_all_ask_for_five_times_what_there_is(clock: Clock, deadline: float) -> None:
    goodput, kept = outcome(clock, {f"client-{i}": 0.5 for i in range(10)}, deadline)
    assert kept > 0.98
    assert goodput > 0.93


def test_nobody_is_refused_while_there_is_enough(clock: Clock) -> None:
    goodput, kept = outcome(clock, {f"client-{i}": 0.06 for i in range(10)}, 2.0)
    assert kept == 1.0
    assert goodput == pytest.approx(0.6, rel=0.1)
