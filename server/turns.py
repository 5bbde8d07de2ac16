"""Whose turn it is at the machine: the order of all that waits."""

from collections.abc import Callable
from itertools import product
from typing import Generic, TypeVar

from server.fairness import FairQueue
from server.priority import BULK_SHARE, Priority

T = TypeVar("T")


class Turns(Generic[T]):
    """Interactive before bulk; in each class the modest before the others; among those fair between clients.

    Whoever asks for no more than his share of the machine is modest: so a flood is not felt. Bulk that waits is owed
    `BULK_SHARE` of what is interactive, and comes first once that makes its next item: it is slowed, never starved.
    What `is_dead` is dropped unserved.
    """

    def __init__(self, is_dead: Callable[[T], bool]) -> None:
        self._queues = {each: FairQueue(is_dead) for each in product(Priority, (True, False))}  # in their order
        self._owed = 0.0  # to bulk, in the unit of costs

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def push(self, item: T, cost: float, priority: Priority, name: str, weight: float, *, modest: bool) -> None:
        """Let a client's item wait; `cost` is what it takes of the machine."""
        # Nobody overtakes himself: behind what waits already, until it is done.
        modest = modest and not self._queues[priority, False].holds(name)
        self._queues[priority, modest].push(name, weight, cost, item)

    def peek(self) -> T | None:
        """The item that `pop` would give."""
        queue = self._next()
        return queue.peek() if queue else None

    def pop(self) -> T | None:
        """The next item, None if none waits."""
        queue = self._next()
        if queue is None:
            return None
        bulk = self._first(Priority.BULK)
        if queue is bulk:
            self._owed = max(0.0, self._owed - queue.cost)
        else:
            self._owed = self._owed + BULK_SHARE * queue.cost if bulk else 0.0
        return queue.pop()

    def drain(self) -> list[T]:
        """Take everything that waits, at once."""
        return [item for queue in self._queues.values() for item in queue.drain()]

    def _next(self) -> FairQueue[T] | None:
        interactive, bulk = map(self._first, Priority)
        return bulk if bulk and (not interactive or self._owed >= bulk.cost) else interactive

    def _first(self, priority: Priority) -> FairQueue[T] | None:
        """The queue that goes first in a class, None if nothing waits there."""
        queues = (self._queues[priority, modest] for modest in (True, False))
        return next((queue for queue in queues if queue.peek() is not None), None)
