"""How much of a quota one client has left.

Whole units are bought from the windows and spent as needed; the rest of the last one is kept. A purchase in memory is
immediate. One from Redis takes a round trip, for which neither a segment nor the event loop should wait: a lease of a
hundredth of the window is bought at once, in the background, and spent from memory. In any window a server thus grants
at most the rate and what it had left over: a unit, or a lease (with three servers 1.03 times the rate).
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.errors import RateLimited
from server.limits.windows import LocalWindows, Quota, SharedWindows, StorageGone

LEASE = 0.01  # of a window
ROUND_TRIP_SECONDS = 0.05  # a purchase usually takes less; whoever waits is woken when it ends
CLOSED_SECONDS = 1.0  # after which to retry while limits cannot be checked
TINY = 1e-9  # sums of prices are not exact

Wake = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Windows:
    """Where quotas are counted: in this process always, so that a Redis that lost its memory grants nothing twice.

    Attributes:
        shared: Redis, if several servers share their limits.
        fail_open: while Redis is unavailable, count in this process alone; else refuse.
    """

    local: LocalWindows
    shared: SharedWindows | None = None
    fail_open: bool = True


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of a quota is left, and the seconds until all of it is."""

    limit: int
    left: int
    reset_seconds: float


class Meter:
    """Spends a client's quota. Belongs to one event loop.

    Args:
        quota: what is spent.
        windows: where it is counted.
        subject: whose quota it is, for refusals.
        setting: the plan's setting that it comes from, for refusals.
    """

    def __init__(self, quota: Quota, windows: Windows, subject: str = "", setting: str = "") -> None:
        self._quota = quota
        self._windows = windows
        self._subject = subject
        self._setting = setting
        self._credit = 0.0  # bought and not spent; below 0 after a cost above the whole window
        self._not_before = 0.0  # of the monotonic clock: when the shared windows will sell again
        self._purchase: asyncio.Task[None] | None = None
        self._wakes: list[Wake] = []

    def spend(self, amount: float, wake: Wake | None = None) -> float:
        """Spend so much, or nothing: 0.0 when spent, else the seconds after which to try again.

        A cost above the whole window, which a moving window would refuse for ever, waits until the window is empty
        and leaves a debt that later ones wait for.

        Args:
            amount: what to spend.
            wake: called once, on the event loop, when a purchase that is under way ends.

        Raises:
            RateLimited: limits cannot be checked, and that refuses calls.
        """
        while (missing := self._missing(amount)) > TINY:
            if seconds := self._buy(self._units(missing)):
                if wake and self._purchase:
                    self._wakes.append(wake)
                return seconds
        self._credit -= amount
        return 0.0

    async def spend_soon(self, amount: float) -> float:
        """Spend like `spend`, but let a purchase that is under way arrive first.

        Raises:
            RateLimited: limits cannot be checked, and that refuses calls.
        """
        while (seconds := self.spend(amount)) and self._purchase:
            await asyncio.shield(self._purchase)
        return seconds

    @property
    def standing(self) -> "Standing":
        """What is left of the quota, as far as this process counts it."""
        used, full_again = self._windows.local.used(self._quota)
        rate = self._quota.rate
        left = rate.amount - used * rate.unit + self._credit
        return Standing(rate.amount, max(0, int(left)), full_again)

    async def time_needed(self, amount: float) -> float:
        """Seconds until all of it could be spent, part by part, if nobody else spends.

        What is spent as soon as possible repeats itself from window to window, so all windows but the last part's
        take their full time.

        Raises:
            RateLimited: limits cannot be checked, and that refuses calls.
        """
        rate = self._quota.rate
        missing = amount - self._credit
        if missing <= TINY:
            return 0.0
        windows = math.ceil(missing / rate.amount - TINY) - 1
        units = self._units(missing - windows * rate.amount)
        seconds = self._windows.local.wait(self._quota, units)
        if self._windows.shared:
            try:
                seconds = max(seconds, await self._windows.shared.wait(self._quota, units))
            except StorageGone:
                if not self._windows.fail_open:
                    raise self._closed() from None
        return windows * rate.seconds + seconds

    def least_time(self, amount: float) -> float:
        """Seconds that it takes even if nothing was spent before."""
        rate = self._quota.rate
        return max(0, math.ceil(amount / rate.amount - TINY) - 1) * rate.seconds

    def _missing(self, amount: float) -> float:
        """How much has to be bought before so much may be spent; first of all a debt, if a window does not hold both.

        Else what is left of a window beside the debt would be bought for a cost that still has to wait, and another
        could spend it on top of the next window.
        """
        window = self._quota.rate.amount
        missing = min(amount, window) - self._credit
        return missing if missing <= window else -self._credit

    def _units(self, amount: float) -> int:
        """The units that hold so much, of one window at most."""
        rate = self._quota.rate
        return min(math.ceil(amount / rate.unit - TINY), rate.units)

    def _buy(self, units: int) -> float:
        """0.0 when they are bought, else the seconds after which to try again."""
        shared = self._windows.shared
        if shared is None:
            return self._buy_here(units)
        if shared.gone:
            if self._windows.fail_open:
                return self._buy_here(units)
            raise self._closed()
        refused = max(self._not_before - time.monotonic(), self._windows.local.wait(self._quota, units))
        if refused > 0:
            return refused
        if self._purchase is None:
            self._purchase = asyncio.get_running_loop().create_task(self._buy_there(shared, units))
        return ROUND_TRIP_SECONDS

    def _buy_here(self, units: int) -> float:
        if not self._windows.local.take(self._quota, units):
            return max(TINY, self._windows.local.wait(self._quota, units))
        self._credit += units * self._quota.rate.unit
        return 0.0

    async def _buy_there(self, shared: SharedWindows, units: int) -> None:
        lease = max(units, int(LEASE * self._quota.rate.units))
        if self._windows.local.wait(self._quota, lease):
            lease = units
        try:
            seconds = await shared.take(self._quota, lease)
            if seconds and lease > units:
                lease = units
                seconds = await shared.take(self._quota, lease)
            if seconds:
                self._not_before = time.monotonic() + seconds
            else:
                self._buy_here(lease)
        except StorageGone:
            pass  # `shared.gone` tells
        except Exception as error:  # noqa: BLE001 - an error of ours must not leave clients asleep, nor make them spin
            shared.failed(error)
        finally:
            self._purchase = None
            wakes, self._wakes = self._wakes, []
            for wake in wakes:
                asyncio.get_running_loop().call_soon(wake)

    def _closed(self) -> RateLimited:
        return RateLimited(
            "the storage that counts limits does not answer", CLOSED_SECONDS, subject=self._subject, quota=self._setting
        )
