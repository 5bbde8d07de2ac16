"""The command `octavo`, and what becomes of faults: one line on standard error and an exit code for scripts."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from octavo import __version__
from octavo.cli.exits import FAILED, INTERRUPTED, OutputGone, complain, one_line
from octavo.cli.group import PluginGroup


class Root(PluginGroup):
    """`octavo` itself. What commands return says nothing; only what they raise does."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the command line, which may ask for help or the version."""
        with _readers_gone():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> None:
        """Runs the command."""
        with _readers_gone():
            super().invoke(ctx)
            sys.stdout.flush()


@contextlib.contextmanager
def _readers_gone() -> Iterator[None]:
    """Raises a BrokenPipeError by another name, since click would make exit code 1 of it."""
    try:
        yield
    except BrokenPipeError as fault:
        raise OutputGone("the output's reader went away") from fault


@click.group(
    cls=Root,
    builtin={
        "embed": "octavo.cli.embed:embed",
        "segment": "octavo.cli.segment:segment",
        "models": "octavo.cli.models:models",
        "batch": "octavo.batch.command:batch",
    },
    plugins="octavo.commands",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="octavo")
def octavo() -> None:
    r"""Reads all of a long text: vectors of documents and of their segments, from an Octavo server.

    \b
    octavo embed book.txt                   the book's vector, from the server on 127.0.0.1:50051
    octavo embed --local book.txt           the same without a server: starts one for this command
    octavo segment book.txt                 how the book is cut, and what it would cost
    octavo models                           what the server serves

    A server is named by --server or the variable OCTAVO_SERVER: HOST:PORT, [IPV6]:PORT or unix:PATH. With --tls or
    --ca the connection is encrypted. The variable OCTAVO_API_KEY has the key of whoever calls, as "octavo keys add"
    shows it.

    \b
    Exit codes: 0 all done, 1 some or all of it failed, 2 wrong usage, 3 the server cannot be reached,
    130 interrupted, 141 the reader of the output went away.
    """


def run(arguments: Sequence[str]) -> int:
    """Runs a command line and returns its exit code."""
    try:
        return octavo.main(list(arguments), prog_name="octavo", standalone_mode=False) or 0
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as fault:
        _tell(fault)
        return fault.exit_code
    except OSError as fault:
        if fault.strerror is None:  # not the operating system's
            raise
        _discard_output()
        complain(f"{fault.filename or 'standard output'}: {fault.strerror}")  # other writers name their file
        return FAILED


def _tell(fault: click.ClickException) -> None:
    match fault:
        case click.exceptions.NoArgsIsHelpError():
            fault.show()
        case click.UsageError():
            command = fault.ctx.command_path if fault.ctx else "octavo"
            complain(f"{one_line(fault.format_message())} (see {command} --help)", command)
        case OutputGone():
            _discard_output()
        case _:
            complain(fault.format_message())


def _discard_output() -> None:
    """What could not be written does not fail again in the interpreter's last flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
