"""Ctrl-C at the moments at which Python would lose it: while a command starts, and where another thread takes it."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from octavo.cli.documents import in_order

# Interrupts the process while it imports a module, where Python ignores exceptions.
_PROGRAM = """
import os, signal, sys

module = sys.argv.pop(1)

class Interrupting:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            Interrupting()

sys.meta_path.insert(0, Finder())
from octavo.cli import main
main()
"""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("octavo.cli.root", "--version"),
        ("grpc", "embed none.txt"),
        ("octavo.cli.documents", "embed none.txt"),
        ("octavo.batch.job", "batch -i none -o none"),
        ("server.commands.serve", "serve --set nonsense"),
        ("server.app", "serve --model none --listen 127.0.0.1:0"),
        ("structlog", "serve --model none --listen 127.0.0.1:0"),
    ],
)
def test_ctrl_c_is_never_lost_while_a_command_starts(module: str, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _PROGRAM, module, *command.split()],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_ctrl_c_that_another_thread_takes_ends_the_wait_for_a_file() -> None:
    interrupted, late = threading.Event(), []

    def work(_: str) -> None:
        time.sleep(0.2)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        late.append(not interrupted.wait(10))

    with pytest.raises(KeyboardInterrupt):
        _ = [future.result() for _, future in in_order(["a file"], work, 1)]
    assert not late
    interrupted.set()
