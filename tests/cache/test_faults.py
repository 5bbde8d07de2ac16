"""Whatever the disk does, the store answers on: rightly or not at all."""

import contextlib
import errno
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import faults as trials
from cache import Event, Fault, Kind, PurgeIncompleteError, Store
from cache import entry as entry_module
from cache.entry import HEADER_BYTES, MAC_BYTES
from cache.index import FANOUT
from cache.stats import Report
from tests.cache.helpers import KEYS, TAG, Opener, key, state


def fill(store: Store, *numbers: int) -> None:
    for number in numbers:
        store.put(key(number), state(number), TAG)
    assert store.flush()


def works(number: int, store: Store, *others: Store) -> bool:
    """Store something, and tell whether it comes back, here and elsewhere."""
    fill(store, number)
    return all(served(each, number) for each in (store, *others))


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def served(store: Store, *numbers: int) -> list[int]:
    """Tell which of these are served, and check that they are served right."""
    arrays = store.get_many([key(number) for number in numbers])
    hits = [(number, array) for number, array in zip(numbers, arrays, strict=True) if array is not None]
    assert all(np.array_equal(array, state(number)) for number, array in hits)
    return [number for number, _ in hits]


def counted(store: Store, event: Event) -> int:
    return sum(count for (seen, _), count in store.stats().events.items() if seen is event)


def kinds(opener: Opener) -> list[Fault]:
    return [fault for fault, _ in opener.faults]


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def edit(folder: Path, statement: str, *values: object) -> None:
    """Change the index as a program other than the store would."""
    newest = max(folder.glob("generation-*/cache.db"), key=lambda path: path.parent.name)
    database = sqlite3.connect(newest, timeout=5)
    with database:
        database.execute(statement, values)
    database.close()


def generations(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("generation-*"))


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A folder where waiting for the disk takes no time: what is tested here is not its speed."""
    memory = Path("/dev/shm")  # noqa: S108
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_killed_writer_leaves_a_store_that_opens_and_answers_rightly(tmp_path: Path) -> None:
    figures = trials.kills(tmp_path, 24, seed=int(time.time()))
    assert {name: figure.value for name, figure in figures.items()} == {"kills_wrong": 0, "kills_failed_starts": 0}


def test_random_damage_gives_no_wrong_answer_and_no_crash(fast_path: Path) -> None:
    figures = trials.flips(fast_path, 80, seed=int(time.time()))
    assert {name: figure.value for name, figure in figures.items()} == {"flips_wrong": 0, "flips_crashes": 0}


def test_the_trials_see_a_store_that_trusts_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the MAC not compared, damage would be served: the trials above are able to fail."""
    monkeypatch.setattr(entry_module, "_mac", lambda *_: bytes(MAC_BYTES))
    trials._fill(tmp_path, 0, trials._ENTRIES)
    for path in tmp_path.rglob("*.val"):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    with trials._store(tmp_path) as store:
        assert trials._wrong(store) == trials._ENTRIES // 2


def test_no_entry_is_served_when_any_field_differs(tmp_path: Path) -> None:
    assert trials.leaks(tmp_path, 300, seed=0)["leaks"].value == 0


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


@pytest.mark.parametrize("where", ["value", "file", "key"])
def test_a_pickle_is_never_loaded(
    open_store: Opener, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb())
    store = open_store()
    fill(store, 1)
    if where == "value":
        edit(open_store.folder, "UPDATE Cache SET mode = 4, filename = NULL, value = ?", bomb)
    elif where == "file":
        next(open_store.folder.rglob("*.val")).write_bytes(bomb)
        edit(open_store.folder, "UPDATE Cache SET mode = 4")
    else:
        edit(open_store.folder, "INSERT INTO Cache (key, raw, mode, value) VALUES (?, 0, 4, ?)", bomb, bomb)
    for user in (store, open_store()):
        assert served(user, 1) == ([1] if where == "key" else [])
        user.check(fix=where != "key")
    store.purge()
    assert not Path("exploded").exists()
    pickle.loads(bomb)  # noqa: S301 (the bomb is live)
    assert Path("exploded").exists()


def test_a_row_that_names_another_valid_file_is_a_miss_and_the_file_stays(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1, 2)
    edit(
        open_store.folder,
        "UPDATE Cache SET filename = (SELECT filename FROM Cache WHERE key = ?) WHERE key = ?",
        bytes(key(2)),
        bytes(key(1)),
    )
    assert served(store, 1, 2) == [2]
    wait_until(lambda: store.stats().disk[Kind.STATE].entries == 1)
    assert served(store, 1, 2) == [2]
    assert counted(store, Event.CORRUPT) == 1, "the row was removed"
    assert kinds(open_store) == [Fault.CORRUPT_ENTRY]


@pytest.mark.parametrize("name", ["../../precious", "/{folder}/../precious", "ab/../../../precious", "precious\0.val"])
def test_a_row_that_names_a_foreign_file_neither_reads_nor_removes_it(open_store: Opener, name: str) -> None:
    precious = open_store.folder.parent / "precious"
    precious.write_text("not the store's")
    store = open_store()
    fill(store, 1)
    edit(open_store.folder, "UPDATE Cache SET filename = ?", name.format(folder=open_store.folder))
    assert served(store, 1) == []
    fill(store, 1)
    edit(open_store.folder, "UPDATE Cache SET filename = ?", name.format(folder=open_store.folder))
    store.put(key(1), state(1), TAG)
    store.flush()
    store.purge()
    assert precious.read_text() == "not the store's"


def test_a_fifo_or_a_link_in_a_values_place_hangs_nobody(open_store: Opener, tmp_path: Path) -> None:
    store = open_store()
    fill(store, 1, 2)
    first, second = sorted(open_store.folder.rglob("*.val"))
    shutil.copy(second, tmp_path / "elsewhere")
    first.unlink()
    os.mkfifo(first)
    second.unlink()
    second.symlink_to(tmp_path / "elsewhere")
    start = time.monotonic()
    assert served(store, 1, 2) == []
    assert time.monotonic() - start < 1


def test_a_value_that_went_is_a_miss(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    next(open_store.folder.rglob("*.val")).unlink()
    assert served(store, 1) == []
    fill(store, 1)
    assert served(store, 1) == [1]
    assert kinds(open_store) == []


def test_an_older_format_is_a_miss_and_is_told_once(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    monkeypatch.setattr(entry_module, "FORMAT", 0)
    fill(store, 1, 2)
    monkeypatch.undo()
    assert served(store, 1, 2) == []
    assert counted(store, Event.OLD_FORMAT) == 2
    assert kinds(open_store) == [Fault.OLD_FORMAT]
    assert store.stats().faults == {Fault.OLD_FORMAT: 2}
    fill(store, 1, 2)
    assert served(store, 1, 2) == [1, 2]


def test_a_row_cannot_prolong_an_entrys_life(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(time_to_live=5.0)
    fill(store, 1)
    edit(open_store.folder, "UPDATE Cache SET expire_time = 9e99")
    later = time.time() + 6
    monkeypatch.setattr(time, "time", lambda: later)
    assert served(store, 1) == []


def foreign_database() -> bytes:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE Cache (of, another, program)")
    return database.serialize()


BREAK: dict[str, Callable[[Path], object]] = {
    "garbage": lambda index: index.write_bytes(b"no database" * 1_000),
    "a directory": become_folder,
    "gone": lambda index: index.unlink(),
    "another program's": lambda index: index.write_bytes(foreign_database()),
    "half": lambda index: os.truncate(index, index.stat().st_size // 2),
}


@pytest.mark.parametrize("harm", BREAK.values(), ids=BREAK.keys())
def test_a_broken_index_is_left_behind_at_start(open_store: Opener, harm: Callable[[Path], object]) -> None:
    store = open_store()
    fill(store, *range(5))
    store.close()
    harm(open_store.folder / "generation-1" / "cache.db")
    store = open_store()
    assert served(store, *range(5)) in ([], list(range(5)))
    wait_until(lambda: works(6, store))
    assert kinds(open_store) in ([], [Fault.CORRUPT_INDEX])
    assert served(open_store(), 6) == [6]


@pytest.mark.parametrize("harm", BREAK.values(), ids=BREAK.keys())
def test_a_broken_index_is_left_behind_in_flight(open_store: Opener, harm: Callable[[Path], object]) -> None:
    store, other = open_store(), open_store()
    fill(store, *range(5))
    assert served(other, 0) == [0]
    harm(open_store.folder / "generation-1" / "cache.db")
    served(store, *range(5))
    wait_until(lambda: works(6, store, other))
    assert set(kinds(open_store)) <= {Fault.CORRUPT_INDEX}


def test_a_deleted_index_is_noticed_while_nothing_is_written(open_store: Opener) -> None:
    open_store()
    (open_store.folder / "generation-1" / "cache.db").unlink()
    wait_until(lambda: generations(open_store.folder)[-1:] == ["generation-2"])
    assert kinds(open_store) == [Fault.CORRUPT_INDEX]


def test_what_is_left_behind_is_removed(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    edit(open_store.folder, "DROP TABLE Cache")
    assert served(store, 1) == []
    wait_until(lambda: generations(open_store.folder) == ["generation-2"])


def test_a_deleted_folder_is_made_again(open_store: Opener) -> None:
    store = open_store(memory_bytes=1 << 20)
    fill(store, 1)
    shutil.rmtree(open_store.folder)
    wait_until(lambda: (open_store.folder / "ledger").exists() and store.stats().disk_usable)
    fill(store, 2)
    assert served(open_store(), 2) == [2]
    assert served(store, 1) == [], "who deletes the folder wants its content gone from memory too"


def test_purges_reach_a_process_whose_folder_was_moved(open_store: Opener) -> None:
    store = open_store(memory_bytes=1 << 20)
    fill(store, 1)
    open_store.folder.rename(open_store.folder.with_name("moved"))
    wait_until(lambda: (open_store.folder / "ledger").exists() and store.stats().disk_usable)
    fill(store, 2)
    open_store().purge()
    assert served(store, 1, 2) == []


def test_what_was_kept_while_out_of_the_folder_does_not_survive_a_purge(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store.folder.touch()  # the folder cannot be used
    store = open_store(memory_bytes=1 << 20)
    ticked = store._writer._tick
    monkeypatch.setattr(store._writer, "_tick", lambda: None)
    for _ in range(2):
        store.put(key(1), state(1), TAG)
        assert served(store, 1) == [1]
        open_store.folder.unlink()
        open_store().purge()
        store._disk._next_attempt = 0.0
        ticked()
        assert store.stats().disk_usable
        assert served(store, 1) == []
        shutil.rmtree(open_store.folder)
        open_store.folder.touch()
        ticked()
        assert not store.stats().disk_usable


def test_a_damaged_settings_file_stops_nobody(open_store: Opener) -> None:
    fill(open_store(), 1)
    for content in (b"", b"\xff\xfe", b"[]", b'{"size_limit": 1}'):
        (open_store.folder / "settings.json").write_bytes(content)
        assert served(open_store(), 1) == [1]


@pytest.mark.parametrize("size", [1 << 50, -(1 << 50)])
def test_a_wrong_size_of_the_store_is_mended_each_hour(open_store: Opener, size: int) -> None:
    store = open_store()
    fill(store, 1)
    store.put(key(2), state(2, 700), TAG)  # in the index
    assert store.flush()
    assert store._disk._index is not None
    assert not store._disk._index.is_miscounted()
    right = store.stats().disk_bytes
    edit(open_store.folder, "UPDATE Settings SET value = ? WHERE key = 'size'", size)
    assert store._disk._index.is_miscounted()
    store._disk._sweep_part, store._disk._next_sweep = FANOUT - 1, 0.0
    wait_until(lambda: store.stats().disk_bytes == right)
    assert served(store, 1) == [1]


def test_a_size_that_is_recorded_too_high_does_not_end_all_writes(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    edit(open_store.folder, "UPDATE Settings SET value = ? WHERE key = 'size'", 1 << 50)
    fill(store, 2)
    assert served(store, 2) == [2]
    fill(store, 3)
    assert served(store, 2, 3) == [2, 3]


@contextlib.contextmanager
def locked(folder: Path, how: str) -> Iterator[None]:
    """Let another process hold a lock on the index."""
    program = f"""
import sqlite3, sys
database = sqlite3.connect({str(folder / "generation-1" / "cache.db")!r}, isolation_level=None)
for statement in {how!r}.split(";"):
    database.execute(statement)
print(flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"\n"
    yield
    holder.communicate()


def test_a_writer_that_hangs_delays_no_look_up(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    with locked(open_store.folder, "BEGIN IMMEDIATE"):
        start = time.monotonic()
        store.put(key(2), state(2), TAG)
        assert served(store, 1) == [1]
        assert time.monotonic() - start < 0.5
        assert store.flush()
        assert counted(store, Event.DROPPED) == 1
    assert kinds(open_store) == [Fault.LOCKED]
    assert len(list(open_store.folder.rglob("*.val"))) == 1, "what got no row left no file"
    fill(store, 2)
    assert served(store, 1, 2) == [1, 2]


def test_a_purge_is_incomplete_while_a_reader_keeps_purged_rows_in_the_wal(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.disk.PURGE_PATIENCE", 0.1)
    store = open_store()
    store.put(key(1), state(1, 700), TAG)  # in the index
    assert store.flush()
    secret = state(1, 700).tobytes()[:64]

    def readable() -> bool:
        return any(secret in path.read_bytes() for path in open_store.folder.rglob("cache.db*"))

    assert readable()
    with locked(open_store.folder, "BEGIN;SELECT * FROM Cache"):
        with pytest.raises(PurgeIncompleteError, match="locked"):
            store.purge()
        assert store.get(key(1)) is None
        assert counted(store, Event.PURGED) == 1
    store.purge()
    assert not readable()


def test_an_index_that_stays_locked_does_not_keep_the_store_from_starting(open_store: Opener) -> None:
    fill(open_store(), 1)
    open_store().close()
    with locked(open_store.folder, "BEGIN IMMEDIATE"):
        start = time.monotonic()
        store = open_store(memory_bytes=1 << 20)
        assert time.monotonic() - start < 3
        assert not store.stats().disk_usable
        store.put(key(2), state(2), TAG)
        assert served(store, 1, 2) == [2]
    assert set(kinds(open_store)) == {Fault.LOCKED}
    wait_until(lambda: served(store, 1) == [1])


def damaged(open_store: Opener, *numbers: int) -> Store:
    """Open a store with these entries, the first of them damaged."""
    store = open_store()
    fill(store, *numbers)
    value = next(open_store.folder.rglob(f"{bytes(key(numbers[0])).hex()}-*.val"))
    value.write_bytes(value.read_bytes()[:-1])
    return store


def test_a_check_waits_for_a_lock(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.index.WRITE_PATIENCE", 60.0)
    store = damaged(open_store, 1, 2, 3)
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(store.check(fix=True)))
    with locked(open_store.folder, "BEGIN IMMEDIATE"):
        thread.start()
        time.sleep(0.3)
    thread.join(60)
    assert reports == [Report(valid=2, invalid=1, orphans=0, index_sound=True, finished=True)]
    assert store.check() == Report(valid=2, invalid=0, orphans=0, index_sound=True, finished=True)


def test_a_check_that_meets_a_lasting_lock_is_not_finished(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.index.WRITE_PATIENCE", 0.1)
    store = damaged(open_store, 1, 2, 3)
    with locked(open_store.folder, "BEGIN IMMEDIATE"):
        report = store.check(fix=True)
    assert report == Report(valid=0, invalid=1, orphans=0, index_sound=True, finished=False)
    assert store.check(fix=True) == Report(valid=2, invalid=1, orphans=0, index_sound=True, finished=True)


def test_a_check_does_not_mind_an_entry_that_is_evicted_meanwhile(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1, 2, 3)
    index = store._disk._index
    assert index is not None
    reports = index.check(KEYS.sealing_key(), fix=True)
    assert [next(reports).valid for _ in range(2)] == [0, 1]  # all rows are read, and the first value
    index.take_all("key = ?", [bytes(key(2))])
    fill(store, 3)  # replaced
    assert list(reports)[-1] == Report(valid=1, invalid=0, orphans=0, index_sound=True, finished=True)
    assert served(store, 1, 2, 3) == [1, 3]


def test_a_check_removes_nothing_that_it_cannot_read_now(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store()
    fill(store, 1, 2)

    def exhausted(*_: object) -> memoryview:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("cache.index.read_file", exhausted)
        assert store.check(fix=True) == Report(valid=0, invalid=0, orphans=0, index_sound=True, finished=False)
    assert served(store, 1, 2) == [1, 2]


def test_a_look_up_that_meets_a_lock_is_a_counted_miss(open_store: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(lock_timeout=0.05)
    fill(store, 1)
    real = store._disk._index.find  # type: ignore[union-attr]
    busy = sqlite3.connect(open_store.folder / "busy", timeout=0, isolation_level=None)
    other = sqlite3.connect(open_store.folder / "busy", timeout=0, isolation_level=None)
    busy.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr(store._disk._index, "find", lambda _: other.execute("SELECT * FROM sqlite_master"))
    assert served(store, 1) == []
    assert (counted(store, Event.TIMEOUT), counted(store, Event.MISS)) == (1, 1)
    assert kinds(open_store) == [Fault.LOCKED]
    monkeypatch.setattr(store._disk._index, "find", real)
    assert served(store, 1) == [1]
    busy.close()
    other.close()


def test_orphans_are_swept_in_the_background_and_young_files_are_not(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    value = next(open_store.folder.rglob("*.val"))
    old, young = (value.with_name(f"{value.name[:67]}{mark * 12}.val") for mark in "0f")
    for orphan in (old, young):
        orphan.write_bytes(b"a value whose writer was killed before it wrote the row")
    os.utime(old, (0, 0))
    os.utime(value, (0, 0))
    store._disk._sweep_part, store._disk._next_sweep = int(value.parent.name, 16), 0.0
    wait_until(lambda: not old.exists())
    assert young.exists()
    assert served(store, 1) == [1], "an old value that has its row stays"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of a few megabytes; without the right to, there is nothing to test with."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_drops_writes_and_heals(open_store: Opener, small_disk: Path) -> None:
    store = open_store(folder=small_disk / "cache")
    fill(store, 0, 1)
    filler = small_disk / "filler"
    fill_up(filler)
    for number in range(2, 60):
        store.put(key(number), state(number, 30_000 if number % 2 else 500), TAG)
    assert store.flush()
    assert served(store, 0, 1) == [0, 1]
    assert len(served(store, *range(2, 60))) < 20
    assert counted(store, Event.DROPPED) > 30
    assert kinds(open_store) == [Fault.DISK_FULL]
    orphans = [path for path in small_disk.rglob("*.val") if path.stat().st_size != state(0).nbytes + HEADER_BYTES]
    assert orphans == [], "what did not fit left no piece behind"
    filler.unlink()
    fill(store, 70)
    assert served(store, 0, 1, 70) == [0, 1, 70]


def test_a_disk_that_is_full_at_start_is_tried_again(open_store: Opener, small_disk: Path) -> None:
    filler = small_disk / "filler"
    fill_up(filler)
    store = open_store(folder=small_disk / "cache", memory_bytes=1 << 20)
    store.put(key(1), state(1), TAG)
    assert served(store, 1) == [1], "memory serves"
    assert set(kinds(open_store)) == {Fault.DISK_FULL}
    filler.unlink()
    wait_until(lambda: store.stats().disk_usable)
    fill(store, 2)
    assert served(open_store(folder=small_disk / "cache"), 2) == [2]


def test_a_limit_on_file_sizes_drops_writes(open_store: Opener) -> None:
    program = f"""
import resource, sys
import numpy as np
from pathlib import Path
from cache import *
from tests.cache.helpers import KEYS, TAG, key, state
faults = []
store = Store(CacheSettings(Path({str(open_store.folder)!r}), min_free_bytes=0, memory_bytes=0), KEYS,
                   lambda fault, _: faults.append(fault.value))
store.put(key(1), state(1), TAG); assert store.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
store.put(key(2), state(2), TAG); assert store.flush()
print(store.get(key(2)) is None, np.array_equal(store.get(key(1)), state(1)), faults)
"""
    assert run(program) == "True True ['disk_full']"


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_read_only_folder_serves_from_memory_and_is_told_once(open_store: Opener) -> None:
    store = open_store()
    fill(store, 1)
    store.close()
    for path in [open_store.folder, *open_store.folder.rglob("*")]:
        path.chmod(0o500 if path.is_dir() else 0o400)
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
    parents = [parent for parent in open_store.folder.parents if parent.stat().st_mode & 0o001 == 0]
    for parent in parents if os.geteuid() == 0 else []:
        parent.chmod(parent.stat().st_mode | 0o001)  # so that an ordinary user comes this far
    program = f"""
import os
import numpy as np
from pathlib import Path
from cache import *
from tests.cache.helpers import KEYS, TAG, key, state
if os.geteuid() == 0:  # for whom nothing is read-only
    os.setgid(65534); os.setuid(65534)
faults = []
settings = CacheSettings(Path({str(open_store.folder)!r}), min_free_bytes=0)
store = Store(settings, KEYS, lambda fault, _: faults.append(fault.value))
first = store.get(key(1))
kept = store.put(key(2), state(2), TAG)
served = np.array_equal(store.get(key(2)), state(2))
store.close()
print(first is None or np.array_equal(first, state(1)), kept, served, faults)
"""
    assert run(program) == "True False True ['read_only']"
    for path in [open_store.folder, *open_store.folder.rglob("*")]:
        path.chmod(0o700)


def test_a_purge_that_is_noticed_while_no_file_can_be_opened_is_a_miss(open_store: Opener) -> None:
    program = f"""
import resource, time
import numpy as np
from pathlib import Path
from cache import *
from cache.tag import Selector
from tests.cache.helpers import KEYS, TAG, key, state
faults = []
settings = CacheSettings(Path({str(open_store.folder)!r}), min_free_bytes=0)
store = Store(settings, KEYS, lambda fault, _: faults.append(fault.value))
other = Store(settings, KEYS)
for number in (1, 2):
    store.put(key(number), state(number), TAG)
assert store.flush()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
other._folder.announce(Selector(document=TAG.document))
print(store.get(key(1)))
resource.setrlimit(resource.RLIMIT_NOFILE, limits)
end = time.monotonic() + 30
while not store.stats().disk_usable and time.monotonic() < end:
    time.sleep(0.01)
store.put(key(3), state(3), TAG)
assert store.flush()
print(np.array_equal(Store(settings, KEYS).get(key(3)), state(3)), faults)
"""
    assert run(program).splitlines() == ["None", "True ['io_error']"]


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("free", range(6))
def test_an_index_is_not_left_behind_for_want_of_descriptors(open_store: Opener, free: int, broken: bool) -> None:
    store = open_store()
    fill(store, 1)
    if broken:
        store.close()
        (open_store.folder / "generation-1" / "cache.db").write_bytes(b"no database" * 1_000)
    program = f"""
import os, resource
from pathlib import Path
from cache import CacheSettings
from cache.folder import Folder
folder = Folder(CacheSettings(Path({str(open_store.folder)!r}), min_free_bytes=0), lambda _: None)
folder.enter()
used = max(map(int, os.listdir("/proc/self/fd"))) - 1  # the last one is of the listing
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1 + {free}, limits[1]))
try:
    index = folder.open_index(lambda *_: None)
except Exception:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print("failed", sorted(each for each in os.listdir(folder._path) if each.startswith("generation")))
else:
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    print("opened", index.generation)
"""
    opened = f"opened {2 if broken else 1}"
    assert run(program) in {"failed ['generation-1']", opened}
    if free == 0:
        assert run(program).startswith("failed")
    if not broken:
        assert served(store, 1) == [1]
