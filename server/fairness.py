"""Fair queueing between clients: whoever floods waits behind himself."""

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

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
