"""Options for settings, shared by these commands."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

from octavo.cli.exits import complain
from octavo.cli.group import file_names
from server.config.load import Configuration, ConfigurationError, Leaf, assignment, flag, load

CONFIGURATION_FAULT = 2
FAILURE = 1

Command = TypeVar("Command", bound=Callable[..., Any])


def _assignments(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[Leaf]:
    try:
        return [assignment(text) for text in texts]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_SERVER = (
    click.option(
        "--listen",
        multiple=True,
        metavar="ADDR",
        help="Address to serve on: host:port, [::1]:0 or unix:/path. Repeatable.",
    ),
    click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME|FOLDER|hf:ORG/NAME",
        shell_complete=file_names,
        help="Serve this model instead of the configured ones. Repeatable; the first is the default.",
    ),
)
_CACHE = (click.option("--cache-dir", metavar="DIR", shell_complete=file_names, help="The cache's folder."),)
_ANY = (
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        callback=_assignments,
        help="Set any setting of the file. Repeatable.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Settings file (TOML). [default: OCTAVO_CONFIG]",
    ),
)


def settings_options(command: Command) -> Command:
    """Add all options of "octavo serve" to a command, for `configuration`."""
    return _given(command, *_SERVER, *_CACHE, *_ANY)


def cache_options(command: Command) -> Command:
    """Add the options for the cache's settings to a command."""
    return _given(command, *_CACHE, *_ANY)


def file_options(command: Command) -> Command:
    """Add the generic options for settings to a command."""
    return _given(command, *_ANY)


def _given(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def configuration(
    config: Path | None,
    assignments: Sequence[Leaf],
    listen: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
    cache_dir: str | None = None,
) -> Configuration:
    """Read file, environment and the options of `settings_options`; on errors, print one per line and exit with 2."""
    named = (
        ("server.listen", list(listen), "--listen"),
        ("models", list(models), "--model"),
        ("cache.dir", cache_dir, "--cache-dir"),
    )
    flags = [*assignments, *(flag(setting, value, name) for setting, value, name in named if value)]
    try:
        return load(config, flags, os.environ)
    except ConfigurationError as error:
        fail(CONFIGURATION_FAULT, *map(str, error.faults))


def fail(code: int, *lines: str) -> NoReturn:
    """Print errors on standard error, one per line, and exit."""
    for line in lines:
        complain(line)
    raise SystemExit(code)
