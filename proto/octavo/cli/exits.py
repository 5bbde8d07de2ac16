"""How a command ends: exit codes, and the faults that lead to them."""

import click

FAILED = 1
UNREACHABLE = 3
INTERRUPTED = 130  # as a shell tells SIGINT
BROKEN_PIPE = 141  # and SIGPIPE


class Failure(click.ClickException):
    """Some or all of what was asked for could not be done."""

    exit_code = FAILED


class Unreachable(click.ClickException):
    """There is no server to do it."""

    exit_code = UNREACHABLE


class OutputGone(click.ClickException):
    """Nobody reads our output any more."""

    exit_code = BROKEN_PIPE


def one_line(message: str) -> str:
    """The message in one line, without a full stop."""
    return " ".join(message.split()).removesuffix(".")


def complain(message: str, command: str = "octavo") -> None:
    """One line on standard error."""
    click.echo(f"{command}: {one_line(message)}", err=True)
