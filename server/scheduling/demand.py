"""What clients have asked of the machine lately, and what that leaves for one of them."""

import math
import time
from dataclasses import dataclass

from server.auth.clients import Client

MEMORY_SECONDS = 6.0
"""After which what a client asked for counts a third.

With 2 seconds two long documents of a polite client looked like a flood: 3 in 100 such calls were refused at 60 % of
the capacity, 13 beside a flood; with 6, none. A flood of five times the capacity is seen as one within a second either
way, and forgotten after some twenty.
"""

_LEAST = 1.0  # tokens a second; who asks for less is forgotten


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a client can hope for.

    Attributes:
        modest: whether it asks for no more than its share: then it comes before those who do.
        rate: tokens a second that it gets.
        behind: those who come after it.
    """

    modest: bool
    rate: float
    behind: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Asked:
    tokens: float
    at: float
    weight: float


class Demand:
    """Tokens a second that each client asks for, whether it got them or was refused; older requests fade."""

    def __init__(self) -> None:
        self._asked: dict[str, _Asked] = {}

    def ask(self, client: Client, tokens: int) -> None:
        """Count a request."""
        now = time.monotonic()
        asked = self._rate(client.name, now) * MEMORY_SECONDS
        self._asked[client.name] = _Asked(asked + tokens, now, client.plan.weight)

    def outlook(self, client: Client, speed: float) -> Outlook:
        """The part of a machine's speed that a client gets while the others go on as they do.

        Whoever asks for less than his weighted share gets what he asks for; the rest share what is left (max-min
        fairness; Bertsekas and Gallager, Data Networks, 1992). What waits at a moment says too little: a client whose
        queue is empty may come back at any time, and is then before those who have been served more than he.
        """
        now = time.monotonic()
        rates = {name: self._rate(name, now) for name in self._asked}
        for name, rate in rates.items():
            if rate < _LEAST:
                del self._asked[name]
        others = [(name, rates[name], asked.weight) for name, asked in self._asked.items() if name != client.name]
        others.sort(key=lambda other: other[1] / other[2])
        left, weights = speed, client.plan.weight + sum(weight for *_, weight in others)
        modest = 0
        for _, rate, weight in others:
            if rate * weights >= left * weight:
                break
            left -= rate
            weights -= weight
            modest += 1
        fair = left * client.plan.weight / weights
        if rates.get(client.name, 0.0) > fair:
            return Outlook(modest=False, rate=fair, behind=frozenset())
        return Outlook(modest=True, rate=left, behind=frozenset(name for name, *_ in others[modest:]))

    def _rate(self, name: str, now: float) -> float:
        if (asked := self._asked.get(name)) is None:
            return 0.0
        return asked.tokens * math.exp((asked.at - now) / MEMORY_SECONDS) / MEMORY_SECONDS
