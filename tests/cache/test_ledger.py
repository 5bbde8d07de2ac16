import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache.key import Kind
from cache.ledger import EVERYTHING, KEPT, Ledger
from cache.tag import RECORD_BYTES, Selector

STATES, RESULTS = Selector(kind=Kind.STATE), Selector(kind=Kind.RESULT)


@pytest.fixture
def ledgers(tmp_path: Path) -> Iterator[tuple[Ledger, Ledger]]:
    """Two processes' views of one ledger (locks belong to an open file, so one process can hold both)."""
    pair = Ledger(tmp_path / "ledger"), Ledger(tmp_path / "ledger")
    assert pair[0].claim()
    for ledger in pair:
        ledger.share()
    yield pair
    for ledger in pair:
        ledger.close()


def noticed(ledger: Ledger) -> list[Selector]:
    applied: list[Selector] = []
    if ledger.changed():
        ledger.notice(applied.append)
    assert not ledger.changed()
    return applied


def test_each_process_notices_each_purge_once(ledgers: tuple[Ledger, Ledger]) -> None:
    mine, theirs = ledgers
    mine.append(STATES)
    theirs.append(RESULTS)
    for ledger in ledgers:
        assert noticed(ledger) == [STATES, RESULTS]
        assert noticed(ledger) == []
        assert ledger.since(0) == [STATES, RESULTS]
        assert ledger.since(1) == [RESULTS]
        assert ledger.since(ledger.position) == []


def test_who_comes_later_starts_after_what_was(ledgers: tuple[Ledger, Ledger], tmp_path: Path) -> None:
    ledgers[0].append(STATES)
    late = Ledger(tmp_path / "ledger")
    assert not late.claim(), "others are here"
    late.share()
    assert noticed(late) == []
    late.close()


def test_who_is_alone_empties_the_ledger(tmp_path: Path) -> None:
    first = Ledger(tmp_path / "ledger")
    first.share()
    first.append(STATES)
    first.close()
    second = Ledger(tmp_path / "ledger")
    assert second.claim()
    second.share()
    assert (tmp_path / "ledger").stat().st_size == 0
    second.close()


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[:-3],
    "a flipped byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "too long": lambda content: content + b"x",
    "shorter than before": lambda content: content[: RECORD_BYTES // 2],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_damaged_ledger_reads_as_a_purge_of_everything(
    ledgers: tuple[Ledger, Ledger], tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    mine, theirs = ledgers
    mine.append(STATES)
    assert noticed(theirs) == [STATES]
    mine.append(RESULTS)
    path = tmp_path / "ledger"
    path.write_bytes(harm(path.read_bytes()))
    assert EVERYTHING in noticed(theirs)


def test_more_purges_than_are_kept_read_as_one_of_everything(ledgers: tuple[Ledger, Ledger]) -> None:
    mine, theirs = ledgers
    for _ in range(KEPT + 1):
        mine.append(STATES)
    noticed(theirs)
    assert theirs.since(1) == [STATES] * KEPT
    assert theirs.since(0) == [EVERYTHING]
    assert theirs.since(theirs.position + 1) == [EVERYTHING], "a position of another ledger"


def test_a_deleted_ledger_is_lost(ledgers: tuple[Ledger, Ledger], tmp_path: Path) -> None:
    assert not ledgers[0].lost
    os.unlink(tmp_path / "ledger")  # noqa: PTH108
    assert ledgers[0].lost
