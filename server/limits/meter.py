"""How much of a quota one client has left.

Whole units are bought from the windows and spent as they are needed; what is left of the last one is kept. A purchase
in memory is immediate. One from Redis takes a round trip, which no segment and no event loop should wait for: a lease
of a hundredth of the window is bought at once, in the background, and spent from memory. In any window a server thus
grants at most the rate and what it had left over: a unit, or a lease (with three servers 1.03 times the rate).
"""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.limits.windows import LocalWindows, Quota, SharedWindows, StorageGone

LEASE = 0.01  # of a window
ROUND_TRIP_SECONDS = 0.05  # at most, usually; who waits is woken when the purchase is there
CLOSED_SECONDS = 1.0  # between two attempts while limits cannot be checked
TINY = 1e-9  # sums of prices are not exact


@dataclass(frozen=True, slots=True)
class Windows:
    """Where quotas are counted: in this process always, so that a Redis that lost its memory grants nothing twice.

    Attributes:
        shared: Redis, if several servers share their limits.
        fail_open: without it, count in this process alone; else refuse.
    """

    local: LocalWindows
    shared: SharedWindows | None = None
    fail_open: bool = True


class Meter:
    """Spends a quota. Belongs to one event loop."""

    def __init__(self, quota: Quota, windows: Windows, on_credit: Callable[[], None] = lambda: None) -> None:
        self._quota = quota
        self._windows = windows
        self._on_credit = on_credit
        self._credit = 0.0  # bought and not spent; below 0 after a cost above the whole window
        self._not_before = 0.0  # of the monotonic clock: when the shared windows will sell again
        self._purchase: asyncio.Task[None] | None = None

    def spend(self, amount: float) -> float:
        """Spend so much, or nothing: 0.0 when spent, else the seconds after which to try again.

        A cost above the whole window, which a moving window would refuse for ever, waits until the window is empty
        and leaves a debt that later ones wait for.
        """
        while (missing := self._missing(amount)) > TINY:
            if seconds := self._buy(self._units(missing)):
                return seconds
        self._credit -= amount
        return 0.0

    async def spend_soon(self, amount: float) -> float:
        """Spend like `spend`, but let a purchase that is under way arrive first."""
        while (seconds := self.spend(amount)) and self._purchase:
            await asyncio.shield(self._purchase)
        return seconds

    def wait_for(self, amount: float) -> float:
        """Seconds until so much could be spent, as far as this process knows."""
        if (missing := self._missing(amount)) <= TINY:
            return 0.0
        return max(0.0, self._refused_for(), self._windows.local.wait(self._quota, self._units(missing)))

    async def time_needed(self, amount: float) -> float:
        """Seconds until all of it could be spent, part by part, if nobody else spends.

        What is spent as soon as it can be repeats itself from window to window, so all whole windows but the last
        part's wait take their full time.
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
                seconds = seconds if self._windows.fail_open else max(seconds, CLOSED_SECONDS)
        return windows * rate.seconds + seconds

    def least_time(self, amount: float) -> float:
        """Seconds that it takes even when nothing was spent before."""
        rate = self._quota.rate
        return max(0, math.ceil(amount / rate.amount - TINY) - 1) * rate.seconds

    def _missing(self, amount: float) -> float:
        """How much has to be bought before so much may be spent."""
        return min(amount, self._quota.rate.amount) - self._credit

    def _units(self, amount: float) -> int:
        """The units that hold so much, of one window at most."""
        rate = self._quota.rate
        return min(math.ceil(amount / rate.unit - TINY), rate.units)

    def _refused_for(self) -> float:
        """Seconds for which the shared windows have nothing to sell."""
        return self._not_before - time.monotonic()

    def _buy(self, units: int) -> float:
        """0.0 when they are bought, else the seconds after which to try again."""
        shared = self._windows.shared
        if shared is None or (shared.gone and self._windows.fail_open):
            return self._buy_here(units)
        if (refused := max(self._refused_for(), self._windows.local.wait(self._quota, units))) > 0:
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
            if not self._windows.fail_open:
                self._not_before = time.monotonic() + CLOSED_SECONDS
        finally:
            self._purchase = None
            self._on_credit()
