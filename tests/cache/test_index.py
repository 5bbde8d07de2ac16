import errno
import sqlite3
import time
from pathlib import Path

import pytest

from cache import Fault, Kind
from cache.entry import Entry, encode
from cache.errors import classify
from cache.index import Index, Row
from tests.cache.helpers import TAG, key, state


def entry(number: int, numbers: int = 700) -> Entry:
    now = time.time()
    return Entry(key(number), TAG.encode(Kind.STATE), now, now + 100, state(number, numbers))


def write(index: Index, number: int) -> None:
    placed = index.place(key(number), *encode(entry(number), bytes(32)))
    with index.transaction():
        index.write(entry(number), placed)


def write_many(index: Index) -> None:
    for number in range(100):
        write(index, number)


def test_a_full_index_reads_as_a_full_disk_and_heals(tmp_path: Path) -> None:
    index = Index(tmp_path, 1, 0.05)
    index._sql("PRAGMA max_page_count = 30")
    with pytest.raises(sqlite3.OperationalError) as caught:
        write_many(index)
    assert classify(caught.value) is Fault.DISK_FULL
    index._sql("PRAGMA max_page_count = 3000")
    write(index, 100)
    assert list(index.find([bytes(key(100))])) == [bytes(key(100))]
    index.close()


def locks(path: Path) -> list[str]:
    """Return the POSIX locks that processes hold on a file."""
    inode = f":{path.stat().st_ino}"
    return [line for line in Path("/proc/locks").read_text().splitlines() if "POSIX" in line and inode in line]


def test_opening_an_index_again_keeps_this_processs_locks(tmp_path: Path) -> None:
    index = Index(tmp_path, 1, 0.05)
    before = locks(tmp_path / "cache.db")
    assert before
    again = Index(tmp_path, 1, 0.05)
    assert locks(tmp_path / "cache.db") == before
    again.close()
    index.close()


def fail_after_a_rollback(index: Index) -> None:
    with index.transaction():
        index._sql("ROLLBACK")  # as SQLite does by itself when a disk is full
        raise OSError(errno.ENOSPC, "full")


def test_a_rollback_that_fails_does_not_hide_its_cause(tmp_path: Path) -> None:
    index = Index(tmp_path, 1, 0.05)
    with pytest.raises(OSError, match="full") as caught:
        fail_after_a_rollback(index)
    assert classify(caught.value) is Fault.DISK_FULL
    index.close()


def test_a_transaction_that_cannot_begin_reads_as_its_cause(tmp_path: Path) -> None:
    index, other = (Index(tmp_path, 1, 0.01) for _ in range(2))
    with other.transaction(), pytest.raises(sqlite3.OperationalError, match="locked") as caught:
        write(index, 1)
    assert classify(caught.value) is Fault.LOCKED
    index._sql("PRAGMA query_only = ON")
    with pytest.raises(sqlite3.OperationalError) as denied:
        index.forget(bytes(key(1)), Row(None, None))
    assert classify(denied.value) is Fault.READ_ONLY
    index.close()
    other.close()
