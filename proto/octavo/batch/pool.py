"""The documents that wait for a server, shared by all of them."""

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
class Task:
    """A document to be computed."""

    place: Place
    document: Document


@dataclass(slots=True, eq=False)
class Hold:
    """What one server has taken and not answered. Closed, it takes no more."""

    tasks: set[Task] = field(default_factory=set)
    closed: bool = False


class Pool:
    """Safe to share among threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Task] = deque()
        self._later: list[tuple[float, int, Task]] = []
        self._numbers = itertools.count()
        self._characters = 0
        self._closed = False

    @property
    def has_room(self) -> bool:
        """Whether another document may be put in."""
        return len(self._waiting) < WAITING_DOCUMENTS and self._characters < WAITING_CHARACTERS

    def put(self, task: Task) -> None:
        """A new document."""
        with self._changed:
            self._waiting.append(task)
            self._characters += len(task.document.text)
            self._changed.notify()

    def take(self, hold: Hold) -> Task | None:
        """Waits for a document and moves it to the hold; None when the hold or the pool is closed."""
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

    def done(self, hold: Hold, task: Task) -> None:
        """A document was answered."""
        with self._changed:
            hold.tasks.discard(task)

    def put_back(self, hold: Hold, task: Task, seconds: float) -> None:
        """A document was refused for so long."""
        with self._changed:
            hold.tasks.discard(task)
            heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), task))
            self._changed.notify_all()

    def give_back(self, hold: Hold) -> None:
        """Close a hold: what it has goes to others, before all else."""
        with self._changed:
            hold.closed = True
            for task in sorted(hold.tasks, key=lambda task: (task.place.part, task.place.row), reverse=True):
                self._waiting.appendleft(task)
                self._characters += len(task.document.text)
            hold.tasks.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """There will be no further documents."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_closed(self, seconds: float) -> bool:
        """Waits so long, or less when the pool is closed; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed, seconds)

    def _ripen(self) -> float | None:
        """Brings back what was refused until now; the seconds until the next one."""
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            task = heapq.heappop(self._later)[2]
            self._waiting.appendleft(task)
            self._characters += len(task.document.text)
        return self._later[0][0] - now if self._later else None
