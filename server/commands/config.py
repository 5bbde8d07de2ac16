"""`octavo config check` and `octavo config show`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from octavo.cli.group import PluginGroup
from server.commands.options import configuration, settings_options
from server.config.load import Configuration, Leaf, dotted


@click.group(cls=PluginGroup)
def config() -> None:
    """Check and show the server's settings."""


@config.command()
@settings_options
def check(**options: Any) -> None:
    """Check the settings. Prints one line per error, and exits with 2 if there are any.

    Models and ports are not checked: use "octavo doctor".
    """
    found = configuration(**options)
    given = sum(leaf.origin.kind != "default" for leaf in found.values())
    click.echo(f"ok: {given} {'value' if given == 1 else 'values'} given, defaults for the rest")


@config.command()
@settings_options
@click.option("--format", "form", type=click.Choice(["toml", "json"]), default="toml", show_default=True)
def show(form: str, **options: Any) -> None:
    """Print every setting with its value and origin. Secrets are masked.

    The output in TOML can be used as a settings file. Unset values are comments.
    """
    found = configuration(**options)
    click.echo(as_json(found) if form == "json" else as_toml(found))


def as_json(found: Configuration) -> str:
    """Format settings as a JSON list of {setting, value, origin}."""
    rows = [
        {"setting": dotted(leaf.path), "value": _plain(leaf.value), "origin": str(leaf.origin)}
        for leaf in found.values()
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def as_toml(found: Configuration) -> str:
    """Format settings as TOML, with each value's origin as a comment."""
    return "\n".join(_lines(found)).strip()


def _lines(found: Configuration) -> Iterator[str]:
    table: tuple[str | int, ...] = ()
    for leaf in found.values():
        if leaf.path[:-1] != table:
            table = leaf.path[:-1]
            name = ".".join(key for key in table if isinstance(key, str))
            yield f"\n[[{name}]]" if isinstance(table[-1], int) else f"\n[{name}]"
        yield _line(leaf)


def _line(leaf: Leaf) -> str:
    value = _plain(leaf.value)
    # JSON scalars and lists of strings are valid TOML, except null, which TOML lacks.
    if value is None:
        return f"# {leaf.path[-1]} is unset"
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{leaf.path[-1]} = {text}  # {leaf.origin}"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr | Path):
        return str(value)  # a secret becomes asterisks
    return list(value) if isinstance(value, tuple) else value
