"""How fast the machine is, by what it did of late."""

import math

MEMORY_SECONDS = 5.0  # of computing, after which a run counts a third


class Speed:
    """Tokens a second of all threads together, by the last runs; older ones fade."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._tokens = 0.0
        self._seconds = 0.0  # of threads, that they took

    def observe(self, tokens: int, seconds: float, threads: int) -> None:
        """Learn from a run."""
        fade = math.exp(-seconds * threads / MEMORY_SECONDS)
        self._tokens = fade * self._tokens + tokens
        self._seconds = fade * self._seconds + seconds * threads

    @property
    def tokens_a_second(self) -> float:
        """0.0: unknown."""
        return self._tokens * self._threads / self._seconds if self._seconds else 0.0
