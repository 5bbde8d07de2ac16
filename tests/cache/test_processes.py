"""Several processes, one folder."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from cache import Event, Kind, SettingsConflictError, Store
from tests.cache.helpers import TAG, Opener, key, state

PRELUDE = """
import sys
import numpy as np
from pathlib import Path
from cache import *
from tests.cache.helpers import KEYS, TAG, key, state
def settings(**changed):
    return CacheSettings(**{"folder": Path(sys.argv[1]), "min_free_bytes": 0, "memory_bytes": 0, **changed})
def told():
    return sys.stdin.readline().strip()
def tell(*values):
    print(*values, flush=True)
"""


class Other:
    """Another process: it runs a program line by line with us."""

    def __init__(self, folder: Path, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the other process ended"
        return line.strip()

    def tell(self, word: str = "") -> None:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)


@contextmanager
def other(folder: Path, program: str) -> Iterator[Other]:
    running = Other(folder, program)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def served(store: Store, *numbers: int) -> list[int]:
    arrays = store.get_many([key(number) for number in numbers])
    hits = [(number, array) for number, array in zip(numbers, arrays, strict=True) if array is not None]
    assert all(np.array_equal(array, state(number)) for number, array in hits)
    return [number for number, _ in hits]


def test_what_one_writes_the_other_reads(open_store: Opener) -> None:
    store = open_store()
    program = """
store = Store(settings(), KEYS)
for number in range(0, 20, 2):
    store.put(key(number), state(number), TAG)
store.flush(); tell("written"); told()
tell(sum(np.array_equal(store.get(key(number)), state(number)) for number in range(20)))
"""
    with other(open_store.folder, program) as process:
        for number in range(1, 20, 2):
            store.put(key(number), state(number), TAG)
        assert store.flush()
        assert process.told() == "written"
        assert served(store, *range(20)) == list(range(20))
        process.tell()
        assert process.told() == "20"
    assert store.stats().disk[Kind.STATE].entries == 20


def test_a_purge_empties_the_other_processes_memory(open_store: Opener) -> None:
    program = """
store = Store(settings(memory_bytes=1 << 24), KEYS)
for number in range(6):
    store.put(key(number), state(number), Tag("tenant", "model", bytes([number % 2]) * 16))
store.flush()
tell(sum(array is not None for array in store.get_many([key(number) for number in range(6)])))
told()
left = [number for number in range(6) if store.get(key(number)) is not None]
tell(*left, store.stats().events[Event.MEMORY_HIT, Kind.STATE])
told()
import time
time.sleep(1)
tell(store._memory.size()[0])
"""
    store = open_store()
    with other(open_store.folder, program) as process:
        assert process.told() == "6"
        purged = store.purge(document=b"\1" * 16)
        assert (sum(purged.disk.values()), purged.memory) == (3, 0)
        process.tell()
        assert process.told() == f"0 2 4 {6 + 3}", "what is left comes from memory"
        store.purge()
        process.tell()
        assert process.told() == "0", "memory is given back though nobody looks anything up"


def test_a_purge_drops_the_other_processes_queued_writes_and_the_one_under_way(open_store: Opener) -> None:
    program = """
import threading
from cache import index
store = Store(settings(), KEYS)
place, placed, go_on = index.Index.place, threading.Event(), threading.Event()
def slowly(self, *value):
    value = place(self, *value)
    placed.set(); go_on.wait()
    return value
index.Index.place = slowly
for number in range(4):
    store.put(key(number), state(number), TAG)
placed.wait(); tell("placed"); told(); go_on.set()
tell("done", store.flush())
"""
    store = open_store()
    with other(open_store.folder, program) as process:
        assert process.told() == "placed"
        store.purge(document=TAG.document)
        process.tell()
        assert process.told() == "done True"
        assert served(store, *range(4)) == []
        assert list(open_store.folder.rglob("*.val")) == []


def test_a_purge_by_a_process_that_is_alone_reaches_who_comes_later(open_store: Opener) -> None:
    first = open_store()
    first.put(key(1), state(1), TAG)
    first.close()
    open_store().purge()
    assert served(open_store(), 1) == []


def test_a_conflict_of_settings_is_seen_between_processes_and_ends_with_them(open_store: Opener) -> None:
    with other(open_store.folder, "store = Store(settings(size_limit=1 << 21), KEYS); tell('open'); told()") as process:
        assert process.told() == "open"
        with pytest.raises(SettingsConflictError, match="size_limit is 2097152 there"):
            open_store()
    open_store()  # it was killed: its claim went with it


def test_a_process_that_left_the_index_behind_takes_the_others_along(open_store: Opener) -> None:
    program = """
import time
store = Store(settings(), KEYS)
tell("open"); told()
end = time.monotonic() + 5
while store._disk._index is None or store._disk._index.generation != 2:
    assert time.monotonic() < end
    time.sleep(0.01)
tell(np.array_equal(store.get(key(2)), state(2)))
"""
    store = open_store()
    with other(open_store.folder, program) as process:
        assert process.told() == "open"
        index = open_store.folder / "generation-1" / "cache.db"
        index.unlink()
        end = time.monotonic() + 5
        while served(store, 2) != [2]:
            assert time.monotonic() < end
            store.put(key(2), state(2), TAG)
            store.flush()
        process.tell()
        assert process.told() == "True"


def test_a_purge_follows_to_a_newer_index_that_it_has_not_yet_heard_of(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    purger, writer = open_store(), open_store()
    monkeypatch.setattr(purger._writer, "_tick", lambda: None)  # nobody tells it
    assert writer._disk._index is not None
    writer._folder.abandon(writer._disk._index)
    writer._disk._index = None
    assert writer._disk.open() is not None
    writer.put(key(1), state(1), TAG)
    writer.flush()
    assert served(writer, 1) == [1]
    assert sum(purger.purge(document=TAG.document).disk.values()) == 1
    assert served(writer, 1) == []


def test_several_writers_lose_nothing(open_store: Opener) -> None:
    program = """
store = Store(settings(queue_bytes=1 << 28), KEYS)
start = int(told())
for number in range(start, start + 100):
    store.put(key(number), state(number, 500 if number % 2 else 30_000), TAG)
tell(store.flush(30), store.stats().events)
"""
    store = open_store()
    with other(open_store.folder, program) as a, other(open_store.folder, program) as b:
        a.tell("0")
        b.tell("100")
        for process in (a, b):
            assert process.told() == f"True {{({Event.STORED!r}, {Kind.STATE!r}): 100}}"
    arrays = store.get_many([key(number) for number in range(200)])
    for number, array in enumerate(arrays):
        assert array is not None
        assert np.array_equal(array, state(number, 500 if number % 2 else 30_000))
    assert store.stats().disk[Kind.STATE].entries == 200
