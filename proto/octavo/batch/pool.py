"""The documents that wait for a server, shared by all servers."""

import heapq
import itertools
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from octavo.batch.documents import Document
from octavo.batch.parts import Place

WAITING_DOCUMENTS = 256
WAITING_CHARACTERS = 8_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """A document to compute."""

    place: Place
    document: Document


@dataclass(slots=True, eq=False)
class Hold:
    """Documents that one server took and has not answered. A closed hold takes no more."""

    tasks: set[Waiting] = field(default_factory=set)
    closed: bool = False


class Pool:
    """Waiting documents. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._later: list[tuple[float, int, Waiting]] = []
        self._numbers = itertools.count()
        self._characters = 0
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether another document may be added."""
        return len(self._waiting) < WAITING_DOCUMENTS and self._characters < WAITING_CHARACTERS

    def put(self, task: Waiting) -> None:
        """Add a document."""
        with self._changed:
            self._waiting.append(task)
            self._characters += len(task.document.text)
            self._changed.notify()

    def take(self, hold: Hold) -> Waiting | None:
        """Wait for a document and move it to the hold; None if the hold or pool is closed."""
        with self._changed:
            while not (hold.closed or self._closed):
                wait = self._ripen()
                if self._waiting:
                    task = self._waiting.popleft()
                    self._characters -= len(task.document.text)
                    hold.tasks.add(task)
                    return task
                self._changed.wait(wait)
            return None

    def done(self, hold: Hold, task: Waiting) -> None:
        """Remove an answered document from a hold."""
        with self._changed:
            hold.tasks.discard(task)

    def put_back(self, hold: Hold, task: Waiting, seconds: float) -> None:
        """Return a refused document to the pool after a delay."""
        with self._changed:
            hold.tasks.discard(task)
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), task))
            self._changed.notify_all()

    def give_back(self, hold: Hold) -> None:
        """Close a hold and return its documents to the front of the pool."""
        with self._changed:
            hold.closed = True
            for task in sorted(hold.tasks, key=lambda task: (task.place.part, task.place.row), reverse=True):
                self._waiting.appendleft(task)
                self._characters += len(task.document.text)
            hold.tasks.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Close the pool: there are no further documents."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_closed(self, seconds: float) -> bool:
        """Wait, at most until the pool is closed; return whether it is closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def _ripen(self) -> float | None:
        """Bring back documents whose delay has passed; return the seconds until the next."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            task = heapq.heappop(self._later)[2]
            self._waiting.appendleft(task)
            self._characters += len(task.document.text)
        return self._later[0][0] - now if self._later else None
