"""A client's tokens: checked once a document was looked up, charged when a segment is released to be computed."""

import time
from collections.abc import Callable

from server.auth.clients import Client
from server.errors import RateLimited
from server.limits.meter import Meter, Wake

LEAST_WAIT_SECONDS = 0.05  # whoever is refused may have missed by less than the network's jitter


class Budget:
    """What one client may still have computed; amounts are processed tokens, cached ones at their price.

    Attributes:
        meter: of the client's tokens; None if they are unlimited.
    """

    def __init__(self, client: Client, meter: Meter | None, count: Callable[[float], None]) -> None:
        self._client = client
        self.meter = meter
        self._count = count

    def charge(self, tokens: float, wake: Wake | None = None) -> float:
        """Charge all of it, or nothing: 0.0 when charged, else the seconds after which to try again.

        Args:
            tokens: what is about to be released.
            wake: called once if it is worth trying earlier, because a purchase from Redis has ended.

        Raises:
            RateLimited: limits cannot be checked, and that refuses calls.
        """
        seconds = self.meter.spend(tokens, wake) if self.meter else 0.0
        if not seconds:
            self._count(tokens)
        return seconds

    async def check(self, tokens: float, deadline: float) -> None:
        """Refuse a call whose tokens could not all be released by its deadline.

        Args:
            tokens: those of the call, and those of the client's other calls that still wait.
            deadline: of the monotonic clock, in seconds.

        Raises:
            RateLimited: says when to come back, or that no time is right for so many tokens within such a deadline.
        """
        if self.meter is None:
            return
        left = deadline - time.monotonic()
        needed = await self.meter.time_needed(tokens)
        if needed <= left:
            return
        limit = f"{self._client.plan.tokens_per_minute:,} tokens a minute"
        message = f"{tokens:,.0f} tokens need {needed:.1f} s at {limit}; the call has {max(0.0, left):.1f} s left"
        ever = self.meter.least_time(tokens) < left
        raise RateLimited(
            message if ever else f"{message}: allow it more time, or send less at once",
            max(LEAST_WAIT_SECONDS, needed - left) if ever else None,
            subject=f"client:{self._client.name}",
            quota="tokens_per_minute",
        )
