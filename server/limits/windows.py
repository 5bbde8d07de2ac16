"""Moving windows: what was taken in the last seconds, counted in this process or in Redis.

A moving window is exact; a fixed one grants twice the limit around its boundary. It keeps an entry for each purchase,
so purchases must be few: amounts are sold in at most `UNITS` units a window.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import structlog

UNITS = 1000
REDIS_SECONDS = 0.5  # for one answer; a limiter must not become the slowest part of a call
REDIS_PAUSE_SECONDS = 1.0  # between two attempts while it is unavailable
MICROSECONDS = 1e6

# One entry for each purchase, "microseconds:units", oldest first. The time is Redis' own: the servers' clocks need not
# agree. If that clock was set back, entries from the future are forgotten; they would block the client until then.
SCRIPT = """
local limit, window, units, take = tonumber(ARGV[1]), tonumber(ARGV[2]) * 1e6, tonumber(ARGV[3]), ARGV[4] == '1'
local clock = redis.call('TIME')
local now = clock[1] * 1e6 + clock[2]
local times, amounts, used = {}, {}, 0
for _, entry in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    local at, amount = entry:match('(%d+):(%d+)')
    at, amount = tonumber(at), tonumber(amount)
    if at > now + 1e6 then
        redis.call('DEL', KEYS[1])
        times, amounts, used = {}, {}, 0
        break
    elseif at + window <= now then
        redis.call('LPOP', KEYS[1])
    else
        table.insert(times, at)
        table.insert(amounts, amount)
        used = used + amount
    end
end
local missing = used + units - limit
for i, at in ipairs(times) do
    if missing <= 0 then break end
    missing = missing - amounts[i]
    if missing <= 0 then return string.format('%.0f', at + window - now) end
end
if take then
    redis.call('RPUSH', KEYS[1], string.format('%.0f:%d', now, units))
    redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return '0'
"""
KEY = "octavo:2:{name}/{amount}/{seconds}"  # 2: the version of the entries

log = structlog.get_logger(__name__)


class StorageGone(Exception):
    """The shared storage does not answer."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `amount` of something in any `seconds`."""

    amount: int
    seconds: int

    @classmethod
    def a_second(cls, amount: float) -> "Rate":
        """The rate with the shortest window in whole numbers: 2.5 is 5 in 2 seconds, 0.1 is 1 in 10."""
        fraction = Fraction(amount).limit_denominator(max(10, math.ceil(1 / amount)))
        return cls(fraction.numerator, fraction.denominator)

    @property
    def units(self) -> int:
        """Into how many parts the window's amount is divided."""
        return min(self.amount, UNITS)

    @property
    def unit(self) -> float:
        """The amount of one part."""
        return self.amount / self.units


@dataclass(frozen=True, slots=True)
class Quota:
    """A rate and whose it is. The rate is part of the identity, since it decides what a unit is worth."""

    name: str
    rate: Rate


class Health(Protocol):
    """Is told whether the shared storage answers."""

    def limit_storage(self, *, up: bool) -> None:
        """Count a change, or another fault."""


@dataclass(slots=True)
class _Window:
    """Purchases of the last seconds, oldest first."""

    entries: deque[tuple[float, int]] = field(default_factory=deque)
    used: int = 0


class LocalWindows:
    """Windows in this process; nothing blocks."""

    def __init__(self) -> None:
        self._windows: dict[Quota, _Window] = {}

    def take(self, quota: Quota, units: int) -> bool:
        """Take so many units, or none."""
        window = self._current(quota)
        if window.used + units > quota.rate.units:
            return False
        window.entries.append((time.monotonic(), units))
        window.used += units
        return True

    def wait(self, quota: Quota, units: int) -> float:
        """Seconds until so many units can be taken."""
        window = self._current(quota)
        missing = window.used + units - quota.rate.units
        if missing <= 0:
            return 0.0
        for at, amount in window.entries:
            missing -= amount
            if missing <= 0:
                return at + quota.rate.seconds - time.monotonic()
        return float(quota.rate.seconds)

    def used(self, quota: Quota) -> tuple[int, float]:
        """Units taken, and the seconds until all of them can be taken again."""
        window = self._current(quota)
        last = window.entries[-1][0] if window.entries else 0.0
        return window.used, max(0.0, last + quota.rate.seconds - time.monotonic())

    def _current(self, quota: Quota) -> _Window:
        """A quota's window, without what has left it."""
        window = self._windows.setdefault(quota, _Window())
        start = time.monotonic() - quota.rate.seconds
        while window.entries and window.entries[0][0] <= start:
            window.used -= window.entries.popleft()[1]
        return window


class SharedWindows:
    """Windows in Redis, shared by several servers.

    After a fault Redis is left alone for a second, so that not every call waits for one that hangs.
    """

    def __init__(self, url: str, health: Health, clock: Callable[[], float] = time.monotonic) -> None:
        from redis.asyncio import Redis  # noqa: PLC0415 - for those who use it
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        self._redis = Redis.from_url(
            url.replace("redis+unix://", "unix://"),
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1),  # connections that died with the previous Redis are no fault of this one
        )
        self._script = self._redis.register_script(SCRIPT)
        self._health = health
        self._clock = clock
        self._again_at: float | None = None  # while it is unavailable: when to try next
        health.limit_storage(up=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    @property
    def gone(self) -> bool:
        """Whether it failed a moment ago and should not be asked now."""
        return self._again_at is not None and self._clock() < self._again_at

    async def take(self, quota: Quota, units: int) -> float:
        """Take so many units, or none: 0.0 when taken, else the seconds until that is possible.

        Raises:
            StorageGone: Redis does not answer.
        """
        return await self._run(quota, units, take=True)

    async def wait(self, quota: Quota, units: int) -> float:
        """Seconds until so many units can be taken.

        Raises:
            StorageGone: Redis does not answer.
        """
        return await self._run(quota, units, take=False)

    def failed(self, error: Exception) -> None:
        """Leave Redis alone for a while."""
        if self._again_at is None:
            log.warning("limit storage gone", error=type(error).__name__)
        self._again_at = self._clock() + REDIS_PAUSE_SECONDS
        self._health.limit_storage(up=False)

    async def _run(self, quota: Quota, units: int, *, take: bool) -> float:
        if self.gone:
            raise StorageGone
        rate = quota.rate
        key = KEY.format(name=quota.name, amount=rate.amount, seconds=rate.seconds)
        try:
            microseconds = await self._script([key], [rate.units, rate.seconds, units, int(take)])
        except Exception as error:  # whatever it is (no socket, no thread for DNS): limits cannot be counted there
            self.failed(error)
            raise StorageGone from error
        if self._again_at is not None:
            self._again_at = None
            log.info("limit storage back")
            self._health.limit_storage(up=True)
        return float(microseconds) / MICROSECONDS
