"""Text files in, as they are: line ends and all, so that positions in the text are positions in the file."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from octavo.cli.exits import Failure

STDIN = "-"


def read_text(file: str, encoding: str) -> str:
    """The file's text, or standard input's for '-'. Raises Failure, which names the file."""
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        return data.decode(encoding)
    except OSError as fault:
        raise Failure(f"{file}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise Failure(f"{file}: byte {fault.start:,} is not {encoding}; name the file's with --encoding") from None


def refuse_stdin_twice(files: Sequence[str]) -> None:
    """Raises a usage error: standard input can be read once."""
    if files.count(STDIN) > 1:
        raise click.UsageError("'-' can be given once")
