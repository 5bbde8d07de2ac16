"""The first hour's parts: what counts as a fault that ends wrong, and as an output that is damaged."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.first_hour import bench
from benchmarks.first_hour.bench import HUNG, Bench
from benchmarks.first_hour.faults import ALL, Fault, without_full_disk
from benchmarks.first_hour.outputs import COMMANDS, KINDS, output
from benchmarks.first_hour.partial import end_of, is_late
from octavo.client import DeadlineExceeded, ServerError, Unavailable


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


def test_without_a_full_file_system_only_its_faults_are_left_out() -> None:
    tried = without_full_disk()
    assert len(ALL["disks"]) - len(tried["disks"]) == 5
    assert any("/dev/full" in fault.line for fault in tried["disks"])
    assert all(tried[kind] == ALL[kind] for kind in ALL if kind != "disks")


def test_a_whole_document_is_tiled() -> None:
    assert end_of("text", [(0, 2), (2, 4)]) == "whole"
    assert end_of("text", [(0, 2)], partial=True) == "partial"
    for spans in ([], [(0, 2)], [(0, 1), (2, 4)], [(0, 3), (2, 4)], [(2, 4)], [(0, 0), (0, 4)]):
        assert end_of("text", spans) not in {"whole", "partial"}
    assert end_of("text", [(1, 2)], partial=True) != "partial"


def test_only_deadline_errors_are_late() -> None:
    assert is_late(DeadlineExceeded("the deadline passed before the answer was ready", reason="DEADLINE"))
    assert is_late(Unavailable("the call needs about 3.1 s, and its deadline leaves 0.2 s", reason="QUEUE_FULL"))
    assert not is_late(Unavailable("too many calls are waiting", reason="QUEUE_FULL"))
    assert not is_late(Unavailable("no connection before the deadline"))
    assert not is_late(ServerError("internal error", reason="INTERNAL"))


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
    before = output(path)
    assert output(path) == before
    damage(path)
    assert "another kind" in COMMANDS["keys"].damage(kind, before, output(path), 0)


@pytest.mark.parametrize("kind", ["private", "link", "fifo"])
def test_content_is_compared(tmp_path: Path, kind: str) -> None:
    command, path = COMMANDS["embed"], tmp_path / "out"
    KINDS[kind](path)
    before = output(path)
    assert command.damage(kind, before, before, 1) == "exit code 1"
    assert command.damage(kind, before, before, HUNG) == "it hung"
    assert command.damage(kind, before, output(path), 0) == "invalid content"
    for written, wrong in ((b"", "invalid content"), (b'{"vec', "invalid content"), (b'{"vector": [1]}\n', "")):
        path.write_bytes(written)
        assert command.damage(kind, before, output(path), 0) == wrong
    path.write_bytes(b"half")
    assert COMMANDS["failing"].damage(kind, before, output(path), 1) == "it failed and left other content"
    assert COMMANDS["failing"].damage(kind, before, before, 1) == ""
    assert COMMANDS["failing"].damage(kind, before, before, 0) == "exit code 0"
