"""Exit codes of commands, and the errors that lead to them."""

import os

import click

FAILED = 1
UNREACHABLE = 3
INTERRUPTED = 130  # a shell's code for SIGINT
BROKEN_PIPE = 141  # a shell's code for SIGPIPE


class Failure(click.ClickException):
    """The command failed completely or in part."""

    exit_code = FAILED


class Unreachable(click.ClickException):
    """The server cannot be reached."""

    exit_code = UNREACHABLE


class OutputGone(click.ClickException):
    """The reader of the output closed it."""

    exit_code = BROKEN_PIPE


def one_line(message: str) -> str:
    """Put a message on one line, without a final full stop."""
    return " ".join(message.split()).removesuffix(".")


def colour() -> bool | None:
    """The `color` of click's functions: False if NO_COLOR is set, else None, which is True for a terminal."""
    return False if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" else None


def complain(message: str, command: str = "octavo") -> None:
    """Print an error on one line of standard error."""
    click.echo(f"{click.style(f'{command}:', fg='red', bold=True)} {one_line(message)}", err=True, color=colour())
