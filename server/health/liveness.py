"""Whether the process should be restarted: something that must go on has ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Liveness:
    """What must go on while the server runs, be it a task, a thread or the event loop; `/livez` asks it."""

    def __init__(self) -> None:
        self._watched: dict[str, Callable[[], bool]] = {}  # by what is said when it has ended

    @contextmanager
    def watching(self, fault: str, is_alive: Callable[[], bool]) -> Iterator[None]:
        """Demand that something is alive until the end of the block.

        Args:
            fault: what `/livez` says when it is not.
            is_alive: called from the listener's threads; must not wait.
        """
        self._watched[fault] = is_alive
        try:
            yield
        finally:
            del self._watched[fault]

    @property
    def fault(self) -> str:
        """What has ended, "" if nothing has; may be asked from any thread."""
        return next((fault for fault, is_alive in list(self._watched.items()) if not is_alive()), "")
