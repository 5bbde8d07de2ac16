"""`--local`: a server for one command, started, used and stopped. A double serves, in a real child process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from octavo.cli import local
from octavo.cli.root import octavo
from tests.client.double import vector_of

ROOT = Path(__file__).parents[2]
SERVE = """
import os, pathlib, signal, stat, sys
import click
from tests.client.double import Double, serving

notes = pathlib.Path(__file__).parent / "notes"

@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments):
    # A signal that another thread takes does not end a wait of this one; a byte in this pipe does.
    signalled, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, lambda *_: None)
    address = arguments[arguments.index("--listen") + 1]
    mode = stat.S_IMODE(os.stat(os.path.dirname(address.removeprefix("unix:"))).st_mode)
    notes.write_text(f"{os.getpid()} {mode:o} {' '.join(arguments)}")
    if "broken" in arguments:
        print("cannot load the model", file=sys.stderr)
        sys.exit(1)
    double = Double()
    if "slow" in arguments:
        double.segment_delay = 30
    with serving(double, address):
        print("something else", flush=True)
        print("ready", address, flush=True)
        print("x" * 100_000, flush=True)  # a pipe that nobody reads would block here
        notes.with_name("ready").touch()
        os.read(signalled, 1)
    notes.with_name("stopped").write_text(repr([request.options.model for request in double.requests]))
    os._exit(0)  # a slow answer's thread would be waited for
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which `octavo serve` is the double's."""
    (tmp_path / "double_serve.py").write_text(SERVE)
    info = tmp_path / "double_serve-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: double-serve\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[octavo.commands]\nserve = double_serve:serve\n")
    (tmp_path / "book.txt").write_text("A book.")
    (tmp_path / "tmp").mkdir()
    return os.environ | {
        "PYTHONPATH": f"{tmp_path}:{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "TMPDIR": str(tmp_path / "tmp"),
        "OCTAVO_SERVER": "nobody:1",
    }


def command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "octavo.cli", "embed", "--local", *arguments, str(folder / "book.txt")]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_server_starts_answers_and_stops_and_leaves_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command(tmp_path, "--model", "some/folder"), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.array(json.loads(done.stdout)["vector"], np.float32), vector_of("A book."))
    pid, mode, *arguments = (tmp_path / "notes").read_text().split()
    assert mode == "700"
    assert arguments[-2:] == ["--model", "some/folder"]
    assert not is_alive(int(pid))
    assert (tmp_path / "stopped").read_text() == "['']"  # the call takes the one model that is served
    assert not list((tmp_path / "tmp").iterdir())


def test_a_server_that_does_not_start_says_why_in_one_line(tmp_path: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command(tmp_path, "--model", "broken"), capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 3
    assert done.stderr == "octavo: the local server did not start (exit code 1): cannot load the model\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_server_too(
    tmp_path: Path, environment: dict[str, str], number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(command(tmp_path, "--model", "slow"), env=environment, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(30) == code
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
    assert (tmp_path / "stopped").exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_a_killed_command_takes_its_server_along(tmp_path: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(command(tmp_path, "--model", "slow"), env=environment) as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.02)
        server = int((tmp_path / "notes").read_text().split()[0])
        assert is_alive(server)
        process.kill()
    for _ in range(200):
        if not is_alive(server):
            return
        time.sleep(0.05)
    raise AssertionError("the server outlives the command")


def test_with_the_client_alone_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("A book.")
    monkeypatch.setattr(local, "entry_points", lambda **_: ())
    done = CliRunner().invoke(octavo, ["embed", "--local", str(tmp_path / "book.txt")])
    assert done.exit_code == 3
    assert "install octavo" in done.stderr


def test_a_file_that_cannot_be_read_starts_no_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(b"\xff")

    def refuse(*_: object) -> None:
        raise click.ClickException("started")

    monkeypatch.setattr(local, "entry_points", refuse)
    done = CliRunner().invoke(octavo, ["embed", "--local", str(tmp_path / "book.txt")])
    assert "not utf-8" in done.stderr
