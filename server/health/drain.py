"""On the way out: new calls are refused for a while, so that balancers notice, and streams are told."""

import asyncio

from server.errors import Draining


class Drain:
    """Whether the server is stopping. Begun once, never taken back."""

    def __init__(self, retry_after: float) -> None:
        self._begun = asyncio.Event()
        self._retry_after = retry_after

    def begin(self) -> None:
        """Refuse new calls from now on."""
        self._begun.set()

    @property
    def begun(self) -> bool:
        """Whether new calls are refused; may be asked from any thread."""
        return self._begun.is_set()

    async def wait(self) -> None:
        """Return once it has begun."""
        await self._begun.wait()

    @property
    def fault(self) -> Draining:
        """What callers are told."""
        return Draining("the server is stopping; another one, or this one a little later, answers", self._retry_after)

    def check(self) -> None:
        """Refuse a new call of a server that is stopping.

        Raises:
            Draining: it is.
        """
        if self._begun.is_set():
            raise self.fault
