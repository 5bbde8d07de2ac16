"""One thread per server, which sends it documents from the pool and reports the results."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from octavo.batch.manifest import Served
from octavo.batch.pool import Hold, Pool, Waiting
from octavo.batch.rows import Problem
from octavo.cli.connection import waits
from octavo.client import Analysis, Client, Embed, Embedding, OctavoError, Retry, Segment
from octavo.client.arguments import CallArguments, Task
from octavo.client.retry import Attempts

NO_RETRY = Retry(attempts=1, patience=0)  # instead, documents go to another server
LOCAL_PATIENCE = 5.0  # seconds; a local server that has ended does not come back
IN_FLIGHT = 256  # documents in flight with a single server
IN_FLIGHT_OF_SEVERAL = 64  # with each of several: near the end, other servers cannot help with these
_WAITS = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds after the first, second … failure to reach a server


@dataclass(frozen=True, slots=True)
class Ask:
    """The tasks and arguments for every document."""

    tasks: Mapping[str, Task]
    arguments: CallArguments

    @property
    def afresh(self) -> CallArguments:
        """Arguments for a call outside the job that bypasses the cache."""
        arguments = self.arguments.copy()
        arguments["cache_mode"], arguments["priority"] = "bypass", "bulk"
        return arguments


@dataclass(frozen=True, slots=True)
class Taken:
    """A server took a document: there is room for another."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Further segments of a document were computed."""

    task: Waiting
    segments: Sequence[Segment]


@dataclass(frozen=True, slots=True)
class Answered:
    """A document was answered."""

    task: Waiting
    outcome: Analysis | Problem


@dataclass(frozen=True, slots=True)
class Paused:
    """A server is temporarily unavailable."""

    address: str
    error: OctavoError


@dataclass(frozen=True, slots=True)
class Gone:
    """A server is permanently unavailable."""

    address: str
    error: BaseException


Event = Taken | Computed | Answered | Paused | Gone


@dataclass(slots=True)
class Driver:
    """One server's thread.

    Attributes:
        client: the server's client, without retries: documents go to another server instead.
        ask: the tasks and arguments for every document.
        pool: waiting documents, shared by all servers.
        inbox: receives events.
        patience: seconds to keep trying the server.
        in_flight: maximum documents in flight.
        watched: whether to report segments as they are computed.
    """

    client: Client
    ask: Ask
    pool: Pool
    inbox: "SimpleQueue[Event]"
    patience: float
    in_flight: int = IN_FLIGHT
    watched: bool = False
    _failures: int = 0
    _failing_since: float | None = field(default=None)
    _told: str | None = None  # the reason of the pause that was reported since the last answer

    def start(self) -> None:
        """Start a thread that works until the pool is closed."""
        threading.Thread(target=self._run, name=f"octavo-{self.client.address}", daemon=True).start()

    def _run(self) -> None:
        try:
            while (error := self._converse()) is not None:
                wait = self._wait(error)
                if wait is None:
                    self.inbox.put(Gone(self.client.address, error))
                    return
                if error.reason != self._told:
                    self._told = error.reason
                    self.inbox.put(Paused(self.client.address, error))
                if self.pool.wait_closed(wait):
                    return
        except BaseException as fault:  # noqa: BLE001 - raised in the main thread
            self.inbox.put(Gone(self.client.address, fault))

    def _converse(self) -> OctavoError | None:
        """Run a stream until all is done or it breaks; return the error. Unanswered documents go back to the pool."""
        hold = Hold()
        answers = self.client.process(
            self._texts(hold),
            self.ask.tasks,
            in_flight=self.in_flight,
            return_exceptions=True,
            segments=self.watched,
            on_segments=(lambda task, segments: self.inbox.put(Computed(task, segments))) if self.watched else None,
            **self.ask.arguments,
        )
        try:
            for task, answer in answers:
                self._failures, self._failing_since, self._told = 0, None, None
                if isinstance(answer, OctavoError) and answer.transient:
                    self.pool.put_back(hold, task, answer.retry_after or 1.0)
                else:
                    self.pool.done(hold, task)
                    self.inbox.put(Answered(task, self._outcome(answer)))
        except OctavoError as error:
            return error
        finally:
            self.pool.give_back(hold)
        return None

    def _texts(self, hold: Hold) -> Iterator[tuple[Waiting, str]]:
        while (task := self.pool.take(hold)) is not None:
            self.inbox.put(Taken())
            yield task, task.document.text

    def _wait(self, error: OctavoError) -> float | None:
        """Seconds until the next stream; None: give up."""
        if not error.transient:
            return None
        if error.retry_after is not None:
            return error.retry_after
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        self._failures += 1
        if now - self._failing_since > self.patience:
            return None
        return _WAITS[min(self._failures, len(_WAITS)) - 1]

    def _outcome(self, answer: Analysis | OctavoError) -> Analysis | Problem:
        if isinstance(answer, OctavoError):
            return Problem(answer.reason or (answer.code.name if answer.code else type(answer).__name__), str(answer))
        for name in self.ask.tasks:
            result = answer.results.get(name)
            if result is None or (isinstance(result, Embedding) and result.vector is None):
                return Problem("NO_RESULT", f"the server sent no result of the task {name}")
        return answer


def probe(client: Client, ask: Ask, patience: float) -> Served:
    """Run the tasks on one word, to learn about the server's results before the work.

    Raises:
        OctavoError: the server does not answer within `patience` seconds, or refuses the options.
    """
    attempts = Attempts(Retry(attempts=5, patience=patience, on_wait=waits(client.address)), None)
    while True:
        try:
            answer = client.analyze("octavo", ask.tasks, **ask.afresh)
            break
        except OctavoError as error:
            wait = attempts.next_wait(error)
            if wait is None:
                raise
        time.sleep(wait)
    embeds = ((task, answer.results[name].vector) for name, task in ask.tasks.items() if isinstance(task, Embed))
    task, vector = next(embeds, (Embed(), None))
    bits = 8 if task.data_type == "binary" else 1
    dimensions = task.dimensions or (0 if vector is None else bits * vector.size)
    return Served(str(answer.model), answer.fingerprint, dimensions, task.data_type or "float32")
