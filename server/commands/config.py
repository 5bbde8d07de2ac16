"""`octavo config check` and `octavo config show`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from pydantic import SecretStr

from server.commands.options import configuration, settings_options
from server.config.load import Configuration, Leaf, dotted


@click.group()
def config() -> None:
    """Check and show what the server would be configured with."""


@config.command()
@settings_options
def check(**options: Any) -> None:
    """Tell everything that is wrong with the settings, one fault a line; exits with 2 if anything is.

    Models and ports are not touched: "octavo doctor" does that.
    """
    found = configuration(**options)
    given = sum(leaf.origin.kind != "default" for leaf in found.values())
    click.echo(f"ok: {given} {'value' if given == 1 else 'values'} given, defaults for the rest")


@config.command()
@settings_options
@click.option("--format", "form", type=click.Choice(["toml", "json"]), default="toml", show_default=True)
def show(form: str, **options: Any) -> None:
    """Print every setting with its value and where that came from; secrets are masked.

    The TOML can be saved and used as a file of settings. Unset values are comments in it.
    """
    found = configuration(**options)
    click.echo(as_json(found) if form == "json" else as_toml(found))


def as_json(found: Configuration) -> str:
    """Write settings as a list of {setting, value, origin}."""
    rows = [
        {"setting": dotted(leaf.path), "value": _plain(leaf.value), "origin": str(leaf.origin)}
        for leaf in found.values()
    ]
    return json.dumps(rows, indent=2, ensure_ascii=False)


def as_toml(found: Configuration) -> str:
    """Write settings as TOML, each value's origin as a comment beside it."""
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
    # A JSON scalar or list of strings is TOML as well, apart from null, which TOML does not have.
    if value is None:
        return f"# {leaf.path[-1]} is unset"
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return f"{leaf.path[-1]} = {text}  # {leaf.origin}"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr | Path):
        return str(value)  # of a secret, asterisks
    return list(value) if isinstance(value, tuple) else value
