"""What clients' texts came to, so that under overload a text can be refused before it is read.

Reading costs a twentieth of computing: at five times the capacity a quarter of the machine would go into texts whose
callers are then sent away.
"""

from collections import Counter, deque

CALLS = 16  # that are remembered; before there are so many, nothing is expected
READ_ANYWAY = 8  # one in so many texts that could be refused unread, so that a change of habits is noticed


class Habits:
    """Tokens to compute for each character, of each client's last texts."""

    def __init__(self) -> None:
        self._ratios: dict[str, deque[float]] = {}
        self._refusals = Counter[str]()

    def learn(self, name: str, characters: int, tokens: int) -> None:
        """Remember a text that was read and looked up."""
        if characters:
            self._ratios.setdefault(name, deque(maxlen=CALLS)).append(tokens / characters)

    def least(self, name: str, characters: int) -> int:
        """Tokens that a text will come to at least, if it is like the client's last ones.

        A client one of whose last texts the cache knew is expected to need nothing.
        """
        ratios = self._ratios.get(name, ())
        return int(min(ratios) * characters) if len(ratios) == CALLS else 0

    def read_anyway(self, name: str) -> bool:
        """Whether a text that could be refused is to be read all the same."""
        self._refusals[name] += 1
        return self._refusals[name] % READ_ANYWAY == 0
