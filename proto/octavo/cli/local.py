"""Runs a server for one command: a child process that listens on a socket in a private folder."""

import contextlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from octavo.cli.exits import Unreachable
from octavo.cli.progress import note

READY = "ready"  # the first word of the line that a server prints once it is ready
STOP_SECONDS = 10.0


@contextlib.contextmanager
def local_server(
    model: str | None = None, *, listen: str | None = None, arguments: Sequence[str] = ()
) -> Iterator[str]:
    """Run a server for the duration of this context and return its address, by default a socket in a private folder.

    `arguments` are additional arguments of `octavo serve`. Raises Unreachable if the server does not start.
    """
    if not entry_points(group="octavo.commands", name="serve"):
        raise Unreachable("--local needs the server, but only the client is installed: install octavo")
    with tempfile.TemporaryDirectory(prefix="octavo-") as folder, _terminated_as_exit():
        log = Path(folder, "log")
        command = [sys.executable, "-m", "octavo.cli.tied", "serve", "--listen", listen or f"unix:{folder}/socket"]
        command += ["--set", "metrics.listen=", "--set", "server.drain_delay_seconds=0"]  # no load balancer here
        command += [*(["--model", model] if model else []), *arguments]
        with log.open("wb") as stderr:
            # In its own session, Ctrl-C reaches only this process, which then stops the server. If this process is
            # killed, the pipe to the server's standard input closes, which stops the server too.
            server = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
        try:
            yield _ready_address(server, log)
        finally:
            _stop(server)


def _ready_address(server: subprocess.Popen[str], log: Path) -> str:
    """Wait for the server's ready line and return its address."""
    output = server.stdout
    if output is None:
        raise AssertionError("the server was started with a pipe")
    if sys.stderr.isatty():
        note("starting a server for this command")
    for line in output:
        word, _, addresses = line.partition(" ")
        if word == READY and addresses.strip():
            threading.Thread(target=_drain, args=(output,), daemon=True).start()
            return addresses.split()[0]
    last = log.read_text(errors="replace").strip().rpartition("\n")[2] or "no output"
    raise Unreachable(f"the local server did not start (exit code {server.wait()}): {last.removeprefix('octavo: ')}")


def _drain(output: IO[str]) -> None:
    """Discard output, so that the server never blocks on a full pipe."""
    with contextlib.suppress(ValueError, OSError):
        for _ in output:
            pass


def _stop(server: subprocess.Popen[str]) -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    if server.stdin is not None:
        server.stdin.close()


@contextlib.contextmanager
def _terminated_as_exit() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise SystemExit, so that `finally` stops the server."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
