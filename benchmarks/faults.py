"""The layer cache under kills, damage, and look-ups with almost the right key.

Each trial runs in its own process, so that crashes are detected. An array that differs in any bit from what was stored
under its key is wrong; a miss is always right.
"""

import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import fields, replace
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.figures import Figure, Figures, attempt_each
from cache import (
    CacheSettings,
    Fault,
    HeadFields,
    Key,
    KeyMaker,
    Kind,
    LayoutFields,
    RunFields,
    SegmentFields,
    Store,
    Tag,
    TokensFields,
)

_ENTRIES = 48
_SIZES = (96, 384, 10_000, 40_000)  # float32 numbers: in the index, and in files of their own
_SECONDS = 60.0  # in which a trial must end
_KEYS = KeyMaker(bytes(32))
_WRONG, _FAILED = 3, 4  # exit statuses of a trial


@click.option("--kill-trials", default=200, show_default=True, help="Writers killed at a random moment.")
@click.option("--flip-trials", default=1000, show_default=True, help="Random corruptions.")
@click.option("--leak-trials", default=2000, show_default=True, help="Look-ups with one field changed.")
@click.option("--seed", default=0, show_default=True, help="Of every random choice.")
def run(kill_trials: int, flip_trials: int, leak_trials: int, seed: int) -> Figures:
    """Kill, corrupt, and ask for the neighbour's entries."""
    return attempt_each(
        {
            ("kills_wrong", "kills_failed_starts"): lambda folder: kills(folder, kill_trials, seed),
            ("flips_wrong", "flips_crashes"): lambda folder: flips(folder, flip_trials, seed),
            ("leaks",): lambda folder: leaks(folder, leak_trials, seed),
        }
    )


def kills(folder: Path, trials: int, seed: int) -> dict[str, Figure]:
    """Kill a writer at a random moment, again and again in one folder, and open the store after each."""
    chance = random.Random(seed)
    wrong = failed = read = 0
    for trial in range(trials):
        open_event = _context().Event()
        writer = _context().Process(target=_write_on, args=(folder / "cache", seed + trial, open_event))
        writer.start()
        if _happens(chance, 0.8):  # else it may die while it opens
            open_event.wait(_SECONDS)
        time.sleep(chance.uniform(0, 0.05))
        writer.kill()
        writer.join(_SECONDS)
        outcome = _trial(_reopen, folder / "cache", trial)
        wrong += outcome == _WRONG
        failed += outcome not in (0, _WRONG)
        read += 1
    return {"kills_wrong": Figure(wrong, "", n=read), "kills_failed_starts": Figure(failed, "", n=read)}


def flips(folder: Path, trials: int, seed: int) -> dict[str, Figure]:
    """Damage a folder, half the time under an open store, and use it."""
    pristine, victim = folder / "pristine", folder / "victim"
    _make_pristine(pristine)
    wrong = crashes = 0
    for trial in range(trials):
        shutil.copytree(pristine, victim)
        outcome = _trial(_use_damaged, victim, seed + trial)
        shutil.rmtree(victim)
        wrong += outcome == _WRONG
        crashes += outcome not in (0, _WRONG)
    return {"flips_wrong": Figure(wrong, "", n=trials), "flips_crashes": Figure(crashes, "", n=trials)}


def leaks(folder: Path, trials: int, seed: int) -> dict[str, Figure]:
    """Ask for entries with one field of their key changed."""
    chance = random.Random(seed)
    makers = [KeyMaker(chance.randbytes(32)) for _ in range(2)]
    leaked = 0
    with _store(folder / "cache", memory_bytes=1 << 20) as store:
        for trial in range(trials):
            record = _random_fields(chance)
            store.put(_key(makers[0], record), _array(trial), _tag(0))
            wrong_keys = [_key(makers[0], _changed(record, chance)), _key(makers[1], record)]
            leaked += sum(array is not None for array in store.get_many(wrong_keys))
    return {"leaks": Figure(leaked, "", n=trials)}


# Trials: what runs in the processes.


def _write_on(folder: Path, seed: int, opened: Event) -> None:
    chance = random.Random(seed)
    with _store(folder, size_limit=1 << 21) as store:
        opened.set()
        while True:
            number = chance.randrange(_ENTRIES)
            store.put(_name(number), _array(number), _tag(number))
            if _happens(chance, 0.02):
                store.purge(document=_tag(number).document)


def _reopen(folder: Path, trial: int) -> int:
    damaged: list[Fault] = []
    with _store(folder, lambda fault, _: damaged.append(fault), size_limit=1 << 21) as store:
        if not store.stats().disk_usable or damaged:
            return _FAILED
        if _wrong(store):
            return _WRONG
        return 0 if _round_trip(store, trial) and not damaged else _FAILED


def _use_damaged(folder: Path, seed: int) -> int:
    chance = random.Random(seed)
    if in_flight := _happens(chance, 0.5):
        with _store(folder) as store:
            wrong = _wrong(store) if _happens(chance, 0.5) else 0
            store.purge(document=_tag(0).document)  # so that the ledger has something to lose
            _damage(folder, chance, in_flight=in_flight)
            wrong += _wrong(store)
            _round_trip(store, seed)
            wrong += _wrong(store)
            store.stats()
            store.check(fix=_happens(chance, 0.5))
    else:
        _damage(folder, chance, in_flight=in_flight)
        wrong = 0
    with _store(folder) as store:
        wrong += _wrong(store)
        _round_trip(store, seed)
        wrong += _wrong(store)
        # However broken it was, the store has healed: what is written is read.
        healed = _round_trip(store, seed + 1) or _round_trip(store, seed + 2)
    return _WRONG if wrong else 0 if healed else _FAILED


def _wrong(store: Store) -> int:
    numbers = range(2 * _ENTRIES)  # the upper half was never stored
    arrays = store.get_many([_name(number) for number in numbers])
    return sum(
        array is not None and (number >= _ENTRIES or not np.array_equal(array, _array(number)))
        for number, array in zip(numbers, arrays, strict=True)
    )


def _round_trip(store: Store, trial: int) -> bool:
    """Store a new entry; tell whether it comes back, within the time in which the store may reopen its index."""
    for _ in range(20):
        store.put(_name(-1 - trial), _array(trial), _tag(0))
        store.flush()
        array = store.get(_name(-1 - trial))
        if array is not None:
            return np.array_equal(array, _array(trial))
        time.sleep(0.1)
    return False


def _happens(chance: random.Random, share: float) -> bool:
    return chance.random() < share


# Damage.


def _damage(folder: Path, chance: random.Random, *, in_flight: bool) -> None:
    """Do one random harm to values, index, WAL or what lies beside them."""
    if _happens(chance, 0.15):
        _misdirect(folder, chance)
        return
    # A live index maps its shared memory, where no program can survive a file that shrinks.
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not (in_flight and path.suffix == ".db-shm")
    )
    index = [path for path in files if path.suffix != ".val"]
    path = chance.choice(chance.choice((files, index)))
    harm = chance.choice((_flip_bits, _flip_bits, _flip_bits, _truncate, _zero_block, _garbage, _delete, _swap))
    harm(path, chance)


def _flip_bits(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 8, 256)) if content else 0):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    _overwrite(path, content)


def _truncate(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def _zero_block(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content) // 4096 + 1) * 4096
    content[start : start + 4096] = bytes(len(content[start : start + 4096]))
    _overwrite(path, content)


def _garbage(path: Path, chance: random.Random) -> None:
    _overwrite(path, chance.randbytes(chance.randrange(20_000)))


def _delete(path: Path, chance: random.Random) -> None:
    del chance
    path.unlink()


def _swap(path: Path, chance: random.Random) -> None:
    """Put another file's content in the place of this one's."""
    _overwrite(path, chance.choice(sorted(path.parent.parent.rglob("*.val")) or [path]).read_bytes())


def _misdirect(folder: Path, chance: random.Random) -> None:
    """Let rows name other rows' values, claim pickles, or name files that are not the store's."""
    statements = (
        "UPDATE Cache SET filename = (SELECT filename FROM Cache WHERE filename NOT NULL ORDER BY random() LIMIT 1)",
        "UPDATE Cache SET value = (SELECT value FROM Cache WHERE value NOT NULL ORDER BY random() LIMIT 1)",
        "UPDATE Cache SET key = randomblob(33) WHERE rowid % 2",
        "UPDATE Cache SET mode = 4",
        "UPDATE Cache SET filename = '../settings.json', value = NULL WHERE rowid % 2",
        "UPDATE Cache SET filename = 7, value = 'text', tag = 3.5 WHERE rowid % 3 = 0",
        "UPDATE Cache SET tag = NULL, expire_time = 9e99, store_time = 'never'",
        "UPDATE Settings SET value = 'x'",
        "UPDATE Settings SET key = key || '_'",
        "DROP TABLE Cache",
        "DROP TABLE Usage",
    )
    with sqlite3.connect(next(folder.glob("generation-*/cache.db")), timeout=5) as database:
        database.execute(chance.choice(statements))
    database.close()


def _overwrite(path: Path, content: bytes | bytearray) -> None:
    """Write in place, as a fault of the disk would: the file stays the same file."""
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


# What is stored.


def _store(
    folder: Path,
    on_fault: Callable[[Fault, str], None] = lambda *_: None,
    size_limit: int = 1 << 26,
    memory_bytes: int = 0,
) -> Store:
    # Without a memory tier every answer comes from the disk.
    return Store(CacheSettings(folder, size_limit, min_free_bytes=0, memory_bytes=memory_bytes), _KEYS, on_fault)


def _make_pristine(folder: Path) -> None:
    """Fill a folder: one half is checkpointed, the other still lies in the WAL of a writer that was killed."""
    if (
        _trial(_fill, folder, 0, _ENTRIES // 2)
        or _trial(_fill, folder, _ENTRIES // 2, _ENTRIES, True) != -signal.SIGKILL
    ):
        raise RuntimeError("the folder to be damaged could not be made")


def _fill(folder: Path, start: int, stop: int, die: bool = False) -> int:
    with _store(folder) as store:
        for number in range(start, stop):
            store.put(_name(number), _array(number), _tag(number))
        if not store.flush() or _wrong(store):
            return _FAILED
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
    return 0


def _name(number: int) -> Key:
    return Key(tuple(Kind)[number % len(Kind)], (number % (1 << 64)).to_bytes(32, "little"))


def _array(number: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(number).random(_SIZES[number % len(_SIZES)], np.float32)


def _tag(number: int) -> Tag:
    return Tag(f"tenant {number % 2}", f"model {number % 3}", (number % 8).to_bytes(16, "little"))


# Keys.

_Record = tuple[RunFields, SegmentFields] | tuple[HeadFields, Key] | tuple[TokensFields]


def _random_fields(chance: random.Random) -> _Record:
    tokens = chance.randrange(1, 512)
    run = RunFields(
        tenant=chance.choice("ab"), architecture="bert heads=12", layers=chance.randbytes(32), cut=chance.randrange(12),
        scheme="int8", numerics=chance.randbytes(32), window=chance.choice((None, 64)),
    )  # fmt: skip
    ids = np.array([chance.randrange(30_000) for _ in range(tokens)], np.int32)
    layout = LayoutFields(np.zeros(tokens, np.int32), np.arange(tokens, dtype=np.int32), (0, tokens - 1))
    segment = SegmentFields(layout, ids)
    head = HeadFields(run.tenant, chance.randbytes(32), '{"pooling":"mean"}')
    region = TokensFields(
        run.tenant, chance.randbytes(32), "tokenizers 1", 1, chance.randbytes(8), chance.randbytes(40)
    )
    records: tuple[_Record, ...] = ((run, segment), (head, Key(Kind.STATE, chance.randbytes(32))), (region,))
    return chance.choice(records)


def _key(maker: KeyMaker, record: tuple[Any, ...]) -> Key:
    if isinstance(record[0], RunFields):
        return maker.state(*record)
    return maker.result(*record) if isinstance(record[0], HeadFields) else maker.tokens(record[0])


def _changed(record: tuple[Any, ...], chance: random.Random) -> tuple[Any, ...]:
    """Return the record with one field changed, any."""
    at = chance.randrange(len(record))
    part: Any = record[at]
    name = chance.choice(Key._fields if isinstance(part, Key) else [field.name for field in fields(part)])
    change: Any = Key._replace if isinstance(part, Key) else replace
    return (*record[:at], change(part, **{name: _change(getattr(part, name), chance)}), *record[at + 1 :])


def _change(value: Any, chance: random.Random) -> Any:
    """Return the nearest other value of a field."""
    if isinstance(value, Kind):  # which is bytes too
        return Kind.TOKENS if value is Kind.STATE else Kind.STATE
    if isinstance(value, bytes):
        at = chance.randrange(len(value))
        return value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]
    if isinstance(value, tuple):
        return (*value, 1)
    if isinstance(value, LayoutFields):
        return _changed((value,), chance)[0]
    return value + " " if isinstance(value, str) else 128 if value is None else value + 1


# Processes.


def _context() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.faults"])  # a trial starts in milliseconds, from a clean process
    return context


def _trial(work: Callable[..., int], *arguments: Any) -> int:
    """Run one trial in a process of its own; return its status, negative for the signal that ended it."""
    process = _context().Process(target=_exit, args=(work, *arguments))
    process.start()
    process.join(_SECONDS)
    if process.exitcode is None:
        process.kill()
        process.join()
        return _FAILED
    return process.exitcode


def _exit(work: Callable[..., int], *arguments: Any) -> None:
    raise SystemExit(work(*arguments))
