"""A client's tokens: tested when a document was looked up, charged when a segment is released to be computed."""

import asyncio
import time
from collections.abc import Callable

from server.auth.clients import Client
from server.errors import DeadlineExceeded, RateLimited
from server.limits.meter import Meter
from server.types import Priority

LEAST_WAIT_SECONDS = 0.05  # whoever is refused may have missed by less than the network's jitter


class Budget:
    """What one client may still have computed; amounts are processed tokens, cached ones at their price."""

    def __init__(self, client: Client, meter: Meter | None, count: Callable[[float], None]) -> None:
        self._client = client
        self._meter = meter
        self._count = count
        self._turns = {priority: asyncio.Lock() for priority in Priority}

    def charge(self, tokens: float) -> float:
        """Charge a segment that is about to be released: 0.0 when charged, else the seconds after which to try again.

        Nothing is charged then. With limits shared through Redis the wait may be over earlier: see `Limiter.on_credit`.
        """
        seconds = self._meter.spend(tokens) if self._meter else 0.0
        if not seconds:
            self._count(tokens)
        return seconds

    async def pay(self, tokens: float, priority: Priority, deadline: float) -> None:
        """Wait until a segment is charged; within a class, whoever came first is first.

        Args:
            tokens: of the segment.
            priority: the class it is in.
            deadline: of the monotonic clock, in seconds.

        Raises:
            DeadlineExceeded: that came first; nothing was charged.
        """
        turn = self._turns[priority]
        if not turn.locked() and not self.charge(tokens):
            return
        async with turn:
            while seconds := await self._charge_soon(tokens):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded("the deadline passed while the plan's tokens were waited for")
                await asyncio.sleep(min(seconds, left))

    def wait_for(self, tokens: float) -> float:
        """Seconds until so many tokens could be charged; 0.0: at once."""
        return self._meter.wait_for(tokens) if self._meter else 0.0

    async def time_needed(self, tokens: float) -> float:
        """Seconds until all of a document's tokens could have been released at the plan's rate."""
        return await self._meter.time_needed(tokens) if self._meter else 0.0

    async def check(self, tokens: float, deadline: float) -> None:
        """Refuse a call whose tokens could not all be released by its deadline.

        Args:
            tokens: those of the call, and those of the client's other calls that still wait.
            deadline: of the monotonic clock, in seconds.

        Raises:
            RateLimited: says when to come back, or that no time is right for so many tokens within such a deadline.
        """
        if self._meter is None:
            return
        left = deadline - time.monotonic()
        needed = await self._meter.time_needed(tokens)
        if needed <= left:
            return
        limit = f"{self._client.plan.tokens_per_minute:,} tokens a minute"
        message = f"{tokens:,.0f} tokens need {needed:.1f} s at {limit}; the call has {max(0.0, left):.1f} s left"
        ever = self._meter.least_time(tokens) < left
        raise RateLimited(
            message if ever else f"{message}: allow it more time, or send less at once",
            max(LEAST_WAIT_SECONDS, needed - left) if ever else None,
            subject=f"client:{self._client.name}",
            quota="tokens_per_minute",
        )

    async def _charge_soon(self, tokens: float) -> float:
        seconds = await self._meter.spend_soon(tokens) if self._meter else 0.0
        if not seconds:
            self._count(tokens)
        return seconds
