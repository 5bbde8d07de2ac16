"""What a terminal shows besides results: colours, progress, waits; and that pipes show none of it."""

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import pytest

from tests.client.double import Double, Fault

ESCAPE = "\x1b["
Shown = tuple[int, str]
Show = Callable[..., Shown]


@pytest.fixture
def show(double: Double, monkeypatch: pytest.MonkeyPatch) -> Show:
    """Runs the real command on a terminal of its own; its exit code, and what the terminal shows."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def run(*arguments: str | Path, program: Sequence[str] = ("-m", "octavo.cli"), **variables: str) -> Shown:
        ours, theirs = pty.openpty()
        shown: list[bytes] = []

        def read() -> None:
            try:
                while data := os.read(ours, 65536):
                    shown.append(data)
            except OSError:  # the terminal's other side was closed
                pass

        reader = threading.Thread(target=read)
        reader.start()
        done = subprocess.run(
            [sys.executable, *program, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            check=False,
            timeout=60,
            env={**os.environ, "OCTAVO_SERVER": double.address, **variables},
        )
        os.close(theirs)
        reader.join()
        os.close(ours)
        return done.returncode, b"".join(shown).decode()

    return run


@pytest.fixture
def book(tmp_path: Path) -> Path:
    file = tmp_path / "book.txt"
    file.write_text("It was the best of times. " * 100)
    return file


def test_help_and_errors_have_colours_on_a_terminal_alone(show: Show, tmp_path: Path) -> None:
    for arguments in (["--help"], ["embed", "--help"], ["models", "show", "--help"], ["embed"]):
        _, shown = show(*arguments)
        assert ESCAPE in shown
        assert ESCAPE not in show(*arguments, NO_COLOR="1")[1]
        assert ESCAPE not in show(*arguments, TERM="dumb")[1]
        piped = subprocess.run(
            [sys.executable, "-m", "octavo.cli", *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert ESCAPE not in piped.stdout + piped.stderr


def test_colours_do_not_change_the_words(show: Show) -> None:
    plain = show("embed", "--help", NO_COLOR="1")[1]
    coloured = show("embed", "--help")[1]
    for code in ("\x1b[1m", "\x1b[36m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain


@pytest.mark.parametrize("files", [1, 2])
def test_progress_moves_within_a_document(show: Show, double: Double, book: Path, tmp_path: Path, files: int) -> None:
    double.segment_delay = 0.005
    output = tmp_path / "out"
    code, shown = show("embed", "-o", output, *[book] * files)
    assert code == 0
    percents = {word for word in shown.split() if word.endswith("%")}
    assert len(percents) > 10  # a bar by documents would have 2 or 3
    assert "100%" in percents
    assert ("2 documents" if files > 1 else str(book)) in shown


def test_progress_of_a_job_moves_within_a_document(show: Show, double: Double, tmp_path: Path) -> None:
    double.segment_delay = 0.5  # before each of the two messages of the one document
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "book.txt").write_text("It was the best of times. " * 100)  # 260 segments, 100 of them in the first
    code, shown = show("batch", "-i", folder, "-o", tmp_path / "out")
    assert code == 0
    assert {word for word in shown.split() if word.endswith("%")} >= {"0%", "38%", "100%"}
    assert "0 of 1, " in shown


def test_a_wait_is_told_with_its_reason_and_length(show: Show, double: Double, book: Path, tmp_path: Path) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAVAILABLE, "too much work", "QUEUE_FULL", retry_delay=1.5))
    code, shown = show("embed", "-o", tmp_path / "out", book)
    assert code == 0
    assert "octavo: trying again in 2 s: too much work" in shown


def test_a_server_that_sends_nothing_is_told(show: Show, double: Double, book: Path, tmp_path: Path) -> None:
    double.delay = lambda _: 2.0
    soon = "import octavo.cli.progress as progress, octavo.cli as cli; progress.IDLE_SECONDS = 0.2; cli.main()"
    code, shown = show("embed", "-o", tmp_path / "out", book, program=("-c", soon))
    assert code == 0
    assert "octavo: nothing for 0 s: the server may have a queue" in shown
    assert "nothing for" not in show("embed", "-o", tmp_path / "out", book)[1]


def test_a_short_wait_is_not_told(show: Show, double: Double, book: Path, tmp_path: Path) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAVAILABLE, "too much work", "QUEUE_FULL", retry_delay=0.1))
    code, shown = show("embed", "-o", tmp_path / "out", book)
    assert code == 0
    assert "trying again" not in shown


def test_no_wait_is_told_in_a_pipe(double: Double, book: Path) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAVAILABLE, "too much work", "QUEUE_FULL", retry_delay=1.5))
    done = subprocess.run(
        [sys.executable, "-m", "octavo.cli", "embed", "--server", double.address, str(book)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_wait_for_a_server_that_stops_is_told(show: Show, double: Double, book: Path, tmp_path: Path) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAVAILABLE, "draining", "DRAINING", retry_delay=1.5))
    code, shown = show("embed", "-o", tmp_path / "out", book)
    assert code == 0
    assert f"octavo: trying again in 2 s: the server on {double.address} is stopping\r\n" in shown


def test_a_server_that_stops_is_told_as_such(show: Show, double: Double, book: Path, tmp_path: Path) -> None:
    stopping = Fault(grpc.StatusCode.UNAVAILABLE, "the server is stopping", "DRAINING", pushback="-1")
    for files in (1, 2):
        double.faults.extend([stopping] * files)
        code, shown = show("embed", "-o", tmp_path / "out", *[book] * files)
        assert code == 3
        assert f"the server on {double.address} is stopping" in shown
        double.faults.clear()
