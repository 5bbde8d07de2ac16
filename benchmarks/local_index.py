"""`octavo index sync` as a user runs it: again after edits, and killed at random moments. Figures of `upsert`."""

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.figures import Figure, Figures
from benchmarks.served import PROGRAM, environment, serve
from benchmarks.statistics import ratio
from benchmarks.texts import sotu

MODEL, FAST_MODEL = "all-MiniLM-L6-v2", "splade-tiny"
_SENTENCE = "Number {} of the sentences that nobody had planned was added here, in the middle of it all. "
_KILLED_TEXTS, _KILLED_CHARACTERS = 40, 12_000
_TOLERANCE = 1e-5  # of fp32 in another batch; in 8 bits vectors are the same

Row = tuple[bytes, int, int, bytes]
Rows = Mapping[tuple[str, int], Row]


def resync(folder: Path, seed: int, count: int = 200, edited: int = 10) -> Figures:
    """Time the sync of long texts after an edit in each of ten, over the first sync."""
    draw = random.Random(seed)
    texts = folder / "texts"
    longest = sorted(sotu(), key=len, reverse=True)[:count]
    names = _write(texts, longest)
    with serve("--model", MODEL) as served:
        first = _timed(served.address, texts, folder / "i.index", added=count)
        for number, name in enumerate(draw.sample(names, edited)):
            _edit(texts / name, number, draw)
        again = _timed(served.address, texts, folder / "i.index", changed=edited)
    return {
        "index_resync_x": ratio([again], [first]),
        "index_sync_s": Figure(first, "s", n=count),
        "index_resync_s": Figure(again, "s", n=edited),
    }


def kills(folder: Path, seed: int, trials: int = 50) -> Figures:
    """Kill syncs after edits, sync again, and compare with an index made afresh."""
    draw = random.Random(seed)
    texts, store = folder / "texts", folder / "i.index"
    names = _write(texts, [text[:_KILLED_CHARACTERS] for text in draw.sample(sotu(), _KILLED_TEXTS)])
    wrong = killed = rounds = 0
    with serve("--model", FAST_MODEL) as served:
        longest = _timed(served.address, texts, store)
        while killed < trials:
            rounds += 1
            for number, name in enumerate(draw.sample(names, _KILLED_TEXTS // 2)):
                _edit(texts / name, number, draw)
            (texts / draw.choice(names)).unlink(missing_ok=True)
            _write(texts, [draw.choice(sotu())[:_KILLED_CHARACTERS]], f"new{rounds}-")
            names = sorted(path.name for path in texts.iterdir())
            if not _kill(served.address, texts, store, draw.uniform(0.2 * longest, longest)):
                continue
            killed += 1
            _timed(served.address, texts, store)
            fresh = folder / f"fresh{rounds}.index"
            _timed(served.address, texts, fresh, added=len(names))
            wrong += _wrong(_rows(store), _rows(fresh)) + _unused(store)
    return {"index_kills_wrong": Figure(wrong, "rows", n=killed)}


def _write(folder: Path, texts: Sequence[str], prefix: str = "") -> list[str]:
    folder.mkdir(exist_ok=True)
    for i, text in enumerate(texts):
        (folder / f"{prefix}{i:03}.txt").write_text(text, encoding="utf-8")
    return [f"{prefix}{i:03}.txt" for i in range(len(texts))]


def _edit(path: Path, number: int, draw: random.Random) -> None:
    """Insert a sentence before a random one."""
    text = path.read_text(encoding="utf-8")
    place = text.find(". ", draw.randrange(len(text))) + 2
    path.write_text(text[:place] + _SENTENCE.format(number) + text[place:], encoding="utf-8")


def _command(address: str, texts: Path, store: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, "index", "sync", str(texts), "--store", str(store), "--server", address]


def _timed(address: str, texts: Path, store: Path, **expected: int) -> float:
    """Seconds of a whole command, which must do what is expected."""
    command = [*_command(address, texts, store), "--format", "json"]
    start = time.perf_counter()
    done = subprocess.run(command, check=True, capture_output=True, env=environment())
    seconds = time.perf_counter() - start
    counts = json.loads(done.stdout)["files"]
    if any(counts[state] != count for state, count in expected.items()):
        raise RuntimeError(f"octavo index sync told {counts}, not {expected}")
    return seconds


def _kill(address: str, texts: Path, store: Path, after: float) -> bool:
    """Kill a command after so many seconds; False if it had ended."""
    command = _command(address, texts, store)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def _rows(store: Path) -> Rows:
    select = (
        "SELECT id, position, segments.digest, char_start, char_end, vector FROM segments "
        "JOIN documents ON document = number LEFT JOIN vectors ON vectors.digest = segments.digest"
    )
    with closing(sqlite3.connect(store)) as opened:
        return {(name, position): tuple(row) for name, position, *row in opened.execute(select)}


def _unused(store: Path) -> int:
    """Vectors that no segment has."""
    with closing(sqlite3.connect(store)) as opened:
        select = "SELECT count(*) FROM vectors WHERE digest NOT IN (SELECT digest FROM segments)"
        found: int = opened.execute(select).fetchone()[0]
        return found


def _wrong(ours: Rows, fresh: Rows) -> int:
    """Rows that are lost, too many, or stale."""
    stale = sum(not _equal(ours[place], fresh[place]) for place in ours.keys() & fresh.keys())
    return len(ours.keys() ^ fresh.keys()) + stale


def _equal(ours: Row, fresh: Row) -> bool:
    if ours[:3] != fresh[:3] or not ours[3]:
        return False
    return bool(np.allclose(np.frombuffer(ours[3], "<f4"), np.frombuffer(fresh[3], "<f4"), atol=_TOLERANCE))
