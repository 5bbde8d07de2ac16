"""What a call must pass before a byte of its request is read: places for calls, and room for their bytes."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from server.auth.clients import Client
from server.config.schema import LimitSettings
from server.errors import QueueFull, RateLimited
from server.limits.arrivals import Arrivals
from server.limits.limiter import Limiter
from server.telemetry.metrics import Metrics

T = TypeVar("T")

SMALL_BYTES = 16 << 10
"""Always has room: the number of calls bounds it, and a few large requests must not keep out everybody."""

SMOOTHING = 0.05  # weight of one call in the estimate of how long calls take
FIRST_GUESS_SECONDS = 0.1
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 5.0


class Admission:
    """Counts calls and bytes, of each client and of all. Belongs to one event loop.

    A client's first call may take whatever is left. With further ones, a client may hold as much as is left for the
    others: none can hold everything (dynamic thresholds; Choudhury and Hahne, 1998).
    """

    def __init__(self, limiter: Limiter, settings: LimitSettings, metrics: Metrics) -> None:
        self._arrivals = Arrivals()
        self._limiter = limiter
        self._max_calls = settings.max_concurrent
        self._max_streams = settings.max_bulk_streams
        self._max_bytes = settings.max_bytes_in_flight
        self._metrics = metrics
        self._streams: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()  # by client; no client without calls
        self._bytes: Counter[str] = Counter()
        self._freed = asyncio.Event()
        self._usual_seconds = FIRST_GUESS_SECONDS

    @asynccontextmanager
    async def enter(self, client: Client, *, streams_requests: bool = False) -> AsyncGenerator["Slot", None]:
        """Hold a place for a call while it is answered.

        Args:
            client: who calls.
            streams_requests: whether any number of requests follow. gRPC may hold a message of each such call at any
                time, so these have a bound of their own.

        Raises:
            RateLimited: the client has used up what its plan allows.
            QueueFull: the server has no room for anybody.
        """
        self._check_calls(client, streams_requests=streams_requests)
        slot = Slot(self, client, self._arrivals)
        self._calls[client.name] += 1
        self._streams[client.name] += streams_requests
        try:
            await self.spend(client)
            began = time.monotonic()
            yield slot
            self._usual_seconds += SMOOTHING * (time.monotonic() - began - self._usual_seconds)
        finally:
            self._streams[client.name] -= streams_requests
            self._calls[client.name] -= 1
            if not self._calls[client.name]:
                del self._calls[client.name], self._streams[client.name]
            if not slot.lingers:
                slot.release()

    def has_room(self, client: Client, size: int, held: int) -> bool:
        """Whether a call that holds some bytes may have more. What exceeds a limit by itself may when it is alone."""
        own = client.plan.max_bytes_in_flight
        small = held + size <= SMALL_BYTES
        fits = small or _fits(self._bytes, client, min(size, self._max_bytes), self._max_bytes, held)
        return fits and (own is None or self._bytes[client.name] + min(size, own) <= own)

    def check_room(self, client: Client, size: int, held: int) -> None:
        """Refuse a call that holds some bytes more of them, where there is no room.

        Raises:
            RateLimited: the client's plan allows no more.
            QueueFull: the server has no room for anybody's.
        """
        own = client.plan.max_bytes_in_flight
        if own is not None and held + size > own:
            message = f"{held + size:,} bytes; the plan allows {own:,}"
            raise self._limited(client, "max_bytes_in_flight", message, ever=False)
        if own is not None and self._bytes[client.name] + size > own:
            raise self._limited(client, "max_bytes_in_flight", f"calls of {own:,} bytes are being answered already")
        if not self.has_room(client, size, held):
            raise QueueFull("the server has no more room for the bytes of this client's calls", self._usual_wait)

    def change(self, client: Client, size: int) -> None:
        """Count bytes that came in, or left."""
        self._bytes[client.name] += size
        if not self._bytes[client.name]:
            del self._bytes[client.name]
        self._metrics.request_bytes_in_flight.set(self._bytes.total())
        if size < 0:
            self._freed.set()

    async def spend(self, client: Client) -> None:
        """Count a call, or a stream's request that counts as one.

        Raises:
            RateLimited: the client's plan allows no more of them now.
        """
        meter = self._limiter.requests(client)
        if meter and (seconds := await meter.spend_soon(1)):
            limit = client.plan.requests_per_second
            raise RateLimited(
                f"the plan {client.plan.name} allows {limit:g} calls a second",
                seconds,
                subject=f"client:{client.name}",
                quota="requests_per_second",
            )

    async def wait_for_room(self) -> None:
        """Wait until some bytes have left."""
        self._freed.clear()
        await self._freed.wait()

    def _check_calls(self, client: Client, *, streams_requests: bool) -> None:
        own = client.plan.max_concurrent
        if own is not None and self._calls[client.name] >= own:
            raise self._limited(client, "max_concurrent", f"{own} calls are being answered already, as many as allowed")
        if not _fits(self._calls, client, 1, self._max_calls):
            raise QueueFull(f"of {self._max_calls} calls at a time no more are left for this client", self._usual_wait)
        if streams_requests and not _fits(self._streams, client, 1, self._max_streams):
            message = f"of {self._max_streams} streams of documents at a time no more are left for this client"
            raise QueueFull(message, self._usual_wait)

    def _limited(self, client: Client, quota: str, message: str, *, ever: bool = True) -> RateLimited:
        wait = self._usual_wait if ever else None
        return RateLimited(message, wait, subject=f"client:{client.name}", quota=quota)

    @property
    def _usual_wait(self) -> float:
        """When a place may be free: after as long as calls take of late."""
        return min(max(self._usual_seconds, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)


def _fits(taken: Counter[str], client: Client, more: int, most: int, held: int = 0) -> bool:
    """Whether a client may have more of what all share; `held` is what the call itself has."""
    left = most - taken.total()
    others = taken[client.name] - held
    return more <= left and (not others or taken[client.name] + more <= left)


class Slot:
    """One call's place, and the bytes that are held for it.

    Attributes:
        busy: how many documents of a stream are being answered.
        lingers: its bytes outlive its place: gRPC still holds a reply that nobody reads.
    """

    def __init__(self, admission: Admission, client: Client, arrivals: Arrivals) -> None:
        self._admission = admission
        self._client = client
        self._arrivals = arrivals
        self._size = 0
        self.busy = 0
        self.lingers = False

    async def receive(self, read: Callable[[], Awaitable[T]]) -> T:
        """Wait for the call's only request, or for a stream's first.

        Raises:
            QueueFull: it took long to arrive, and others needed its place.
        """
        return await self._arrivals.receive(self._client.name, read)

    async def spend(self) -> None:
        """Count a stream's request as a call.

        Raises:
            RateLimited: the client's plan allows no more of them now.
        """
        await self._admission.spend(self._client)

    @contextmanager
    def for_now(self) -> Iterator[None]:
        """Stop counting at the end what is counted inside: a stream's answer has gone. After a fault it counts on."""
        before = self._size
        yield
        self._change(before - self._size)

    def hold_again(self, size: int) -> None:
        """Count bytes of a message that is held already, in another form, for which it must not wait."""
        self._change(size)

    def hold(self, size: int) -> None:
        """Count bytes of a request or of a reply.

        Raises:
            RateLimited, QueueFull: there is no room for them.
        """
        self._admission.check_room(self._client, size, self._size)
        self._change(size)

    async def hold_soon(self, size: int) -> None:
        """Count bytes as soon as there is room for them."""
        while not self._admission.has_room(self._client, size, self._size):
            await self._admission.wait_for_room()
        self._change(size)

    def give_back(self, size: int) -> None:
        """Stop counting bytes."""
        self._change(-size)

    def release(self) -> None:
        """Stop counting all that is still held."""
        self._change(-self._size)

    def _change(self, size: int) -> None:
        self._admission.change(self._client, size)
        self._size += size
