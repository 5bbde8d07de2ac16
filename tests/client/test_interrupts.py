"""Ctrl-C while a command starts, at the moments at which Python would lose it."""

import subprocess
import sys

import pytest

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
