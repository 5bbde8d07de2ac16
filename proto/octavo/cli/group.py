"""A command group that other packages can extend."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from octavo.cli.interrupts import raise_again

file_names = click.Path().shell_complete  # for options that take a file's or folder's name, but not as click.Path does


class PluginGroup(click.Group):
    """Built-in commands ("module:attribute") and those of an entry-point group, imported when used.

    Help imports all of them, so a command should import heavy modules only when it runs. A command that cannot be
    imported reports so in one line and does not affect others.
    """

    def __init__(self, *args: Any, builtin: Mapping[str, str] | None = None, plugins: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _format_help(self)
        self._builtin = dict(builtin or {})
        self._plugins = plugins

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List built-in commands, then plugins."""
        ours = {*self._builtin, *super().list_commands(ctx)}
        return [*sorted(ours), *sorted(self._joined.keys() - ours)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command; if it cannot be imported, a substitute that reports the error; None if unknown."""
        if command := super().get_command(ctx, cmd_name):
            return command
        if where := self._builtin.get(cmd_name):
            module, _, attribute = where.partition(":")
            command = getattr(importlib.import_module(module), attribute)
        elif plugin := self._joined.get(cmd_name):
            command = _load(plugin)
        if command is not None:
            _format_help(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; for an unknown one, suggest the nearest of all, which click would seek among the loaded."""
        name, known = args[0], self.list_commands(ctx)
        if name in known or name.startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, known, n=1)
        raise click.UsageError(f"unknown command {name!r}{f'; did you mean {near[0]}?' if near else ''}", ctx)

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Add a command and prepare its help."""
        _format_help(cmd)
        super().add_command(cmd, name)

    @cached_property
    def _joined(self) -> dict[str, EntryPoint]:
        """Plugins by name. If several packages use one name, the first on the path wins, as with modules."""
        found = entry_points(group=self._plugins) if self._plugins else ()
        return {each.name: each for each in reversed(tuple(found))}


class _Formatter(click.HelpFormatter):
    """Colours headings and terms. click removes the colours where there is no terminal."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(click.style(prog, bold=True), args, prefix or click.style("Usage: ", bold=True))

    def write_heading(self, heading: str) -> None:
        super().write_heading(click.style(heading, bold=True))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl([(click.style(term, fg="cyan"), text) for term, text in rows], col_max, col_spacing)


class _Context(click.Context):
    formatter_class = _Formatter

    def invoke(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command's function, which may have something to clean up when interrupted."""
        if not isinstance(self.command, click.Group):
            raise_again()
        return super().invoke(*args, **kwargs)


def _format_help(command: click.Command) -> None:
    r"""Prepare a command's help.

    Converts \b, click's mark for paragraphs that are not wrapped: in raw docstrings it is two characters.
    """
    command.context_class = _Context
    command.help = command.help and command.help.replace("\\b\n", "\b\n")
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _format_help(each)


def _load(plugin: EntryPoint) -> click.Command:
    try:
        command = plugin.load()
    except Exception as fault:  # noqa: BLE001 - another package's import may raise anything
        return _broken(plugin, f"{type(fault).__name__}: {fault}")
    return command if isinstance(command, click.Command) else _broken(plugin, "it is not a click command")


def _broken(plugin: EntryPoint, why: str) -> click.Command:
    """A command that accepts any arguments and reports why it cannot run."""
    line = " ".join(f"cannot be loaded from {plugin.value}: {why}".split())

    @click.command(
        short_help=line,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    @click.pass_context
    def broken(ctx: click.Context) -> None:
        raise click.ClickException(f"the command {ctx.info_name!r} {line}")

    return broken
