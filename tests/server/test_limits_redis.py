"""Limits that several servers share, against a real Redis."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from benchmarks.redis_server import NoRedis, Redis, running
from server.auth.clients import Client, Plan
from server.config.schema import LimitSettings
from server.errors import RateLimited
from server.limits import Limiter
from server.limits.meter import Meter, Windows
from server.limits.windows import KEY, LocalWindows, Quota, Rate, SharedWindows
from server.telemetry.metrics import Metrics

SOON = 5.0  # seconds; nothing here takes so long unless it is broken
PLAN = Plan("free", tokens_per_minute=60_000, requests_per_second=5)


@pytest.fixture(scope="module")
def one_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    try:
        with running(tmp_path_factory.mktemp("redis")) as redis:
            yield redis
    except NoRedis as reason:
        pytest.skip(str(reason))


@pytest.fixture
def redis(one_redis: Redis) -> Redis:
    """Running, and empty."""
    one_redis.stop()
    one_redis.start()
    return one_redis


@asynccontextmanager
async def limiter(redis: Redis, registry: CollectorRegistry | None = None, **limits: Any) -> AsyncIterator[Limiter]:
    made = Limiter(
        LimitSettings.model_validate({"storage": redis.url, **limits}), Metrics(registry or CollectorRegistry())
    )
    try:
        yield made
    finally:
        await made.close()


class Ignored:
    def limit_storage(self, *, up: bool) -> None:
        pass


async def charge(limiter: Limiter, client: Client, tokens: float, *, patience: float = 0.5) -> bool:
    """Charge as a scheduler does: try, wait until something may have changed, try again."""
    credit = asyncio.Event()
    end = time.monotonic() + patience
    while (seconds := limiter.budget(client).charge(tokens, credit.set)) and time.monotonic() < end:
        credit.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(credit.wait(), min(seconds, patience))
    return not seconds


async def need(limiter: Limiter, client: Client, tokens: float) -> float:
    meter = limiter.budget(client).meter
    assert meter
    return await meter.time_needed(tokens)


async def test_three_servers_on_one_redis_grant_one_rate(redis: Redis) -> None:
    client = Client("acme", "acme", PLAN)
    async with limiter(redis) as one, limiter(redis) as two, limiter(redis) as three:
        granted = [0.0, 0.0, 0.0]

        async def take(index: int, server: Limiter) -> None:
            while await charge(server, client, 450, patience=0.2):
                granted[index] += 450

        await asyncio.gather(*(take(i, server) for i, server in enumerate((one, two, three))))
        assert 0.98 * 60_000 <= sum(granted) <= 1.05 * 60_000
        assert min(granted) > 0.1 * 60_000, "nobody is left out"


async def test_any_window_holds_the_rate_with_three_servers_for_several_windows(redis: Redis) -> None:
    rate = Rate(6_000, 2)
    grants: list[tuple[float, float]] = []

    async def take(seed: int) -> None:
        shared = SharedWindows(redis.url, Ignored())
        meter = Meter(Quota("x", rate), Windows(LocalWindows(), shared))
        end = time.monotonic() + 4.5
        amount = 7.0 + seed
        while time.monotonic() < end:
            if seconds := await meter.spend_soon(amount):
                await asyncio.sleep(min(seconds, 0.01))
            else:
                grants.append((time.monotonic(), amount))
                await asyncio.sleep(0)
        await shared.close()

    await asyncio.gather(*(take(seed) for seed in range(3)))
    grants.sort()
    for begin, _ in grants[::7]:
        # What Redis counted and what came to us are a busy machine's jitter apart: half a second is left to that.
        assert sum(amount for at, amount in grants if begin <= at < begin + 1.5) <= 1.05 * rate.amount
    assert sum(amount for _, amount in grants) > 2 * rate.amount, "several windows were filled"


async def test_a_window_says_when_there_is_room(redis: Redis) -> None:
    quota = Quota("x", Rate(6_000, 2))
    shared, other = SharedWindows(redis.url, Ignored()), SharedWindows(redis.url, Ignored())
    assert await shared.take(quota, 600) == 0
    began = time.monotonic()
    assert await other.take(quota, 300) == 0
    wait = await shared.take(quota, 200)
    assert 2 - (time.monotonic() - began) - 0.5 < wait <= 2
    assert await other.wait(quota, 100) == 0, "what was refused is not taken"
    assert await other.take(quota, 100) == 0
    assert await shared.wait(quota, 700) >= wait - (time.monotonic() - began)
    await asyncio.sleep(wait + 0.01)
    assert await shared.take(quota, 200) == 0
    await shared.close()
    await other.close()


async def test_entries_from_the_future_are_forgotten(redis: Redis) -> None:
    """Else a clock that is set back by a day would block the client for a day."""
    quota = Quota("x", Rate(6_000, 2))
    shared = SharedWindows(redis.url, Ignored())
    await shared._redis.rpush(KEY.format(name="x", amount=6_000, seconds=2), f"{(time.time() + 86_400) * 1e6:.0f}:1000")
    assert await shared.take(quota, 1_000) == 0
    assert 0 < await shared.take(quota, 1) <= 2
    await shared.close()


async def test_what_servers_have_left_over_adds_little_to_the_next_window(redis: Redis) -> None:
    rate = Rate(6_000, 2)
    shared = [SharedWindows(redis.url, Ignored()) for _ in range(3)]
    meters = [Meter(Quota("x", rate), Windows(LocalWindows(), each)) for each in shared]
    for meter in meters:
        assert await meter.spend_soon(1) == 0
    await asyncio.sleep(2.05)
    granted = 0
    for meter in meters:
        while await meter.spend_soon(10) == 0:
            granted += 10
    assert rate.amount <= granted <= 1.05 * rate.amount
    for each in shared:
        await each.close()


async def test_charging_does_not_wait_for_redis(redis: Redis) -> None:
    client = Client("acme", "acme", PLAN)
    async with limiter(redis) as tested:
        began = time.perf_counter()
        tested.budget(client).charge(450)
        assert time.perf_counter() - began < 0.02
        assert await charge(tested, client, 450)
        assert tested.budget(client).charge(100) == 0, "what is left of the lease is spent without asking"


async def test_the_time_needed_counts_what_others_took(redis: Redis) -> None:
    client = Client("acme", "acme", PLAN)
    async with limiter(redis) as one, limiter(redis) as two:
        assert await charge(one, client, 50_000)
        assert await need(two, client, 5_000) == 0
        assert await need(two, client, 20_000) == pytest.approx(60, abs=1)
        assert await need(two, client, 80_000) == pytest.approx(120, abs=1)


async def test_requests_are_shared_too(redis: Redis) -> None:
    client = Client("acme", "acme", PLAN)
    async with limiter(redis) as one, limiter(redis) as two:
        meters = [server.requests(client) for server in (one, two)]
        taken = [await meter.spend_soon(1) for _ in range(4) for meter in meters if meter]
    assert sum(seconds == 0 for seconds in taken) == 5
    assert all(0 < seconds <= 1 for seconds in taken if seconds)


async def test_a_redis_that_is_gone_lets_this_server_count_alone(redis: Redis) -> None:
    registry, client = CollectorRegistry(), Client("acme", "acme", PLAN)
    async with limiter(redis, registry) as tested:
        assert await charge(tested, client, 30_000)
        assert registry.get_sample_value("octavo_limit_storage_up") == 1
        redis.stop()
        with capture_logs() as told:
            assert await charge(tested, client, 20_000, patience=2)
            assert not await charge(tested, client, 20_000, patience=0.2), "what it granted itself still counts"
            assert await need(tested, client, 20_000) == pytest.approx(60, abs=3)
            await asyncio.sleep(1.2)
            assert await charge(tested, client, 5_000, patience=2)
        assert [line["event"] for line in told] == ["limit storage gone"], "once, however often"
        assert registry.get_sample_value("octavo_limit_storage_up") == 0
        assert (registry.get_sample_value("octavo_limit_storage_faults_total") or 0) >= 1


async def test_a_redis_that_is_gone_refuses_when_asked_to(redis: Redis) -> None:
    client, free = Client("acme", "acme", PLAN), Client("free", "free")
    async with limiter(redis, when_storage_fails="closed") as tested:
        assert await charge(tested, client, 450)
        redis.stop()
        with pytest.raises(RateLimited, match="does not answer") as refused:
            await charge(tested, client, 20_000, patience=SOON)
        assert refused.value.retry_after == 1.0
        assert (refused.value.subject, refused.value.quota) == ("client:acme", "tokens_per_minute")
        with pytest.raises(RateLimited, match="does not answer"):
            await tested.budget(client).check(20_000, time.monotonic() + 3600)
        requests = tested.requests(client)
        assert requests
        with pytest.raises(RateLimited, match="does not answer") as refused:
            await requests.spend_soon(1)
        assert refused.value.quota == "requests_per_second"
        assert tested.budget(client).charge(100) == 0, "what is left of the lease was counted"
        assert tested.budget(free).charge(20_000) == 0, "who has no limit needs no storage"
        redis.start()
        await asyncio.sleep(1.1)
        assert await charge(tested, client, 20_000, patience=SOON)


@pytest.mark.parametrize("broken", ["_script", "take"], ids=["a fault of the storage", "a fault of ours"])
@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("can't start new thread")])
async def test_a_purchase_that_fails_wakes_whoever_waits(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, error: Exception, broken: str
) -> None:
    client = Client("acme", "acme", PLAN)
    async with limiter(redis) as tested:

        async def fail(*arguments: object) -> None:
            raise error

        assert tested._shared
        with monkeypatch.context() as patch:
            patch.setattr(tested._shared, broken, fail)
            woken = asyncio.Event()
            assert tested.budget(client).charge(450, woken.set)
            await asyncio.wait_for(woken.wait(), SOON)
            assert tested.budget(client).charge(450) == 0, "it counts alone for a while"
        tested._shared._again_at = 0.0  # the while is over
        assert await charge(tested, client, 700)
        assert not tested._shared.gone


async def test_a_redis_that_comes_back_is_used_again_and_grants_nothing_twice(redis: Redis) -> None:
    registry, client = CollectorRegistry(), Client("acme", "acme", PLAN)
    async with limiter(redis, registry) as tested:
        assert await charge(tested, client, 50_000)
        redis.stop()
        redis.start()  # without its memory
        assert await charge(tested, client, 5_000, patience=3), "connections that died with it are no fault"
        assert registry.get_sample_value("octavo_limit_storage_up") == 1
        assert not await charge(tested, client, 10_000, patience=0.3)
    async with limiter(redis) as other:
        assert not await charge(other, client, 58_000, patience=0.3), "the new one has counted what came after"


async def test_a_redis_that_hangs_costs_a_second_once(redis: Redis) -> None:
    silent = await asyncio.start_server(lambda _, __: asyncio.sleep(60), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    client = Client("acme", "acme", PLAN)
    made = Limiter(LimitSettings.model_validate({"storage": f"redis://127.0.0.1:{port}"}), Metrics(CollectorRegistry()))
    meter = made.requests(client)
    assert meter
    began = time.monotonic()
    assert await meter.spend_soon(1) == 0
    first = time.monotonic() - began
    assert await meter.spend_soon(1) == 0
    assert time.monotonic() - began - first < 0.1
    assert first < 2
    await made.close()
    silent.close()


async def test_storage_in_redis_stays_small(redis: Redis) -> None:
    client = Client("acme", "acme", Plan("big", tokens_per_minute=10**9))
    async with limiter(redis) as tested:
        assert await charge(tested, client, 9 * 10**8)
        shared = tested._shared
        assert shared
        connection: Any = shared._redis
        (key,) = await connection.keys("*")
        assert key.startswith(b"octavo:")
        assert await connection.llen(key) <= 1_000
        assert 0 < await connection.ttl(key) <= 60
