"""Draining: before the server stops, it refuses new calls so that load balancers notice, and notifies streams."""

import asyncio

from server.errors import Draining


class Drain:
    """Whether the server is stopping. Cannot be undone."""

    def __init__(self, retry_after: float) -> None:
        self._begun = asyncio.Event()
        self._retry_after = retry_after

    def begin(self) -> None:
        """Refuse new calls from now on."""
        self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether new calls are refused. Thread-safe."""
        return self._begun.is_set()

    async def wait(self) -> None:
        """Wait until draining begins."""
        await self._begun.wait()

    @property
    def fault(self) -> Draining:
        """The error for callers."""
        return Draining("the server is stopping: retry on another server, or on this one later", self._retry_after)

    def check(self) -> None:
        """Refuse a new call if the server is stopping.

        Raises:
            Draining: the server is stopping.
        """
        if self._begun.is_set():
            raise self.fault
