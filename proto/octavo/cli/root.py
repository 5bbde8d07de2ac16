"""The command `octavo`. Errors become one line on standard error and an exit code."""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from octavo import __version__
from octavo.cli.exits import FAILED, INTERRUPTED, OutputGone, colour, complain, one_line
from octavo.cli.group import PluginGroup


class Root(PluginGroup):
    """The root command. Return values of commands are ignored; errors are raised."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Reads the command line, which may ask for help or the version."""
        with _readers_gone():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command."""
        with _readers_gone():
            super().invoke(ctx)
            sys.stdout.flush()


@contextlib.contextmanager
def _readers_gone() -> Iterator[None]:
    """Convert BrokenPipeError, for which click would use exit code 1."""
    try:
        yield
    except BrokenPipeError as fault:
        raise OutputGone("the output was closed") from fault


@click.group(
    cls=Root,
    builtin={
        "embed": "octavo.cli.embed:embed",
        "embed-sparse": "octavo.cli.tasks:embed_sparse",
        "classify": "octavo.cli.tasks:classify",
        "classify-tokens": "octavo.cli.tasks:classify_tokens",
        "redact": "octavo.cli.tasks:redact",
        "rank": "octavo.cli.tasks:rank",
        "analyze": "octavo.cli.tasks:analyze",
        "segment": "octavo.cli.segment:segment",
        "models": "octavo.cli.models:models",
        "batch": "octavo.batch.command:batch",
        "index": "octavo.index.command:index",
    },
    plugins="octavo.commands",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="octavo")
def octavo() -> None:
    r"""Embed, classify and redact long documents in full, with an Octavo server.

    \b
    octavo embed book.txt                   the book's vector, from the server on 127.0.0.1:50051
    octavo embed --local book.txt           the same, with a server started for this command
    octavo redact mail.txt                  the mail with names and addresses masked
    octavo rank "who keeps the light?" *.txt
    octavo analyze --task embed --task classify book.txt
    octavo segment book.txt                 the book's segments, and what they would cost
    octavo index sync notes/ --store notes.index
    octavo index search "who keeps the light?" --store notes.index
    octavo models                           the server's models

    Set the server with --server or OCTAVO_SERVER: HOST:PORT, [IPV6]:PORT or unix:PATH. Encrypt the connection with
    --tls or --ca. Set OCTAVO_API_KEY to your key, as printed by "octavo keys add". Set NO_COLOR to turn colours off.

    \b
    Exit codes: 0 success, 1 complete or partial failure, 2 wrong usage, 3 no server can be reached, or it is stopping,
    130 interrupted, 141 the reader of the output closed it, 143 terminated.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        return octavo.main(list(arguments), prog_name="octavo", standalone_mode=False, color=colour()) or 0
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as fault:
        _tell(fault)
        return fault.exit_code
    except OSError as fault:
        if fault.strerror is None:  # not from the operating system
            raise
        _discard_output()
        complain(f"{fault.filename or 'standard output'}: {fault.strerror}")  # errors of other files name them
        return FAILED


def _tell(fault: click.ClickException) -> None:
    match fault:
        case click.exceptions.NoArgsIsHelpError():
            fault.show()
        case click.UsageError():
            command = fault.ctx.command_path if fault.ctx else "octavo"
            complain(f"{one_line(_wrong_usage(fault))} (see {command} --help)", command)
        case OutputGone():
            _discard_output()
        case _:
            complain(fault.format_message())


def _wrong_usage(fault: click.UsageError) -> str:
    """What click says, in the words of our own messages."""
    match fault:
        case click.NoSuchOption(possibilities=near):
            return f"unknown option {fault.option_name}{f'; did you mean {near[0]}?' if near else ''}"
        case click.MissingParameter(param=click.Parameter() as parameter):
            return f"{_name(parameter)} is missing"
        case click.BadParameter(param=click.Argument()):
            return fault.message
        case click.BadParameter():
            name = fault.param_hint or (_name(fault.param) if fault.param else "")
            return f"{name}{': ' if name else ''}{fault.message.replace(' is not in the range x>=', ' is less than ')}"
    return fault.format_message()


def _name(parameter: click.Parameter) -> str:
    return (
        parameter.opts[0] if isinstance(parameter, click.Option) else str(parameter.metavar or parameter.name).upper()
    )


def _discard_output() -> None:
    """Redirect stdout to /dev/null, so that the interpreter's final flush does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
