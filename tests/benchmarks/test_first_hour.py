"""The first hour's parts: what counts as a fault that ends wrong, and as an output that is damaged."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.first_hour import bench
from benchmarks.first_hour.bench import HUNG, Bench
from benchmarks.first_hour.faults import ALL, Fault
from benchmarks.first_hour.outputs import KINDS, things


@pytest.fixture
def found(tmp_path: Path) -> Bench:
    return Bench(tmp_path, os.environ, {"name": "value"})


def test_a_line_of_shell_has_its_code_and_its_words(found: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found.shell("echo {name} >&2; exit 3") == (3, "value\n")
    assert found.shell("true | cat")[0] == 0
    monkeypatch.setattr(bench, "_SECONDS", 0.5)
    assert found.shell("sleep 60 & sleep 60")[0] == HUNG


def test_what_ends_wrong() -> None:
    fault = Fault("octavo", 1)
    assert fault.wrong(1, "octavo: no such file") == ""
    assert fault.wrong(0, "") == "exit code 0, not 1"
    assert fault.wrong(1, "Traceback (most recent call last):\n ...") == "a traceback"
    assert fault.wrong(HUNG, "") == "it hung"


def test_there_are_enough_faults_and_none_twice() -> None:
    lines = [fault.line for faults in ALL.values() for fault in faults]
    assert len(lines) == len(set(lines)) >= 60


def _replaced(path: Path) -> None:
    path.unlink()
    path.write_text("new")


def _opened(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize("damage", [_replaced, _opened])
@pytest.mark.parametrize("kind", ["private", "readable", "link", "hard-link", "fifo"])
def test_damage_is_seen(tmp_path: Path, kind: str, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "out"
    KINDS[kind](path)
    before = things(path)
    assert things(path) == before
    damage(path)
    assert things(path) != before
    if kind == "fifo" and path.is_fifo():
        path.write_bytes(b"")  # lets its reader go
