"""What clients have asked of the machine lately, and what that leaves for one of them."""

import math
import time

from server.clients import Client

MEMORY_SECONDS = 2.0  # about as long as a call may wait: who asked before that does not compete with it
_LEAST = 1.0  # tokens a second; who asks for less is forgotten


class Demand:
    """Tokens a second that each client asks for, whether it got them or was refused; older requests fade."""

    def __init__(self) -> None:
        self._asked: dict[str, tuple[float, float, float]] = {}  # by client: tokens, when they were that, its weight

    def ask(self, client: Client, tokens: int) -> None:
        """Count a request."""
        now = time.monotonic()
        asked = self._rate(client.name, now) * MEMORY_SECONDS
        self._asked[client.name] = (asked + tokens, now, client.plan.weight)

    def rate_for(self, client: Client, speed: float) -> float:
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
        others = [(rates[name], weight) for name, (_, _, weight) in self._asked.items() if name != client.name]
        left, weights = speed, client.plan.weight + sum(weight for _, weight in others)
        for rate, weight in sorted(others, key=lambda other: other[0] / other[1]):
            if rate * weights >= left * weight:
                break
            left -= rate
            weights -= weight
        return left * client.plan.weight / weights

    def _rate(self, name: str, now: float) -> float:
        tokens, since, _ = self._asked.get(name, (0.0, now, 0.0))
        return tokens * math.exp((since - now) / MEMORY_SECONDS) / MEMORY_SECONDS
