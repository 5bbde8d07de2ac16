import math
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cache import (
    CacheSettings,
    Event,
    Fault,
    ForeignFolderError,
    InvalidSettingError,
    Kind,
    PurgeIncompleteError,
    SettingsConflictError,
    Store,
    Tag,
    Usage,
)
from cache.disk import ROW_BYTES
from cache.entry import HEADER_BYTES
from cache.tag import Selector
from cache.writer import Write
from tests.cache.helpers import KEYS, TAG, Opener, key, state


def fill(store: Store, *numbers: int) -> None:
    for number in numbers:
        assert store.put(key(number), state(number), TAG)
    assert store.flush()


def served(store: Store, *numbers: int) -> list[int]:
    """Tell which of these are served, and check that they are served right."""
    arrays = store.get_many([key(number) for number in numbers])
    hits = [(number, array) for number, array in zip(numbers, arrays, strict=True) if array is not None]
    assert all(np.array_equal(array, state(number)) for number, array in hits)
    return [number for number, _ in hits]


def counts(store: Store) -> dict[Event, int]:
    events: dict[Event, int] = {}
    for (event, _), count in store.stats().events.items():
        events[event] = events.get(event, 0) + count
    return events


def test_what_was_stored_is_served_by_the_next_process(open_store: Opener) -> None:
    first = open_store()
    small = np.arange(384, dtype=np.float32).reshape(2, 192)
    first.put(key(1), state(1).reshape(300, 100), TAG)
    first.put(key(1, Kind.RESULT), small, TAG)
    first.close()
    second = open_store()
    big = second.get(key(1))
    assert big is not None
    assert (big.dtype, big.shape) == (np.dtype(np.uint16), (300, 100))
    assert np.array_equal(big.ravel(), state(1))
    vector = second.get(key(1, Kind.RESULT))
    assert vector is not None
    assert (vector.dtype, vector.tolist()) == (small.dtype, small.tolist())
    assert second.get(key(2)) is None
    assert counts(second) == {Event.DISK_HIT: 2, Event.MISS: 1}
    assert open_store.faults == []


def test_many_keys_are_answered_in_their_order(open_store: Opener) -> None:
    store = open_store(memory_bytes=1 << 20)
    fill(store, *range(40))  # 60 kB each: the older ones have left memory
    wanted = [7, 39, 100, 0, 7, 38]
    arrays = store.get_many([key(number) for number in wanted])
    assert [None if array is None else array[0] for array in arrays] == [
        None if number == 100 else state(number)[0] for number in wanted
    ]
    assert counts(store) == {Event.STORED: 40, Event.MEMORY_HIT: 2, Event.DISK_HIT: 2, Event.MISS: 1}


def test_more_keys_than_one_statement_takes(open_store: Opener) -> None:
    store = open_store()
    for number in range(1_203):
        store.put(key(number), np.array([number], np.int32), TAG)
    store.flush()
    arrays = store.get_many([key(number) for number in range(1_203)])
    assert [int(array[0]) for array in arrays if array is not None] == list(range(1_203))


def test_put_keeps_a_copy_and_get_lends_a_view_that_nobody_can_write(open_store: Opener) -> None:
    store = open_store(memory_bytes=1 << 20)
    array = state(1).copy()
    store.put(key(1), array, TAG)
    array[:] = 0
    for _ in ("from memory", "from disk"):
        got = store.get(key(1))
        assert got is not None
        assert np.array_equal(got, state(1))
        with pytest.raises(ValueError, match="read-only"):
            got[0] = 1
        store.flush()
        store._memory.purge(Selector())


def test_a_strided_array_is_stored_as_it_reads(open_store: Opener) -> None:
    store = open_store()
    strided = state(1).reshape(300, 100).T[::2]
    store.put(key(1), strided, TAG)
    store.flush()
    got = store.get(key(1))
    assert got is not None
    assert np.array_equal(got, strided)


def test_a_newer_value_replaces_the_older_one_and_its_file(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    store.put(key(1), state(2), TAG)
    store.flush()
    got = store.get(key(1))
    assert got is not None
    assert np.array_equal(got, state(2))
    assert len(list(open_store.folder.rglob("*.val"))) == 1


def test_only_the_owner_may_read_anything(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1, 1, 1)  # the first makes the folder, the others find it
    paths = list(open_store.folder.rglob("*"))
    assert {path.suffix for path in paths} >= {".val", ".db", ".db-wal", ".db-shm", ".json"}
    for path in [open_store.folder, *paths]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_an_entry_lives_its_time(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    clock = [now]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    store = open_store(time_to_live=100.0, memory_bytes=1 << 20)
    fill(store, 1)
    clock[0] = now + 99
    assert served(store, 1) == [1]
    store._memory.purge(Selector())
    assert served(store, 1) == [1]
    clock[0] = now + 101
    assert served(store, 1) == []
    store._memory.purge(Selector())
    assert served(store, 1) == []
    store._disk._next_expiry = 0.0
    wait_until(lambda: counts(store).get(Event.EXPIRED) == 1)
    assert list(open_store.folder.rglob("*.val")) == []


def wait_until(condition: object, seconds: float = 5.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_the_oldest_leave_when_the_limit_is_reached(open_store: Opener) -> None:
    store = open_store(size_limit=1 << 20)
    fill(store, *range(40))  # 60 kB each
    left = served(store, *range(40))
    assert left == list(range(left[0], 40)), "the newest are here, all of them"
    assert 5 <= len(left) <= 16
    assert counts(store)[Event.EVICTED] == 40 - len(left)
    assert len(list(open_store.folder.rglob("*.val"))) == len(left)
    assert store.stats().disk_bytes <= 1 << 20


def test_small_values_obey_the_limit_too(open_store: Opener) -> None:
    store = open_store(size_limit=1 << 20)
    for number in range(2_000):
        store.put(key(number, Kind.RESULT), state(number, 700), TAG)
        if number % 200 == 0:
            store.flush()
    store.flush()
    assert store.stats().disk_bytes <= 1 << 20
    assert 100 < store.stats().disk[Kind.RESULT].entries < 1_000


def test_a_value_beyond_the_limit_evicts_nobody(open_store: Opener) -> None:
    store = open_store(size_limit=1 << 20)
    fill(store, 1)
    store.put(key(2), np.zeros(1 << 20, np.uint8), TAG)
    store.flush()
    assert served(store, 1) == [1]
    assert counts(store)[Event.DROPPED] == 1


def test_the_store_gives_way_when_others_fill_the_disk(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    fill(store, *range(15))
    monkeypatch.setattr(type(store._disk), "_disk_has", lambda *_: False)
    store.put(key(99), state(99), TAG)
    store.flush()
    assert served(store, 99) == []
    assert counts(store)[Event.DROPPED] == 1
    assert counts(store)[Event.EVICTED] == 10
    assert [fault for fault, _ in open_store.faults] == [Fault.DISK_FULL]


def test_min_free_bytes_is_asked_of_the_file_system(open_store: Opener) -> None:
    store = open_store(min_free_bytes=1 << 60)
    store.put(key(1), state(1), TAG)
    store.flush()
    assert counts(store)[Event.DROPPED] == 1


def test_bytes_are_told_by_kind(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1, 2, 2)
    store.put(key(1, Kind.RESULT), state(1, 700), TAG)
    store.put(key(1, Kind.TOKENS), state(1, 20_000), TAG)
    store.flush()
    store.purge(kind=Kind.TOKENS)
    assert store.stats().disk == {
        Kind.STATE: Usage(2, 2 * (60_000 + HEADER_BYTES)),
        Kind.RESULT: Usage(1, 1_400 + HEADER_BYTES),
        Kind.TOKENS: Usage(0, 0),
    }


def test_a_write_never_waits_and_what_does_not_fit_is_dropped(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(queue_bytes=200_000)
    write = store._disk.write

    def slowly(writes: Sequence[Write]) -> None:
        time.sleep(0.3)
        write(writes)

    monkeypatch.setattr(store._writer, "_write", slowly)
    start = time.perf_counter()
    kept = [store.put(key(number), state(number), TAG) for number in range(8)]
    assert time.perf_counter() - start < 0.2
    assert 3 <= sum(kept) <= 6  # as many fit into the queue; the writer may have taken as many
    assert counts(store)[Event.DROPPED] == 8 - sum(kept)
    assert store.flush()
    assert served(store, *range(8)) == [number for number in range(8) if kept[number]]


def test_what_has_no_room_together_is_written_as_far_as_there_is_room(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store()
    left = 5 * (state(0).nbytes + HEADER_BYTES + ROW_BYTES)

    def make_room(index: object, nbytes: int, *, modest: bool) -> bool:
        nonlocal left
        left -= nbytes if (fits := nbytes <= left) else 0
        return fits

    monkeypatch.setattr(store._disk, "_make_room", make_room)
    for number in range(8):
        store.put(key(number), state(number), TAG)
    assert store.flush()
    assert (counts(store)[Event.STORED], counts(store)[Event.DROPPED]) == (5, 3)


def test_large_values_are_read_one_at_a_time_and_not_kept(open_store: Opener) -> None:
    with open_store() as store:
        for number in range(6):
            store.put(key(number), state(number, 20_000 + 1_000 * number), TAG)
    store = open_store(memory_bytes=1 << 20)
    store.put(key(7), state(7), TAG)  # in memory
    wanted = [key(number) for number in (0, 7, 3, 9, 3, 5)]
    found = {name: np.zeros(0) if array is None else array.copy() for name, array in store.each(wanted)}
    assert [name.digest for name in found] == [name.digest for name in (key(7), key(0), key(3), key(9), key(5))]
    assert not len(found[key(9)])
    assert np.array_equal(found[key(7)], state(7))
    for number in (0, 3, 5):
        assert np.array_equal(found[key(number)], state(number, 20_000 + 1_000 * number))
    events = counts(store)
    assert (events[Event.MEMORY_HIT], events[Event.DISK_HIT], events[Event.MISS]) == (1, 3, 1)
    assert store.stats().memory_entries == 1


def test_a_large_value_stays_while_the_next_is_read(open_store: Opener) -> None:
    with open_store() as store:
        fill(store, 0, 1, 2, 3)
        (damaged,) = [path for path in store.settings.folder.rglob("*.val") if bytes(key(2)).hex() in path.name]
    damaged.write_bytes(b"short")
    store = open_store()
    last: tuple[int, NDArray[np.uint16]] | None = None
    seen = []
    for name, array in store.each([key(number) for number in (0, 9, 1, 2, 9, 3)]):
        if array is not None:
            if last:
                assert np.array_equal(last[1], state(last[0]))
            last = int.from_bytes(name.digest, "big"), array
            seen.append(array)
    assert len(seen) == 3
    assert np.shares_memory(seen[0], seen[2]), "and no longer"
    assert not np.shares_memory(seen[0], seen[1])


def test_a_look_up_of_large_values_may_end_early(open_store: Opener) -> None:
    with open_store() as store:
        fill(store, 0, 1, 2)
    store = open_store()
    assert next(store.each([key(number) for number in range(3)]))[1] is not None
    assert served(store, 0, 1, 2) == [0, 1, 2]
    assert not store.stats().faults


def test_close_drops_what_takes_too_long_and_counts_it(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(size_limit=1 << 20)  # a batch is an eighth of it: two entries
    monkeypatch.setattr(store._writer, "_write", lambda *_: time.sleep(0.2))
    for number in range(5):
        store.put(key(number), state(number), TAG)
    store.close(timeout=0.1)
    assert store._counters.snapshot()[0][Event.DROPPED, Kind.STATE] >= 3


def test_after_close_everything_is_a_miss(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    store.close()
    assert served(store, 1) == []
    assert not store.put(key(2), state(2), TAG)


def test_a_dtype_outside_the_format_is_the_callers_error(open_store: Opener) -> None:
    with pytest.raises(TypeError, match="object"):
        open_store().put(key(1), np.array([object()]), TAG)


ACME, ZETA = Tag("acme", "minilm", b"a" * 16), Tag("zeta", "e5", b"z" * 16)


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        ({"tenant": "acme"}, [2, 3]),
        ({"model": "e5"}, [0, 1]),
        ({"document": b"z" * 16}, [0, 1]),
        ({"kind": Kind.RESULT}, [0, 2]),
        ({"kind": Kind.RESULT, "tenant": "zeta"}, [0, 1, 2]),
        ({"tenant": "nobody"}, [0, 1, 2, 3]),
        ({"older_than": 3600.0}, [0, 1, 2, 3]),
        ({"older_than": 0.0}, []),
        ({}, []),
    ],
)
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_purge_takes_what_it_names(
    open_store: Opener, selection: dict[str, object], left: list[int], memory_bytes: int
) -> None:
    store = open_store(memory_bytes=memory_bytes)
    entries = [(key(n, kind), tag) for n, tag in ((1, ACME), (2, ZETA)) for kind in (Kind.STATE, Kind.RESULT)]
    for name, tag in entries:
        store.put(name, state(1, 700), tag)
    store.flush()
    purged = store.purge(**selection)  # type: ignore[arg-type]
    assert sum(purged.disk.values()) == 4 - len(left)
    assert purged.memory == (4 - len(left) if memory_bytes else 0)
    arrays = store.get_many([name for name, _ in entries])
    assert [i for i, array in enumerate(arrays) if array is not None] == left
    assert counts(store).get(Event.PURGED, 0) == 4 - len(left)


def test_a_purge_leaves_nothing_of_the_bytes(open_store: Opener) -> None:
    store = open_store()
    mark = b"a mark that no other bytes contain"
    for size in (1, 1_000):  # in the index, and in a file
        store.put(key(size), np.frombuffer(mark * size, np.uint8), TAG)
    store.flush()

    def marked() -> list[str]:
        files = (path for path in open_store.folder.rglob("*") if path.is_file())
        return [path.suffix for path in files if mark in path.read_bytes()]

    assert len(marked()) >= 2
    store.purge(document=TAG.document)
    assert marked() == []


def test_a_purge_covers_queued_writes_and_the_one_under_way(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(memory_bytes=1 << 20)
    place, started = type(store._disk._index).place, []  # type: ignore[union-attr]

    def slowly(self: object, *value: object) -> object:
        started.append(1)
        time.sleep(0.3)
        return place(self, *value)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store._disk._index), "place", slowly)
    store.put(key(0), state(0), TAG)
    wait_until(lambda: started)
    for number in (1, 2):
        store.put(key(number), state(number), TAG)
    purged = store.purge(document=TAG.document)
    assert (purged.memory, purged.queued) == (3, 2)
    assert store.flush()
    assert served(store, 0, 1, 2) == []
    assert list(open_store.folder.rglob("*.val")) == []


def test_an_unusable_disk_makes_a_purge_incomplete(open_store: Opener) -> None:
    open_store.folder.parent.joinpath("file").touch()
    store = open_store(folder=open_store.folder.parent / "file" / "cache", memory_bytes=1 << 20)
    store.put(key(1), state(1), TAG)
    assert served(store, 1) == [1], "memory serves without a disk"
    with pytest.raises(PurgeIncompleteError):
        store.purge()
    assert served(store, 1) == []


def test_check_finds_and_removes_what_is_not_valid(open_store: Opener) -> None:
    store = open_store()
    store._disk._next_sweep = math.inf  # the writer would remove the orphan, sooner or later
    fill(store, *range(5))
    values = sorted(open_store.folder.rglob("*.val"))
    values[0].write_bytes(values[0].read_bytes()[:-1] + b"?")
    values[1].unlink()
    orphan = values[2].with_name(f"{'0' * 66}-{'0' * 12}.val")
    orphan.write_bytes(b"left by a killed writer")
    os.utime(orphan, (0, 0))
    expected = (3, 2, 1, True)
    assert tuple(getattr(store.check(), name) for name in ("valid", "invalid", "orphans", "index_sound")) == expected
    assert orphan.exists(), "looking changes nothing"
    store.check(fix=True)
    report = store.check()
    assert (report.valid, report.invalid, report.orphans) == (3, 0, 0)
    assert store.stats().disk[Kind.STATE] == Usage(3, 3 * (60_000 + HEADER_BYTES))


def test_other_settings_for_a_folder_in_use_are_a_start_error_that_names_them(open_store: Opener) -> None:
    open_store()
    with pytest.raises(SettingsConflictError, match=r"size_limit is 4294967296 there and 1048576 here$"):
        open_store(size_limit=1 << 20)
    with pytest.raises(SettingsConflictError, match="time_to_live is"):
        open_store(time_to_live=5.0)
    open_store(memory_bytes=5)  # each process's own


def test_who_is_alone_may_change_the_settings(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    store.close()
    assert served(open_store(size_limit=1 << 20), 1) == [1]


def test_a_folder_with_other_things_is_left_alone(open_store: Opener, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(ForeignFolderError, match="neither empty nor a cache"):
        open_store(folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


@pytest.mark.parametrize("name", ["notes.txt", "generation-2/weights.pt", "generation-1/cache.db"])
def test_a_folder_with_generations_of_something_else_is_left_alone(
    open_store: Opener, tmp_path: Path, name: str
) -> None:
    runs = tmp_path / "runs"
    (runs / "generation-1").mkdir(parents=True)
    (runs / "generation-2").mkdir()
    (runs / name).write_text("precious")
    with pytest.raises(ForeignFolderError, match="neither empty nor a cache"):
        open_store(folder=runs)
    (runs / "ledger").touch()  # a file of the same name, by chance
    if "/" not in name:
        with pytest.raises(ForeignFolderError):
            open_store(folder=runs)
    else:
        (runs / "generation-3").mkdir()
        store = open_store(folder=runs)
        store.purge()
        assert store._disk._index is not None
        assert store._disk._index.generation == 3
    assert (runs / name).exists() is (name != "generation-1/cache.db")


def test_a_mount_point_is_as_good_as_an_empty_folder(open_store: Opener) -> None:
    (open_store.folder / "lost+found").mkdir(parents=True)
    store = open_store()
    fill(store, 1)
    assert served(store, 1) == [1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("size_limit", 5), ("min_free_bytes", -1), ("time_to_live", 0.0), ("time_to_live", float("nan")),
     ("memory_bytes", -1), ("queue_bytes", -1), ("lock_timeout", -0.1)],
)  # fmt: skip
def test_a_setting_without_sense_is_named(tmp_path: Path, name: str, value: float) -> None:
    with pytest.raises(InvalidSettingError, match=f"^{name} must be"):
        CacheSettings(tmp_path, **{name: value})  # type: ignore[arg-type]


def test_a_modest_entry_makes_nobody_leave(tmp_path: Path) -> None:
    array = np.arange(50_000, dtype=np.float32)
    settings = CacheSettings(tmp_path, size_limit=1 << 20, min_free_bytes=0, memory_bytes=500_000)
    with Store(settings, KEYS) as store:
        for number in range(4):
            store.put(key(number), array + number, TAG)
        store.flush()
        held = store.contains_many([key(number) for number in range(4)])
        for number in range(4, 10):
            store.put(key(number), array, TAG, modest=True)
        store.flush()
        assert store.contains_many([key(number) for number in range(4)]) == held
        assert store.stats().events.get((Event.EVICTED, Kind.STATE), 0) == 0
        assert not all(store.contains_many([key(number) for number in range(4, 10)]))
        assert store.get(key(0)) is not None
