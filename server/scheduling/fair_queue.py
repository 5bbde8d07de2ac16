"""Fair queueing between clients: a flooding client delays only itself."""

import asyncio
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Generic, TypeVar

from server.auth.clients import Client
from server.types import BULK_SHARE, Priority

T = TypeVar("T", bound=Hashable)

SPARE_FLOWS = 16  # idle flows that are kept before the first sweep


@dataclass(slots=True)
class _Flow(Generic[T]):
    weight: float
    finish: float = 0.0  # virtual time at which the service received so far is paid for
    items: OrderedDict[T, float] = field(default_factory=OrderedDict)  # with their costs
    cost: float = 0.0  # of all items
    listed: bool = False  # whether the heap holds it


class FairQueue(Generic[T]):
    """Start-time fair queueing (Goyal, Vin and Cheng, 1996) over flows; FIFO within a flow.

    While several flows wait, each receives service in proportion to its weight, however much it has queued. A flow
    that was idle starts level with the others, without credit for the idle time. A parked flow keeps its items but is
    not served.
    """

    def __init__(self) -> None:
        self._flows: dict[str, _Flow[T]] = {}
        self._heap: list[tuple[float, int, str]] = []  # flows by the start of their first item
        self._parked: set[str] = set()
        self._order = itertools.count()
        self._now = 0.0  # virtual time: the start of the item served last
        self._length = 0
        self._ready_cost = 0.0
        self._sweep_at = SPARE_FLOWS

    def __len__(self) -> int:
        return self._length

    @property
    def ready_cost(self) -> float:
        """The cost of all items but those of parked flows."""
        return self._ready_cost

    @property
    def cost(self) -> float:
        """The cost of the item that `pop` would return; infinite if there is none."""
        flow = self._first()
        return next(iter(flow.items.values())) if flow else math.inf

    def holds(self, flow_name: str) -> bool:
        """Whether a flow has items, parked or not."""
        flow = self._flows.get(flow_name)
        return flow is not None and bool(flow.items)

    def push(self, flow_name: str, weight: float, cost: float, item: T) -> None:
        """Add an item; `cost` is what it takes of the machine, in any one unit."""
        flow = self._flows.setdefault(flow_name, _Flow(weight))
        flow.weight = weight
        flow.items[item] = cost
        self._count(flow_name, flow, cost)
        self._length += 1
        self._list(flow_name, flow)

    def peek(self) -> T | None:
        """The item that `pop` would return."""
        flow = self._first()
        return next(iter(flow.items)) if flow else None

    def pop(self) -> T | None:
        """Remove and return the next item, None if no flow can be served."""
        flow = self._first()
        if flow is None:
            return None
        self._now, _, name = heapq.heappop(self._heap)
        flow.listed = False
        item, cost = flow.items.popitem(last=False)
        self._count(name, flow, -cost)
        flow.finish = self._now + cost / flow.weight
        self._list(name, flow)
        self._removed()
        return item

    def discard(self, flow_name: str, item: T) -> None:
        """Remove an item that is not wanted any more, without charging its flow; others are left alone."""
        flow = self._flows.get(flow_name)
        if flow and (cost := flow.items.pop(item, None)) is not None:
            self._count(flow_name, flow, -cost)
            self._removed()

    def park(self, flow_name: str) -> None:
        """Do not serve a flow until `unpark`; its items keep their places."""
        if flow_name not in self._parked:
            self._parked.add(flow_name)
            self._ready_cost -= self._cost_of(flow_name)

    def unpark(self, flow_name: str) -> None:
        """Serve a flow again."""
        if flow_name in self._parked:
            self._parked.remove(flow_name)
            self._ready_cost += self._cost_of(flow_name)
        if flow := self._flows.get(flow_name):
            self._list(flow_name, flow)

    def drain(self) -> list[T]:
        """Remove and return all items, parked ones included."""
        items = [item for flow in self._flows.values() for item in flow.items]
        self._flows.clear()
        self._heap.clear()
        self._parked.clear()
        self._length = 0
        self._ready_cost = 0.0
        return items

    def _cost_of(self, name: str) -> float:
        return self._flows[name].cost if name in self._flows else 0.0

    def _count(self, name: str, flow: _Flow[T], cost: float) -> None:
        """Count an item that came, or with a negative cost one that left."""
        flow.cost += cost
        if name not in self._parked:
            self._ready_cost += cost

    def _list(self, name: str, flow: _Flow[T]) -> None:
        if flow.items and not flow.listed and name not in self._parked:
            heapq.heappush(self._heap, (max(self._now, flow.finish), next(self._order), name))
            flow.listed = True

    def _first(self) -> _Flow[T] | None:
        """The flow whose turn it is."""
        while self._heap:
            name = self._heap[0][2]
            flow = self._flows[name]
            if flow.items and name not in self._parked:
                return flow
            heapq.heappop(self._heap)
            flow.listed = False
        return None

    def _removed(self) -> None:
        """Count an item that left, and drop idle flows that owe nothing.

        Once the queue is empty no flow owes anything: the next ones start level.
        """
        self._length -= 1
        if not self._length:
            self._ready_cost = 0.0  # whatever rounding left
            self._flows.clear()
            self._heap.clear()
        elif len(self._flows) > self._sweep_at:
            self._flows = {n: f for n, f in self._flows.items() if f.items or f.listed or f.finish > self._now}
            self._sweep_at = 2 * len(self._flows) + SPARE_FLOWS


class PriorityFairQueue(Generic[T]):
    """Interactive before bulk; in each class, clients within their share before the others; fair among those.

    Clients that ask for no more than their share of the machine go first, so that they do not feel a flood. Waiting
    bulk items are owed `BULK_SHARE` of the interactive service and go first once that covers the next one: bulk is
    slowed, never starved.
    """

    def __init__(self) -> None:
        self._queues = {each: FairQueue[T]() for each in product(Priority, (True, False))}  # in their order
        self._owed = 0.0  # to bulk, in the unit of costs

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def ready_cost(self) -> float:
        """The cost of all items but those of parked clients."""
        return sum(queue.ready_cost for queue in self._queues.values())

    def holds(self, name: str) -> bool:
        """Whether a client has items, parked or not."""
        return any(queue.holds(name) for queue in self._queues.values())

    def push(self, item: T, cost: float, priority: Priority, name: str, weight: float, *, within_share: bool) -> None:
        """Add a client's item; `cost` is what it takes of the machine."""
        # FIFO within a client and class: a client is back within its share once what it queued before is served.
        within_share = within_share and not self._queues[priority, False].holds(name)
        self._queues[priority, within_share].push(name, weight, cost, item)

    def peek(self) -> T | None:
        """The item that `pop` would return."""
        queue = self._next()
        return queue.peek() if queue else None

    def pop(self) -> T | None:
        """Remove and return the next item, None if no client can be served."""
        queue = self._next()
        if queue is None:
            return None
        bulk = self._first(Priority.BULK)
        if queue is bulk:
            self._owed = max(0.0, self._owed - queue.cost)
        else:
            self._owed = self._owed + BULK_SHARE * queue.cost if bulk else 0.0
        return queue.pop()

    def discard(self, item: T, priority: Priority, name: str) -> None:
        """Remove a client's item that is not wanted any more."""
        for within_share in (True, False):
            self._queues[priority, within_share].discard(name, item)

    def park(self, name: str) -> None:
        """Do not serve a client until `unpark`; its items keep their places."""
        for queue in self._queues.values():
            queue.park(name)

    def unpark(self, name: str) -> None:
        """Serve a client again."""
        for queue in self._queues.values():
            queue.unpark(name)

    def drain(self) -> list[T]:
        """Remove and return all items, parked ones included."""
        return [item for queue in self._queues.values() for item in queue.drain()]

    def _next(self) -> FairQueue[T] | None:
        interactive, bulk = map(self._first, Priority)
        return bulk if bulk and (not interactive or self._owed >= bulk.cost) else interactive

    def _first(self, priority: Priority) -> FairQueue[T] | None:
        """The queue that goes first in a class, None if none of its clients can be served."""
        queues = (self._queues[priority, within_share] for within_share in (True, False))
        return next((queue for queue in queues if queue.peek() is not None), None)


class FairGate:
    """A semaphore whose waiters take turns by client, however many waiters each client has."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: FairQueue[asyncio.Future[None]] = FairQueue()

    @asynccontextmanager
    async def entered(self, client: Client, priority: Priority) -> AsyncIterator[None]:
        """Wait for a place and hold it."""
        await self._enter(client, priority)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, client: Client, priority: Priority) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flow, weight = f"{priority.value} {client.name}", client.plan.weight
        self._waiting.push(flow, weight * (BULK_SHARE if priority is Priority.BULK else 1.0), 1.0, turn)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.discard(flow, turn)
            if turn.done() and not turn.cancelled():  # cancelled just after it was given its place
                self._leave()
            raise

    def _leave(self) -> None:
        while turn := self._waiting.pop():
            if not turn.done():  # a cancelled waiter removes itself a moment later
                turn.set_result(None)
                return
        self._free += 1
