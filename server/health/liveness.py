"""Liveness: the process should be restarted if something essential has ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Liveness:
    """Watches tasks, threads and loops that must run as long as the server does; checked by `/livez`."""

    def __init__(self) -> None:
        self._watched: dict[str, Callable[[], bool]] = {}  # by message

    @contextmanager
    def watching(self, fault: str, is_alive: Callable[[], bool]) -> Iterator[None]:
        """Require that something is alive until the end of the block.

        Args:
            fault: the message of `/livez` if it is not.
            is_alive: called from the listener's threads; must not block.
        """
        self._watched[fault] = is_alive
        try:
            yield
        finally:
            del self._watched[fault]

    @property
    def fault(self) -> str:
        """The message for what has ended, or "". Thread-safe."""
        return next((fault for fault, is_alive in list(self._watched.items()) if not is_alive()), "")
