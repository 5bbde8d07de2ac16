import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from cache.entry import Entry
from cache.key import Kind
from cache.tag import Selector
from cache.writer import Write, Writer
from tests.cache.helpers import TAG, key, state


def write(number: int, kind: Kind = Kind.STATE) -> Write:
    return Write(Entry(key(number, kind), TAG.encode(kind), 0.0, 1e12, state(number, 500)), 0)


class Bench:
    """A writer whose work waits at a gate."""

    def __init__(self, limit: int = 1 << 20, batch_bytes: int = 1 << 20) -> None:
        self.gate = threading.Event()
        self.started = threading.Event()
        self.worked: list[Write] = []
        self.batches: list[int] = []
        self.ticks = 0
        self.done = threading.Event()
        self.writer = Writer(limit, batch_bytes, self._work, self._tick, self.done.set)

    def _work(self, writes: Sequence[Write]) -> None:
        self.started.set()
        self.gate.wait(10)
        self.batches.append(len(writes))
        self.worked += writes

    def _tick(self) -> None:
        self.ticks += 1


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**limits: int) -> Bench:
        benches.append(Bench(**limits))
        return benches[-1]

    yield make
    for made in benches:
        made.gate.set()
        made.writer.close(5)


def test_entries_are_written_in_order(bench: Callable[..., Bench]) -> None:
    b = bench()
    writes = [write(number) for number in range(3)]
    assert all(map(b.writer.submit, writes))
    b.gate.set()
    assert b.writer.flush(5)
    assert b.worked == writes
    assert b.writer.size() == (0, 0)


def test_what_came_together_is_done_together(bench: Callable[..., Bench]) -> None:
    size = write(0).entry.nbytes
    b = bench(batch_bytes=2 * size)
    b.gate.set()
    writes = [write(0), write(1), write(2)]
    assert all(map(b.writer.submit, writes))
    assert b.writer.flush(5)
    assert b.worked == writes
    assert b.batches == [2, 1]


def test_an_entry_larger_than_a_batch_is_a_batch(bench: Callable[..., Bench]) -> None:
    b = bench(batch_bytes=1)
    b.gate.set()
    assert all(b.writer.submit(write(number)) for number in range(3))
    assert b.writer.flush(5)
    assert b.batches == [1, 1, 1]


def test_what_does_not_fit_is_refused_at_once(bench: Callable[..., Bench]) -> None:
    one = write(0)
    b = bench(limit=2 * one.entry.nbytes)
    b.writer.submit(one)
    b.started.wait(5)
    start = time.perf_counter()
    assert [b.writer.submit(write(number)) for number in range(4)] == [True, True, False, False]
    assert time.perf_counter() - start < 0.1
    assert b.writer.size() == (2, 2 * one.entry.nbytes)


def test_flush_waits_for_the_write_under_way(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.writer.submit(write(0))
    b.started.wait(5)
    assert not b.writer.flush(0.05)
    b.gate.set()
    assert b.writer.flush(5)


def test_a_batch_waits_for_more_but_not_while_somebody_waits_for_it(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.writer.GATHER", 60.0)
    b = bench()
    b.gate.set()
    b.writer.submit(write(0))
    assert not b.started.wait(0.3)
    assert b.writer.flush(5)
    assert b.batches == [1]
    b.started.clear()
    b.writer.submit(write(1))  # the one who waited has gone
    assert not b.started.wait(0.3)


def test_a_batch_is_written_once_half_of_the_room_is_taken(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.writer.GATHER", 60.0)
    b = bench(limit=4 * write(0).entry.nbytes)
    b.gate.set()
    b.writer.submit(write(0))
    assert not b.started.wait(0.3)
    b.writer.submit(write(1))
    assert b.started.wait(5)


def test_a_purge_drops_queued_writes_alone(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.writer.submit(write(0))
    b.started.wait(5)
    for one in (write(1), write(2, Kind.RESULT), write(3)):
        b.writer.submit(one)
    assert b.writer.discard(Selector(kind=Kind.STATE)) == 2
    b.gate.set()
    assert b.writer.flush(5)
    assert [one.entry.key for one in b.worked] == [key(0), key(2, Kind.RESULT)]


def test_close_returns_what_was_not_done_and_takes_no_more(bench: Callable[..., Bench]) -> None:
    b = bench()
    writes = [write(number) for number in range(3)]
    b.writer.submit(writes[0])
    b.started.wait(5)
    for one in writes[1:]:
        b.writer.submit(one)
    threading.Timer(0.3, b.gate.set).start()
    assert b.writer.close(0.05) == writes[1:]
    assert b.done.wait(5)
    assert not b.writer.submit(write(9))


def test_it_ticks_when_idle_and_when_busy(bench: Callable[..., Bench]) -> None:
    b = bench()
    b.gate.set()
    end = time.monotonic() + 5
    while b.ticks < 2 and time.monotonic() < end:
        b.writer.submit(write(0))
        time.sleep(0.01)
    assert b.ticks >= 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_that_nobody_foresaw_shows() -> None:
    def fail(writes: Sequence[Write]) -> None:
        raise KeyError

    writer = Writer(1 << 20, 1 << 20, fail, lambda: None, lambda: None)
    assert writer.is_alive()
    writer.submit(write(0))
    end = time.monotonic() + 10
    while writer.is_alive():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_writer_that_was_closed_has_not_failed() -> None:
    writer = Writer(1 << 20, 1 << 20, lambda writes: None, lambda: None, lambda: None)
    writer.close(1.0)
    assert writer.is_alive()
