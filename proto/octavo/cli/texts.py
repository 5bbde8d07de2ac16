"""Reads text files without converting line ends, so that positions in the text match the file."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from octavo.cli.exits import Failure

STDIN = "-"


def read_text(file: str, encoding: str) -> str:
    """Read a file, or standard input for '-'. Raises Failure, which names the file."""
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
        return data.decode(encoding)
    except OSError as fault:
        raise Failure(f"{file}: {fault.strerror}") from fault
    except UnicodeDecodeError as fault:
        raise Failure(
            f"{file}: byte {fault.start:,} is not {encoding}: set the file's encoding with --encoding"
        ) from None


def refuse_stdin_twice(files: Sequence[str]) -> None:
    """Raise a usage error if '-' is given twice: standard input can be read only once."""
    if files.count(STDIN) > 1:
        raise click.UsageError("'-' can be given only once")
