import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cache import CacheSettings
from cache.folder import EVERYTHING, KEPT_PURGES, Folder
from cache.key import Kind
from cache.tag import RECORD_BYTES, Selector

STATES, RESULTS = Selector(kind=Kind.STATE), Selector(kind=Kind.RESULT)


class View:
    """A process's view of the folder (locks belong to an open file, so one process can have several)."""

    def __init__(self, path: Path) -> None:
        self.applied: list[Selector] = []
        self.folder = Folder(CacheSettings(path), self.applied.append)
        self.folder.enter()

    def noticed(self) -> list[Selector]:
        del self.applied[:]
        self.folder.notice()
        assert not self.folder.notice()
        return list(self.applied)


@pytest.fixture
def view(tmp_path: Path) -> Iterator[Callable[[], View]]:
    views: list[View] = []

    def make() -> View:
        views.append(View(tmp_path / "cache"))
        return views[-1]

    yield make
    for made in views:
        made.folder.leave()


def test_each_process_notices_each_purge_once(view: Callable[[], View]) -> None:
    mine, theirs = view(), view()
    mine.folder.announce(STATES)
    theirs.folder.announce(RESULTS)
    for each in (mine, theirs):
        assert each.noticed() == [STATES, RESULTS]
        assert each.noticed() == []
        assert each.folder.since(0) == [STATES, RESULTS]
        assert each.folder.since(1) == [RESULTS]
        assert each.folder.since(each.folder.position) == []


def test_who_comes_later_starts_after_what_was(view: Callable[[], View]) -> None:
    first = view()
    first.folder.announce(STATES)
    assert view().noticed() == []
    assert first.noticed() == [STATES], "it was not alone, so it emptied nothing"


def test_who_is_alone_empties_the_ledger(view: Callable[[], View], tmp_path: Path) -> None:
    first = view()
    first.folder.announce(STATES)
    ledger = tmp_path / "cache" / "ledger"
    assert ledger.stat().st_size == RECORD_BYTES
    first.folder.leave()
    view()
    assert ledger.stat().st_size == 0


HARMS: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda content: content[:-3],
    "a flipped byte": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    "too long": lambda content: content + b"x",
    "shorter than before": lambda content: content[: RECORD_BYTES // 2],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS.keys())
def test_a_damaged_ledger_reads_as_a_purge_of_everything(
    view: Callable[[], View], tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    mine, theirs = view(), view()
    mine.folder.announce(STATES)
    assert theirs.noticed() == [STATES]
    mine.folder.announce(RESULTS)
    ledger = tmp_path / "cache" / "ledger"
    ledger.write_bytes(harm(ledger.read_bytes()))
    assert EVERYTHING in theirs.noticed()


def test_a_huge_ledger_reads_as_a_purge_of_everything(view: Callable[[], View], tmp_path: Path) -> None:
    mine, theirs = view(), view()
    os.truncate(tmp_path / "cache" / "ledger", 1 << 40)
    assert theirs.noticed() == [EVERYTHING]
    mine.folder.announce(STATES)
    assert theirs.noticed() == [STATES]


def test_more_purges_than_are_kept_read_as_one_of_everything(view: Callable[[], View]) -> None:
    mine, theirs = view(), view()
    for _ in range(KEPT_PURGES + 1):
        mine.folder.announce(STATES)
    theirs.noticed()
    assert theirs.folder.since(1) == [STATES] * KEPT_PURGES
    assert theirs.folder.since(0) == [EVERYTHING]


def replace(ledger: Path) -> None:
    ledger.rename(ledger.with_name("settings.json.old"))
    ledger.write_bytes(b"")


def delete_but_a_link(folder: Path) -> None:
    folder.with_name("link").hardlink_to(folder / "ledger")
    shutil.rmtree(folder)


GONE: dict[str, Callable[[Path], object]] = {
    "ledger deleted": lambda folder: (folder / "ledger").unlink(),
    "ledger replaced": lambda folder: replace(folder / "ledger"),
    "folder deleted": shutil.rmtree,
    "folder deleted, the ledger has another link": delete_but_a_link,
    "folder moved": lambda folder: folder.rename(folder.with_name("moved")),
}


@pytest.mark.parametrize("harm", GONE.values(), ids=GONE.keys())
def test_a_ledger_that_is_gone_reads_as_a_purge_of_everything(
    view: Callable[[], View], tmp_path: Path, harm: Callable[[Path], object]
) -> None:
    mine = view()
    assert not mine.folder.leave_if_deleted()
    mine.folder.announce(STATES)
    assert mine.noticed() == [STATES]
    position = mine.folder.position
    harm(tmp_path / "cache")
    assert mine.folder.leave_if_deleted()
    assert mine.applied == [STATES, EVERYTHING]
    assert not mine.folder.entered
    assert mine.folder.since(position) == [EVERYTHING], "also for what was put or queued before"
    mine.folder.enter()
    assert mine.folder.since(position) == [EVERYTHING] * 2, "also for what was put while out of the folder"
    mine.folder.announce(RESULTS)
    assert mine.noticed() == [RESULTS]
    assert mine.folder.since(position) == [EVERYTHING, EVERYTHING, RESULTS]


def test_before_it_is_entered_nothing_is_noticed_or_announced(tmp_path: Path) -> None:
    folder = Folder(CacheSettings(tmp_path / "cache"), lambda _: pytest.fail("nothing was purged"))
    with pytest.raises(OSError, match="out of use"):
        folder.announce(STATES)
    assert not folder.notice()
    assert not folder.leave_if_deleted()
    assert folder.since(folder.position) == []
    folder.leave()
    assert list(tmp_path.iterdir()) == []
