import threading

import numpy as np

from cache.entry import HEADER_BYTES, Entry
from cache.key import Kind
from cache.memory import Memory
from cache.tag import Selector
from tests.cache.helpers import TAG, key

SIZE = 1000 + HEADER_BYTES


def entry(number: int, expires_at: float = 10.0) -> Entry:
    return Entry(key(number), TAG.encode(Kind.STATE), 0.0, expires_at, np.full(1000, number % 256, np.uint8))


def present(memory: Memory, numbers: range, now: float = 0.0) -> list[int]:
    arrays = memory.get_many([key(number) for number in numbers], now)
    return [number for number, array in zip(numbers, arrays, strict=True) if array is not None]


def test_the_least_recently_used_leave_first() -> None:
    memory = Memory(3 * SIZE)
    for number in range(3):
        memory.put(entry(number))
    memory.get_many([key(0)], 0.0)
    memory.put(entry(3))
    assert present(memory, range(5)) == [0, 2, 3]
    assert memory.size() == (3, 3 * SIZE)


def test_an_entry_put_again_counts_once() -> None:
    memory = Memory(2 * SIZE)
    for _ in range(5):
        memory.put(entry(1))
    assert memory.size() == (1, SIZE)


def test_what_is_larger_than_the_limit_evicts_nobody() -> None:
    memory = Memory(SIZE)
    memory.put(entry(1))
    memory.put(Entry(key(2), b"", 0.0, 10.0, np.zeros(SIZE, np.uint8)))
    assert present(memory, range(3)) == [1]


def test_an_expired_entry_is_gone() -> None:
    memory = Memory(2 * SIZE)
    memory.put(entry(1, expires_at=5.0))
    assert present(memory, range(3), now=4.9) == [1]
    assert present(memory, range(3), now=5.0) == []
    assert memory.size() == (0, 0)


def test_a_purge_takes_what_matches() -> None:
    memory = Memory(5 * SIZE)
    for number in range(4):
        memory.put(entry(number))
    assert memory.purge(Selector(kind=Kind.RESULT)) == 0
    assert memory.purge(Selector(document=TAG.document)) == 4
    assert memory.size() == (0, 0)


def test_threads_do_not_break_the_sums() -> None:
    memory = Memory(10 * SIZE)

    def work(start: int) -> None:
        for step in range(2000):
            memory.put(entry((start + step) % 40))
            memory.get_many([key((start * 7 + step) % 40)], 0.0)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = present(memory, range(40))
    assert memory.size() == (len(held), len(held) * SIZE) == (10, 10 * SIZE)
