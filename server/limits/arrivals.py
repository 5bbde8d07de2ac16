"""Requests whose bytes are still arriving.

gRPC shows nothing of a message before it is whole, not even its length, so each may hold as much memory as the longest
message allowed. Only their number bounds the memory. Most requests are whole within milliseconds, and pass through a
few quick places. Clients take turns at those, and a client's newest request comes first, so that a flood of stalled
requests delays itself. What takes longer needs one of a few slow places. When all are taken, a client that holds more
of them than others loses its oldest, and so does whoever has taken too long; otherwise the newcomer is refused.
"""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from server.errors import QueueFull

T = TypeVar("T")

QUICK_PLACES = 3
QUICK_SECONDS = 0.005  # with 20 ms, 200 stalled requests of 9 MiB held three times as much memory
QUICK_TRIES = 4  # while the event loop is late: what it has not seen yet may have arrived
SLOW_PLACES = 3
SLOW_SECONDS = 10.0  # after which a slow place must be given up to a newcomer
RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Slow:
    client: str
    since: float
    evicted: asyncio.Future[Any]


class Arrivals:
    """Bounds how many requests arrive at the same time. Belongs to one event loop."""

    def __init__(self) -> None:
        self._free = QUICK_PLACES
        self._waiting: OrderedDict[str, list[asyncio.Future[None]]] = OrderedDict()  # for a quick place, by client
        self._slow: list[_Slow] = []  # oldest first

    async def receive(self, client: str, read: Callable[[], Awaitable[T]]) -> T:
        """Wait for a message.

        Raises:
            QueueFull: it took long to arrive, and others needed its place.
        """
        await self._enter(client)
        arriving = asyncio.ensure_future(read())
        try:
            try:
                for _ in range(QUICK_TRIES):
                    began = time.monotonic()
                    if not (await asyncio.wait({arriving}, timeout=QUICK_SECONDS))[0]:
                        await asyncio.sleep(0)  # after a pause of the loop the timer runs before what arrived meanwhile
                    if arriving.done() or time.monotonic() - began < 1.5 * QUICK_SECONDS:
                        break
            finally:
                self._leave()
            if not arriving.done():
                await self._receive_slowly(client, arriving)
            return arriving.result()
        finally:
            arriving.cancel()

    async def _enter(self, client: str) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(client, []).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn in self._waiting.get(client, ()):
                self._remove(client, turn)
            elif turn.done() and not turn.cancelled():  # its turn came in the moment that it left
                self._leave()
            raise

    def _remove(self, client: str, turn: asyncio.Future[None]) -> None:
        self._waiting[client].remove(turn)
        if not self._waiting[client]:
            del self._waiting[client]

    def _leave(self) -> None:
        while self._waiting:
            client, turns = self._waiting.popitem(last=False)
            turn = turns.pop()
            if turns:
                self._waiting[client] = turns  # behind the others
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _receive_slowly(self, client: str, arriving: "asyncio.Future[Any]") -> None:
        loop = asyncio.get_running_loop()
        if len(self._slow) >= SLOW_PLACES:
            self._evict_for(client, loop.time())
        evicted: asyncio.Future[Any] = loop.create_future()
        place = _Slow(client, loop.time(), evicted)
        self._slow.append(place)
        try:
            await asyncio.wait((arriving, evicted), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if place in self._slow:
                self._slow.remove(place)
        if not arriving.done():
            raise QueueFull("the request took long to arrive, and others needed its place", RETRY_SECONDS)

    def _evict_for(self, client: str, now: float) -> None:
        """Free a place.

        Raises:
            QueueFull: there is none to take away.
        """
        held = Counter(place.client for place in self._slow)
        greedy, most = held.most_common(1)[0]
        oldest = self._slow[0]
        if most > held[client] + 1:
            oldest = next(place for place in self._slow if place.client == greedy)
        elif now < oldest.since + SLOW_SECONDS:
            raise QueueFull("the server is receiving as many long requests as it has room for", RETRY_SECONDS)
        self._slow.remove(oldest)
        oldest.evicted.set_result(None)
