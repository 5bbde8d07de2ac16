"""`octavo index` with a real server, real files and real kills."""

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octavo.client import Client
from tests.server.helpers import SOON, TINY, Server, model, prose, serving, settings

TEXTS = {f"{'sub/' if i % 3 == 0 else ''}t{i}.md": prose(1200, seed=i) for i in range(12)}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(settings(model(TINY))) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    for name, text in TEXTS.items():
        write(folder / name, text)
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


Done = subprocess.CompletedProcess[str]


def index(server: Server, *arguments: str | Path) -> Done:
    return run("index", *map(str, arguments), "--server", server.address)


def run(*arguments: str) -> Done:
    return subprocess.run([sys.executable, "-m", "octavo.cli", *arguments], capture_output=True, text=True, check=False)


def sync(server: Server, folder: Path, *arguments: str, rc: int = 0) -> dict[str, Any]:
    done = index(server, "sync", folder, "--store", store_of(folder), "--format", "json", *arguments)
    assert done.returncode == rc, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, **found.pop("files")}


def store_of(folder: Path) -> Path:
    return folder.parent / "i.index"


def command(server: Server, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    line = ["-m", "octavo.cli", "index", "sync", str(folder), "--store", str(store_of(folder)), *arguments]
    return subprocess.Popen(
        [sys.executable, *line, "--server", server.address], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def content(store: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(store)) as opened:
        return opened.execute(
            "SELECT id, position, segments.digest, char_start, char_end, vector FROM segments "
            "JOIN documents ON document = number LEFT JOIN vectors ON vectors.digest = segments.digest "
            "ORDER BY id, position"
        ).fetchall()


def unused(store: Path) -> int:
    with closing(sqlite3.connect(store)) as opened:
        select = "SELECT count(*) FROM vectors WHERE digest NOT IN (SELECT digest FROM segments)"
        found: int = opened.execute(select).fetchone()[0]
        return found


def check_equal_to_a_fresh_index(server: Server, folder: Path, tmp_path: Path) -> None:
    """The same rows; the same vectors, as far as fp32 gives them again in another batch."""
    other = tmp_path / "fresh.index"
    assert index(server, "sync", folder, "--store", other).returncode == 0
    ours, fresh = content(store_of(folder)), content(other)
    assert [row[:5] for row in ours] == [row[:5] for row in fresh]
    for (*_, mine), (*_, theirs) in zip(ours, fresh, strict=True):
        assert np.allclose(np.frombuffer(mine, "<f4"), np.frombuffer(theirs, "<f4"), atol=1e-5)
    assert unused(store_of(folder)) == 0


def test_only_what_changed_is_computed(server: Server, folder: Path, tmp_path: Path) -> None:
    first = sync(server, folder)
    assert (first["added"], first["changed"], first["deleted"], first["failed"]) == (12, 0, 0, 0)
    assert first["reused_segments"] == 0

    again = sync(server, folder)
    assert (again["added"], again["unchanged"], again["new_segments"], again["computed_tokens"]) == (0, 12, 0, 0)

    edited = folder / "t4.md"
    write(edited, TEXTS["t4.md"].replace(". ", ". Once more to the lighthouse. ", 1))
    write(folder / "new.md", prose(300, seed=99))
    (folder / "t5.md").unlink()
    write(folder / "t7.md", "")
    (folder / "t8.md").touch()
    third = sync(server, folder)
    assert (third["added"], third["changed"], third["unchanged"], third["deleted"]) == (1, 2, 9, 1)
    assert 1 <= third["new_segments"] <= 4
    assert third["reused_segments"] >= 1
    assert 0 < third["computed_tokens"] < first["computed_tokens"] / 8
    check_equal_to_a_fresh_index(server, folder, tmp_path)


def test_a_file_that_fails_is_named_and_keeps_what_it_had(server: Server, folder: Path) -> None:
    sync(server, folder)
    before = content(store_of(folder))
    (folder / "t4.md").write_bytes(b"\xff" + TEXTS["t4.md"].encode())
    write(folder / "t5.md", TEXTS["t5.md"] + " More.")
    done = index(server, "sync", folder, "--store", store_of(folder))
    assert done.returncode == 1
    assert "t4.md: byte 0 is not utf-8" in done.stderr
    assert "0 added, 1 changed, 10 unchanged, 0 deleted, 1 failed" in done.stdout
    after = content(store_of(folder))
    assert [row for row in after if row[0] == "t4.md"] == [row for row in before if row[0] == "t4.md"]
    assert [row for row in after if row[0] == "t5.md"] != [row for row in before if row[0] == "t5.md"]


def test_a_dry_run_tells_and_changes_nothing(server: Server, folder: Path) -> None:
    done = index(server, "sync", folder, "--store", store_of(folder), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "added sub/t0.md\n" in done.stdout
    assert list(folder.parent.iterdir()) == [folder]
    first = sync(server, folder)
    before = content(store_of(folder))
    write(folder / "t4.md", TEXTS["t4.md"] + " More.")
    (folder / "t5.md").unlink()
    told = sync(server, folder, "--dry-run")
    assert (told["changed"], told["deleted"]) == (1, 1)
    assert 0 < told["computed_tokens"] < first["computed_tokens"] / 8
    assert content(store_of(folder)) == before
    real = sync(server, folder)
    assert (real["new_segments"], real["computed_tokens"]) == (told["new_segments"], told["computed_tokens"])


def test_vectors_of_another_model_or_settings_are_refused(server: Server, folder: Path) -> None:
    sync(server, folder, "--max-tokens", "100", "--min-tokens", "20")
    write(folder / "t4.md", "Another text.")
    assert sync(server, folder)["changed"] == 1  # its settings are those of the index
    done = index(server, "sync", folder, "--store", store_of(folder), "--max-tokens", "200")
    assert done.returncode == 2
    done = index(server, "search", "bread", "--store", store_of(folder))
    assert done.returncode == 0, done.stderr
    write(folder / "t4.md", "Yet another text.")
    before = content(store_of(folder))
    with serving(settings(model(TINY, "bf16"))) as other:
        for arguments in (("sync", folder), ("search", "bread")):
            done = index(other, *arguments, "--store", store_of(folder))
            assert "has vectors of fingerprint" in done.stderr
    assert content(store_of(folder)) == before


def test_a_search_answers_with_passages_of_the_files(server: Server, folder: Path) -> None:
    sync(server, folder)

    def search(*arguments: str) -> list[dict[str, Any]]:
        flags = ("--store", str(store_of(folder)), "--format", "json", *arguments)
        done = index(server, "search", "bread and water by night", *flags)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    found = search("-k", "7")
    assert len(found) == 7
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    for each in found:
        assert each["text"] == TEXTS[each["file"]][each["char_start"] : each["char_end"]]
    with Client(server.address) as client:
        best = client.embed(found[0]["text"], input_type="passage").vector
        query = client.embed("bread and water by night", input_type="query").vector
    assert found[0]["score"] == pytest.approx(float(best @ query), abs=1e-4)

    write(folder / found[0]["file"], "Changed.")
    (folder / found[-1]["file"]).unlink()
    changed = {each["file"]: each for each in search("-k", "7")}
    assert changed[found[0]["file"]]["problem"] == "changed since the last sync"
    assert changed[found[0]["file"]]["text"] is None
    if found[-1]["file"] != found[0]["file"]:
        assert changed[found[-1]["file"]]["problem"] == "deleted since the last sync"


def test_a_folder_that_moved_keeps_its_index_and_another_is_refused(server: Server, folder: Path) -> None:
    sync(server, folder)
    moved = folder.rename(folder.parent / "moved")
    assert sync(server, moved)["unchanged"] == 12
    shutil.copytree(moved, folder)
    done = index(server, "sync", folder, "--store", store_of(folder))
    assert done.returncode == 2
    assert "folder" in done.stderr


def test_an_index_survives_kills(server: Server, folder: Path, tmp_path: Path) -> None:
    draw = random.Random(8)
    sync(server, folder)
    kills = 0
    for step in range(20):
        for name in draw.sample(sorted(TEXTS), 6):
            write(folder / name, f"{prose(400, seed=100 * step)} {TEXTS[name]}")
        before = content(store_of(folder))
        running = command(server, folder, "--in-flight", "2")
        while running.poll() is None and content(store_of(folder)) == before:
            time.sleep(draw.uniform(0.0, 0.05))
        running.kill()
        running.communicate()
        kills += running.returncode == -signal.SIGKILL
        if kills == 5:
            break
    assert kills == 5
    sync(server, folder)
    check_equal_to_a_fresh_index(server, folder, tmp_path)


def test_a_watch_follows_the_folder_and_keeps_others_out(server: Server, folder: Path) -> None:
    watch = command(server, folder, "--watch")
    try:
        assert watch.stdout
        lines = iter(watch.stdout)
        assert any(line.startswith("12 added") for line in lines)
        refused = index(server, "sync", folder, "--store", store_of(folder))
        assert refused.returncode == 1
        assert "another process" in refused.stderr
        write(folder / "late.md", "A late arrival.")
        assert any(line == "added late.md\n" for line in lines)
        (folder / "late.md").unlink()
        assert any(line == "deleted late.md\n" for line in lines)
    finally:
        watch.send_signal(signal.SIGINT)
        _, errors = watch.communicate(timeout=SOON)
    assert watch.returncode == 130, errors


def test_without_a_server_nothing_is_lost(server: Server, folder: Path) -> None:
    sync(server, folder)
    before = content(store_of(folder))
    write(folder / "t4.md", "Another text.")
    done = run("index", "sync", str(folder), "--store", str(store_of(folder)), "--server", "127.0.0.1:1")
    assert done.returncode == 3, done.stderr
    assert content(store_of(folder)) == before
