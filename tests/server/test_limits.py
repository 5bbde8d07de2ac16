"""Budgets: never more than the rate in any window, never less than there is, and waits that are true."""

import asyncio
import bisect
import math
import random
import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from server.auth.clients import Client, Plan
from server.config.schema import LimitSettings
from server.errors import RateLimited
from server.limits import Limiter
from server.limits.meter import Meter, Windows
from server.limits.windows import UNITS, LocalWindows, Quota, Rate
from server.telemetry.metrics import Metrics

START = 1_000_000.0


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.time)
    return clock


def meter(rate: Rate) -> Meter:
    return Meter(Quota("x", rate), Windows(LocalWindows()))


def limiter(**limits: object) -> Limiter:
    return Limiter(LimitSettings.model_validate(limits), Metrics(CollectorRegistry()))


def most_in_a_window(grants: list[tuple[float, float]], seconds: float) -> float:
    """The largest sum of amounts within any half-open window: such a one begins at a grant."""
    times = [at for at, _ in grants]
    sums = [0.0]
    for _, amount in grants:
        sums.append(sums[-1] + amount)
    ends = [bisect.bisect_left(times, at + seconds) for at in times]
    return max((sums[end] - sums[i] for i, end in enumerate(ends)), default=0.0)


@given(
    rate=st.sampled_from([1_000, 6_000, 60_000, 777_777]),
    seed=st.integers(0, 2**32),
    gap=st.sampled_from([0.0, 0.001, 0.05, 1.0, 20.0]),
    largest=st.sampled_from([10, 512, 1_000]),
)
@settings(max_examples=25)
def test_no_window_of_60_seconds_is_granted_more_than_the_rate(rate: int, seed: int, gap: float, largest: int) -> None:
    clock = Clock()
    source = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", clock.time)
        tested = meter(Rate(rate, 60))
        grants: list[tuple[float, float]] = []
        for _ in range(400):
            clock.now += source.expovariate(1 / gap) if gap else source.choice([0.0, 0.0, 7.0])
            amount = source.uniform(1, largest)
            if not tested.spend(amount):
                grants.append((clock.now, amount))
    assert grants
    assert most_in_a_window(grants, 60) <= 1.05 * rate


def test_whoever_always_asks_gets_all_of_the_rate(clock: Clock) -> None:
    tested = meter(Rate(60_000, 60))
    granted = 0.0
    while clock.now < START + 600:
        if seconds := tested.spend(450):
            clock.now += seconds
        else:
            granted += 450
    assert granted >= 0.98 * 600_000
    assert granted <= 1.05 * 660_000  # ten windows, and the one that was full at the start


def test_storage_stays_small_whatever_the_rate() -> None:
    for amount in (7, 1_000, 10**9):
        assert Rate(amount, 60).units == min(amount, UNITS)
        assert Rate(amount, 60).unit * Rate(amount, 60).units == amount


def test_the_wait_is_neither_too_long_nor_too_short(clock: Clock) -> None:
    tested = meter(Rate(6_000, 60))
    for _ in range(11):
        assert tested.spend(500) == 0
        clock.now += 1
    wait = tested.spend(1_500)
    assert wait == pytest.approx(60 - 11 + 1, abs=0.02), "two of the first must leave"
    clock.now += wait - 0.1
    assert tested.spend(1_500) == pytest.approx(0.1, abs=0.02)
    clock.now += 0.11
    assert tested.spend(1_500) == 0


async def test_asking_for_the_time_takes_nothing(clock: Clock) -> None:
    tested = meter(Rate(1_000, 60))
    for _ in range(100):
        assert await tested.time_needed(1_000) == 0
    assert tested.spend(1_000) == 0


def test_what_was_refused_costs_nothing(clock: Clock) -> None:
    tested = meter(Rate(1_000, 60))
    assert tested.spend(900) == 0
    for _ in range(50):
        assert tested.spend(200) > 0
    assert tested.spend(100) == 0
    clock.now += 60.01
    assert tested.spend(1_000) == 0


def test_small_amounts_share_a_unit(clock: Clock) -> None:
    tested = meter(Rate(1_000_000, 60))  # a unit of a thousand tokens
    spent = 0
    while tested.spend(10) == 0:
        spent += 10
        clock.now += 1e-5
    assert spent == 1_000_000


def test_a_cost_above_the_window_is_granted_and_owed(clock: Clock) -> None:
    tested = meter(Rate(1_000, 60))
    assert tested.spend(3_500) == 0
    waited = 0.0
    while seconds := tested.spend(100):
        clock.now += seconds
        waited += seconds
    assert 179 <= waited <= 181, "three windows and a half were used, three had to pass before the fourth's rest"


def test_what_waits_behind_a_debt_buys_nothing_that_another_could_spend(clock: Clock) -> None:
    """Else a small cost took what was bought for the large one, which then got all of the next window too."""
    tested = meter(Rate(150, 60))
    assert tested.spend(362) == 0
    while clock.now < START + 128:
        assert tested.spend(362)
        clock.now += 1
    assert tested.spend(30) == 0
    while seconds := tested.spend(362):
        clock.now += seconds
    assert clock.now >= START + 128 + 60


def test_a_clock_that_is_set_locks_nobody_out_and_grants_nothing_twice(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    tested = meter(Rate(1_000, 60))
    assert tested.spend(1_000) == 0
    for step in (-86_400, 86_400):
        monkeypatch.setattr(time, "time", lambda step=step: START + step)
        assert tested.spend(10) == pytest.approx(60)
    clock.now += 60
    assert tested.spend(1_000) == 0


async def test_the_time_for_a_document_is_that_of_its_last_segment(clock: Clock) -> None:
    for spent, tokens in product((0, 2_500, 6_000), (400, 5_000, 6_000, 6_001, 20_000, 36_000)):
        tested, simulated = meter(Rate(6_000, 60)), meter(Rate(6_000, 60))
        for each in (tested, simulated):
            for _ in range(spent // 500):
                assert each.spend(500) == 0
        clock.now += 7
        needed = await tested.time_needed(tokens)
        began = clock.now
        left = float(tokens)
        while left > 0:
            if seconds := simulated.spend(min(6.0, left)):
                clock.now += seconds
            else:
                left -= 6.0
        assert needed == pytest.approx(clock.now - began, abs=0.1)


@pytest.mark.parametrize(
    ("a_second", "amount", "seconds"),
    [(1, 1, 1), (2.5, 5, 2), (0.1, 1, 10), (100, 100, 1), (1 / 3, 1, 3), (0.013, 1, 77), (0.001, 1, 1000)],
)
def test_requests_a_second_become_whole_numbers(a_second: float, amount: int, seconds: int) -> None:
    assert Rate.a_second(a_second) == Rate(amount, seconds)


async def test_a_call_that_cannot_be_done_in_time_is_told_when_it_can(clock: Clock) -> None:
    tested = limiter()
    budget = tested.budget(Client("acme", "acme", Plan("free", tokens_per_minute=6_000)))
    await budget.check(6_000, clock.now + 1)
    assert budget.charge(5_000) == 0
    with pytest.raises(RateLimited) as caught:
        await budget.check(3_000, clock.now + 20)
    assert caught.value.retry_after == pytest.approx(40, abs=0.1)
    assert (caught.value.subject, caught.value.quota) == ("client:acme", "tokens_per_minute")
    assert "3,000 tokens need 60.0 s at 6,000 tokens a minute" in str(caught.value)
    clock.now += caught.value.retry_after or math.inf
    await budget.check(3_000, clock.now + 20)


async def test_a_document_that_never_can_be_is_not_asked_to_come_back(clock: Clock) -> None:
    budget = limiter().budget(Client("acme", "acme", Plan("free", tokens_per_minute=6_000)))
    with pytest.raises(RateLimited, match="allow it more time") as caught:
        await budget.check(60_000, clock.now + 300)
    assert caught.value.retry_after is None
    await budget.check(60_000, clock.now + 541)


async def test_clients_do_not_share_a_budget_and_no_plan_is_no_limit() -> None:
    tested = limiter()
    plan = Plan("free", tokens_per_minute=1_000)
    one, other = (tested.budget(Client(name, "t", plan)) for name in ("one", "other"))
    assert one.charge(1_000) == 0
    assert one.charge(100) > 0
    assert other.charge(1_000) == 0
    assert tested.budget(Client("one", "t", plan)) is one
    free = tested.budget(Client("free", "t"))
    assert free.charge(10**12) == 0
    await free.check(10**12, 0.0)
    await asyncio.sleep(0)


def test_cached_tokens_are_cheap_but_never_free() -> None:
    assert limiter().price(100, 1_000) == pytest.approx(120)
    assert limiter(cached_token_price=0.5).price(0, 10) == 5


def test_what_is_charged_is_counted() -> None:
    registry = CollectorRegistry()
    tested = Limiter(LimitSettings(), Metrics(registry))
    budget = tested.budget(Client("acme", "acme", Plan("free", tokens_per_minute=1_000)))
    assert budget.charge(900.5) == 0
    assert budget.charge(900) > 0
    assert registry.get_sample_value("octavo_charged_tokens_total", {"client": "acme"}) == 900.5
