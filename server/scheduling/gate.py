"""A fair door to the threads that tokenise and read the disk."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from server.auth.clients import Client
from server.scheduling.fair_queue import FairQueue
from server.types import BULK_SHARE, Priority


class FairGate:
    """Lets so many in at a time; those who wait take turns by client, whatever each has waiting."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue(asyncio.Future.done)

    @asynccontextmanager
    async def entered(self, client: Client, priority: Priority) -> AsyncIterator[None]:
        """Wait for a turn, and hold one of the places."""
        await self._enter(client, priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, client: Client, priority: Priority) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        weight = client.plan.weight * (BULK_SHARE if priority is Priority.BULK else 1.0)
        self._waiting.push(f"{priority.value} {client.name}", weight, 1.0, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # its turn came in the moment that it left
                self._leave()
            raise

    def _leave(self) -> None:
        turn = self._waiting.pop()
        if turn is None:
            self._free += 1
        else:
            turn.set_result(None)
