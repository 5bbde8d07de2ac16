"""A group of commands that other packages may join."""

import importlib
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click


class PluginGroup(click.Group):
    """Commands of ours, named as "module:attribute", and those of an entry-point group, each imported when it is used.

    Help imports all of them for their first lines, so a command's module leaves what is heavy to the command's run.
    One that cannot be imported says so in one line and spoils no other.
    """

    def __init__(self, *args: Any, builtin: Mapping[str, str] | None = None, plugins: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _mark_paragraphs(self)
        self._builtin = dict(builtin or {})
        self._plugins = plugins

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Ours first, then those that joined."""
        ours = {*self._builtin, *super().list_commands(ctx)}
        return [*sorted(ours), *sorted(self._joined.keys() - ours)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command; a stand-in that tells the fault where it cannot be imported; None where there is none."""
        if command := super().get_command(ctx, cmd_name):
            return command
        if where := self._builtin.get(cmd_name):
            module, _, attribute = where.partition(":")
            command = getattr(importlib.import_module(module), attribute)
        elif plugin := self._joined.get(cmd_name):
            command = _load(plugin)
        if command is not None:
            _mark_paragraphs(command)
        return command

    def add_command(self, cmd: click.Command, name: str | None = None) -> None:
        """Adds a command, its help readable."""
        _mark_paragraphs(cmd)
        super().add_command(cmd, name)

    @cached_property
    def _joined(self) -> dict[str, EntryPoint]:
        """Of two packages' commands of one name the first on the path, as with modules."""
        found = entry_points(group=self._plugins) if self._plugins else ()
        return {each.name: each for each in reversed(tuple(found))}


def _mark_paragraphs(command: click.Command) -> None:
    r"""Docstrings are raw, so that click's mark of a paragraph not to be wrapped, \b, comes as two characters."""
    command.help = command.help and command.help.replace("\\b\n", "\b\n")
    for each in command.commands.values() if isinstance(command, click.Group) else ():
        _mark_paragraphs(each)


def _load(plugin: EntryPoint) -> click.Command:
    try:
        command = plugin.load()
    except Exception as fault:  # noqa: BLE001 - whatever another package's import raises
        return _broken(plugin, f"{type(fault).__name__}: {fault}")
    return command if isinstance(command, click.Command) else _broken(plugin, "it is not a click command")


def _broken(plugin: EntryPoint, why: str) -> click.Command:
    """Takes any arguments and tells why it cannot do anything with them."""
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
