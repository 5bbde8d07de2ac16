"""Exit codes of commands, and the errors that lead to them."""

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


def complain(message: str, command: str = "octavo") -> None:
    """Print one line on standard error."""
    click.echo(f"{command}: {one_line(message)}", err=True)
