"""The main loop of a job: sends documents to servers, collects their answers and writes parts."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from octavo.batch.documents import Document
from octavo.batch.drivers import IN_FLIGHT, IN_FLIGHT_OF_SEVERAL, Answered, Ask, Computed, Driver, Event, Gone, Paused
from octavo.batch.errors import Unserved
from octavo.batch.parts import OpenPart, Place, Share
from octavo.batch.pool import Pool, Waiting
from octavo.batch.progress import Progress
from octavo.batch.records import Layout, Record
from octavo.batch.rows import Problem
from octavo.batch.summary import Counts, Tally
from octavo.cli.connection import failure
from octavo.client import Analysis, Client, OctavoError

OPEN_PARTS = 16  # reading stops while this many parts wait for rows
_TICK = 1.0  # seconds between progress updates while nothing happens


class Parts(Protocol):
    """Where parts are written."""

    def write_part(self, number: int, records: Sequence[Record], layout: Layout) -> None:
        """Write a part, which completes it."""

    def tally(self, number: int) -> Tally:
        """Count the documents of a completed part."""


@dataclass(slots=True)
class Work:
    """A run of a job, or of some of its parts.

    Attributes:
        output: where to write parts.
        done: numbers of the parts that earlier runs completed.
        layout: the columns of the output.
        share: which parts this machine processes.
        max_errors: maximum rows that may fail, None for any number.
        progress: shows progress.
        counts: what became of the parts.
    """

    output: Parts
    done: Container[int]
    layout: Layout
    share: Share
    max_errors: int | None
    progress: Progress
    counts: Counts = field(default_factory=Counts)
    _open: dict[int, OpenPart[Record]] = field(default_factory=dict)
    _pool: Pool = field(default_factory=Pool)
    _inbox: "SimpleQueue[Event]" = field(default_factory=SimpleQueue)

    def do(
        self, documents: Iterator[tuple[Place, Document]], clients: Sequence[Client], ask: Ask, patience: float
    ) -> None:
        """Process all parts that are not completed.

        Raises:
            InputError: the input cannot be read.
            OutputError: the output cannot be written.
            TooManyErrors: more rows failed than allowed.
            Unserved: no server is left.
        """
        todo = self._todo(documents)
        servers = len(clients)
        in_flight = IN_FLIGHT if servers == 1 else IN_FLIGHT_OF_SEVERAL
        for client in clients:
            Driver(client, ask, self._pool, self._inbox, patience, in_flight, self.progress.watched).start()
        try:
            while self._fill(todo) or self._open:
                try:
                    event = self._inbox.get(timeout=_TICK)
                except Empty:
                    self.progress.advance(self.counts.run)
                    continue
                match event:
                    case Computed(task, segments):
                        self.progress.within(task, len(task.document.text), segments)
                        self.progress.advance(self.counts.run)
                    case Answered(task, outcome):
                        self.progress.done(task)
                        self._put(task.place, task.document, outcome)
                    case Paused(address, error):
                        self.progress.say(f"waiting: {failure(error, address).format_message()}")
                    case Gone(address, error):
                        servers -= 1
                        self._lose(address, error, servers)
        finally:
            self._pool.close()

    def _lose(self, address: str, error: BaseException, left: int) -> None:
        if not isinstance(error, OctavoError):
            raise error
        if not left:
            raise Unserved(address, error)
        self.progress.say(f"continuing without {address}: {failure(error, address).format_message()}")

    def _todo(self, documents: Iterator[tuple[Place, Document]]) -> Iterator[tuple[Place, Document]]:
        """Yield the documents of our parts that are not completed."""
        for place, document in documents:
            if place.last:
                self.counts.parts = place.part + 1
            if not self.share.has(place.part):
                self._pass_over(place)
            elif place.part not in self.done:
                yield place, document
            elif place.last:
                self._count(place)

    def _pass_over(self, place: Place) -> None:
        if place.last:
            self.counts.others[place.part] = place.row + 1
            self.progress.done_before(place.row + 1)

    def _count(self, place: Place) -> None:
        """Count a part of ours that was completed before."""
        found = self.output.tally(place.part)
        self.counts.before.merge([found])
        self.progress.done_before(found.documents)
        self.counts.check(self.max_errors)

    def _fill(self, todo: Iterator[tuple[Place, Document]]) -> bool:
        """Read documents while there is room; False after the last one."""
        while self._pool.has_room and len(self._open) < OPEN_PARTS:
            found = next(todo, None)
            if found is None:
                return False
            place, document = found
            self._open.setdefault(place.part, OpenPart()).expect(place)
            if document.problem:
                self._put(place, document, document.problem)
            else:
                self._pool.put(Waiting(place, document))
        return True

    def _put(self, place: Place, document: Document, outcome: Analysis | Problem) -> None:
        record = Record(document.id, document.kept, outcome)
        part = self._open[place.part]
        part.put(place.row, record)
        self.counts.run.add_record(record)
        if part.complete:
            self.output.write_part(place.part, part.records(), self.layout)
            del self._open[place.part]
        self.progress.advance(self.counts.run)
        self.counts.check(self.max_errors)
