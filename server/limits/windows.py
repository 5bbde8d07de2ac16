"""Moving windows of the package `limits`: what was taken in the last seconds, in this process or in Redis.

A moving window is exact, where its package's sliding counter grants up to 1.97 times the limit in some windows and a
fixed one twice. It stores an entry for each unit, so units must be few: `Rate.units` of them, whatever the amount.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter as SharedLimiter
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter as LocalLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

UNITS = 1000
REDIS_SECONDS = 0.5  # for one answer; a limiter must not become the slowest part of a call
REDIS_PAUSE_SECONDS = 1.0  # between two attempts while it is gone
SOON_SECONDS = 0.001  # the least that who was refused is told to wait
FUTURE_SECONDS = 1.0  # a clock that was set back by less is waited for

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
        """The rate whose window is as short as whole numbers allow: 2.5 are 5 in 2 seconds, 0.1 is 1 in 10."""
        fraction = Fraction(amount).limit_denominator(max(10, math.ceil(1 / amount)))
        return cls(fraction.numerator, fraction.denominator)

    @property
    def units(self) -> int:
        """Into how many parts the window's amount is divided."""
        return min(self.amount, UNITS)

    @property
    def unit(self) -> float:
        """How much one of them is."""
        return self.amount / self.units


@dataclass(frozen=True, slots=True)
class Quota:
    """A rate, and whose it is; the rate is part of the name, for a unit of another rate is another amount."""

    name: str
    rate: Rate

    @property
    def item(self) -> RateLimitItemPerSecond:
        """The quota in the package's words."""
        return RateLimitItemPerSecond(self.rate.units, self.rate.seconds, namespace=f"{self.name}/{self.rate.amount}")


class Health(Protocol):
    """Who wants to know whether the shared storage answers."""

    def limit_storage(self, *, up: bool) -> None:
        """Count a change, or another fault."""


class LocalWindows:
    """Windows in this process. Everything is immediate, so it may run on the event loop."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = LocalLimiter(self._storage)

    def take(self, quota: Quota, units: int) -> bool:
        """Take so many units, or none."""
        return self._limiter.hit(quota.item, cost=units) or (
            self._is_of_the_future(quota.item) and self._limiter.hit(quota.item, cost=units)
        )

    def wait(self, quota: Quota, units: int) -> float:
        """Seconds until so many units can be taken."""
        item = quota.item
        key, now = item.key_for(), time.time()
        if self._is_of_the_future(item):
            return 0.0
        events = self._storage.events.get(key, ())
        place = item.amount - units  # of the newest entry that has to leave the window first
        return _leaves_in(events[place].atime, item, now) if place < len(events) else 0.0

    def _is_of_the_future(self, item: RateLimitItemPerSecond) -> bool:
        """Forget a window from after the present: the clock was set back, and it would not end before long."""
        key = item.key_for()
        events = self._storage.events.get(key)
        if not events or events[0].atime < time.time() + FUTURE_SECONDS:
            return False
        self._storage.clear(key)
        return True


class SharedWindows:
    """Windows in Redis, which several servers share; their clocks should agree to within a second.

    After a fault it is left alone for a second, so that a Redis that hangs is not waited for by every call.
    """

    def __init__(self, url: str, health: Health, clock: Callable[[], float] = time.monotonic) -> None:
        options: dict[str, Any] = {
            "socket_timeout": REDIS_SECONDS,
            "socket_connect_timeout": REDIS_SECONDS,
            "retry": Retry(NoBackoff(), 1),  # a connection that died with the Redis before is no fault of this one
        }
        self._storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix="octavo", **options)
        self._limiter = SharedLimiter(self._storage)
        self._health = health
        self._clock = clock
        self._again_at: float | None = None  # while it is gone: when to try next
        health.limit_storage(up=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._storage.bridge.get_connection().aclose()  # type: ignore[attr-defined]

    @property
    def gone(self) -> bool:
        """Whether it failed a moment ago, and need not be asked now."""
        return self._again_at is not None and self._clock() < self._again_at

    async def take(self, quota: Quota, units: int) -> float:
        """Take so many units, or none: 0.0 when taken, else the seconds until that can be.

        Raises:
            StorageGone: Redis does not answer.
        """
        if self.gone:
            raise StorageGone
        item = quota.item
        try:
            # What was refused may have room a moment later, when the wait is asked for: it is refused all the same.
            refused = not await self._limiter.hit(item, cost=units)
            seconds = max(SOON_SECONDS, await self._wait(item, units)) if refused else 0.0
        except (RedisError, OSError) as error:
            self._failed(error)
            raise StorageGone from error
        self._answered()
        return seconds

    async def wait(self, quota: Quota, units: int) -> float:
        """Seconds until so many units can be taken.

        Raises:
            StorageGone: Redis does not answer.
        """
        if self.gone:
            raise StorageGone
        try:
            seconds = await self._wait(quota.item, units)
        except (RedisError, OSError) as error:
            self._failed(error)
            raise StorageGone from error
        self._answered()
        return seconds

    async def _wait(self, item: RateLimitItemPerSecond, units: int) -> float:
        bridge = self._storage.bridge
        key = bridge.prefixed_key(item.key_for())
        entry = await bridge.get_connection().lindex(key, item.amount - units)  # type: ignore[attr-defined]
        return 0.0 if entry is None else _leaves_in(float(entry), item, time.time())

    def _failed(self, error: Exception) -> None:
        if self._again_at is None:
            log.warning("limit storage gone", error=type(error).__name__)
        self._again_at = self._clock() + REDIS_PAUSE_SECONDS
        self._health.limit_storage(up=False)

    def _answered(self) -> None:
        if self._again_at is not None:
            self._again_at = None
            log.info("limit storage back")
            self._health.limit_storage(up=True)


def _leaves_in(taken: float, item: RateLimitItemPerSecond, now: float) -> float:
    return max(0.0, taken + item.get_expiry() - now)
