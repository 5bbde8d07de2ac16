"""Fair queueing between clients: whoever floods waits behind himself."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from server.types import BULK_SHARE, Priority

T = TypeVar("T")


@dataclass(slots=True)
class _Flow(Generic[T]):
    weight: float
    finish: float = 0.0  # virtual time at which what was served so far is paid
    items: deque[tuple[float, T]] = field(default_factory=deque)


class FairQueue(Generic[T]):
    """Start-time fair queueing (Goyal, Vin and Cheng, 1996) over flows, first in, first out within each.

    While several flows wait, each is served cost in proportion to its weight, whatever it has queued; a flow that was
    idle starts level with the others, without credit for the time. What `is_dead` is dropped unpaid.
    """

    def __init__(self, is_dead: Callable[[T], bool]) -> None:
        self._is_dead = is_dead
        self._flows: dict[str, _Flow[T]] = {}
        self._heap: list[tuple[float, int, str]] = []  # the waiting flows by start of their first item
        self._order = itertools.count()
        self._now = 0.0  # virtual time: the start of what was served last
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def cost(self) -> float:
        """Of the item that `pop` would give; without end if none waits."""
        flow = self._first()
        return flow.items[0][0] if flow else math.inf

    def holds(self, flow_name: str) -> bool:
        """Whether anything of a flow waits."""
        flow = self._flows.get(flow_name)
        return flow is not None and bool(flow.items)

    def push(self, flow_name: str, weight: float, cost: float, item: T) -> None:
        """Let an item wait; `cost` is what it takes of the machine, in any one unit."""
        flow = self._flows.setdefault(flow_name, _Flow(weight))
        flow.weight = weight
        flow.items.append((cost, item))
        self._length += 1
        if len(flow.items) == 1:
            self._enter(flow_name, flow)

    def peek(self) -> T | None:
        """The item that `pop` would give."""
        flow = self._first()
        return flow.items[0][1] if flow else None

    def pop(self) -> T | None:
        """The next item, None if none waits."""
        flow = self._first()
        if flow is None:
            return None
        self._now, _, name = heapq.heappop(self._heap)
        cost, item = flow.items.popleft()
        self._length -= 1
        flow.finish = self._now + cost / flow.weight
        if flow.items:
            self._enter(name, flow)
        self._forget_idle()
        return item

    def drain(self) -> list[T]:
        """Take everything that waits, at once."""
        items = [item for flow in self._flows.values() for _, item in flow.items]
        self._flows.clear()
        self._heap.clear()
        self._length = 0
        return items

    def _enter(self, name: str, flow: _Flow[T]) -> None:
        heapq.heappush(self._heap, (max(self._now, flow.finish), next(self._order), name))

    def _first(self) -> _Flow[T] | None:
        """The flow whose turn it is, its dead items dropped."""
        while self._heap:
            flow = self._flows[self._heap[0][2]]
            while flow.items and self._is_dead(flow.items[0][1]):
                flow.items.popleft()
                self._length -= 1
            if flow.items:
                return flow
            heapq.heappop(self._heap)
        return None

    def _forget_idle(self) -> None:
        """Drop flows that owe nothing, so that clients who have gone leave nothing behind.

        Once nobody waits, nobody owes: the next to come start level.
        """
        if not self._heap:
            self._flows.clear()
        elif len(self._flows) > 2 * len(self._heap) + 16:
            self._flows = {n: f for n, f in self._flows.items() if f.items or f.finish > self._now}


class PriorityFairQueue(Generic[T]):
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
