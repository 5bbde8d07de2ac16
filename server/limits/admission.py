"""Stage one: what a call must pass before a byte of its request is parsed."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager

from server.auth.clients import Client
from server.config.schema import LimitSettings
from server.errors import QueueFull, RateLimited
from server.limits.limiter import Limiter
from server.telemetry.metrics import Metrics

SMOOTHING = 0.05  # of one call in the estimate of how long calls take
FIRST_GUESS_SECONDS = 0.1
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 5.0


class Admission:
    """Counts calls and bytes, of each client and of all. Belongs to one event loop."""

    def __init__(self, limiter: Limiter, settings: LimitSettings, metrics: Metrics) -> None:
        self._limiter = limiter
        self._max_calls = settings.max_concurrent
        self._max_bytes = settings.max_bytes_in_flight
        self._metrics = metrics
        self._calls: Counter[str] = Counter()  # by client; nobody without calls
        self._bytes: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self._usual_seconds = FIRST_GUESS_SECONDS

    @asynccontextmanager
    async def enter(self, client: Client, size: int) -> AsyncGenerator["Slot", None]:
        """Hold a place for a call, and for `size` bytes of its request, while it is being answered.

        Raises:
            RateLimited: the client has used up what its plan allows.
            QueueFull: the server has no room for anybody.
        """
        self._check_calls(client)
        self._check_bytes(client, size)
        slot = Slot(self, client)
        self._calls[client.name] += 1
        self.change(client, size)
        slot.size = size
        try:
            await self._spend(client)
            began = time.monotonic()
            yield slot
            self._usual_seconds += SMOOTHING * (time.monotonic() - began - self._usual_seconds)
        finally:
            self._calls[client.name] -= 1
            if not self._calls[client.name]:
                del self._calls[client.name]
            self.change(client, -slot.size)

    def has_room(self, client: Client, size: int) -> bool:
        """Whether so many more bytes may come in; more than are allowed may when there are no others."""
        own = client.plan.max_bytes_in_flight
        fits = self._bytes.total() + min(size, self._max_bytes) <= self._max_bytes
        return fits and (own is None or self._bytes[client.name] + min(size, own) <= own)

    def change(self, client: Client, size: int) -> None:
        """Count bytes that came in, or left."""
        self._bytes[client.name] += size
        if not self._bytes[client.name]:
            del self._bytes[client.name]
        self._metrics.request_bytes_in_flight.set(self._bytes.total())
        if size < 0:
            self._freed.set()

    async def wait_for_room(self) -> None:
        """Wait until some bytes have left."""
        self._freed.clear()
        await self._freed.wait()

    def _check_calls(self, client: Client) -> None:
        own = client.plan.max_concurrent
        if own is not None and self._calls[client.name] >= own:
            raise self._limited(client, "max_concurrent", f"{own} calls are being answered already, as many as allowed")
        if self._calls.total() >= self._max_calls:
            raise QueueFull(f"the server answers {self._max_calls} calls already", self._usual_wait)

    def _check_bytes(self, client: Client, size: int) -> None:
        own = client.plan.max_bytes_in_flight
        if own is not None and size > own:
            raise self._limited(client, "max_bytes_in_flight", f"{size:,} bytes; the plan allows {own:,}", ever=False)
        if own is not None and self._bytes[client.name] + size > own:
            raise self._limited(client, "max_bytes_in_flight", f"requests of {own:,} bytes are being answered already")
        if self._bytes.total() + size > self._max_bytes:
            raise QueueFull("the server holds as many bytes of requests as it has room for", self._usual_wait)

    async def _spend(self, client: Client) -> None:
        meter = self._limiter.requests(client)
        if meter and (seconds := await meter.spend_soon(1)):
            limit = client.plan.requests_per_second
            raise RateLimited(
                f"the plan {client.plan.name} allows {limit:g} calls a second",
                seconds,
                subject=f"client:{client.name}",
                quota="requests_per_second",
            )

    def _limited(self, client: Client, quota: str, message: str, *, ever: bool = True) -> RateLimited:
        wait = self._usual_wait if ever else None
        return RateLimited(message, wait, subject=f"client:{client.name}", quota=quota)

    @property
    def _usual_wait(self) -> float:
        """When a place may be free: after as long as calls take of late."""
        return min(max(self._usual_seconds, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)


class Slot:
    """One call's place.

    Attributes:
        size: bytes of its request that are held.
    """

    def __init__(self, admission: Admission, client: Client) -> None:
        self._admission = admission
        self._client = client
        self.size = 0

    async def following(self, messages: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
        """Hand on a stream's messages, each held until the next is asked for; without room the stream waits."""
        async for message in messages:
            self._hold(0)
            while not self._admission.has_room(self._client, len(message)):
                await self._admission.wait_for_room()
            self._hold(len(message))
            yield message
        self._hold(0)

    def _hold(self, size: int) -> None:
        self._admission.change(self._client, size - self.size)
        self.size = size
