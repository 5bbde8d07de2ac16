"""`octavo keys`: add, list and revoke clients' keys."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from octavo.cli.group import PluginGroup
from server.auth.clients import ANONYMOUS
from server.auth.keys import KeptKey, Key, KeysError, changing_keys, default_keys_path, read_keys
from server.commands.options import FAILURE, configuration, fail, file_options
from server.config.schema import Settings

LONGEST_ID = 24  # characters; a longer argument may be a whole key, which must not be printed
_PERIOD = re.compile(r"(\d{1,5})([hdwy])")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1), "y": timedelta(days=365)}


@click.group(cls=PluginGroup)
def keys() -> None:
    """Add, list and revoke the keys that clients authenticate with.

    Keys are stored in one file ("server.keys_file"), only as digests. A running server applies changes within a second.
    The commands read the same settings as "octavo serve", to find the file and the clients.
    """


def _period(_: click.Context, __: click.Parameter, text: str | None) -> timedelta | None:
    if text is None:
        return None
    match = _PERIOD.fullmatch(text)
    if match is None or not int(match[1]):
        raise click.BadParameter("must be a number and one of h, d, w, y, like 90d")
    return int(match[1]) * _UNITS[match[2]]


@keys.command()
@click.argument("client")
@click.option("--expires", metavar="90d", callback=_period, help="Validity in h, d, w or y. [default: unlimited]")
@click.option("--inline", is_flag=True, help="Do not store the key; print its record for the settings instead.")
@file_options
def add(client: str, expires: timedelta | None, inline: bool, **options: Any) -> None:
    """Create a key for CLIENT, one of "[clients]", and print it once.

    A client can have several keys: to rotate, add a new one, switch the client to it, and revoke the old one. Only the
    key is written to standard output, so that it can be piped.
    """
    settings = configuration(**options).settings
    _check_client(client, settings)
    now = datetime.now(UTC).replace(microsecond=0)
    key, shown = Key.make(now + expires if expires else None)
    if inline:
        click.echo(f'add under [clients.{client}]: keys = ["{key}"]', err=True)
    else:
        with _told(), changing_keys(_file(settings)) as kept:
            kept.append(KeptKey(key, client, now))
        click.echo(f"key {key.id} of {client}, {_validity(key)}; it is shown only once:", err=True)
    click.echo(shown)


@keys.command("list")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@file_options
def list_(form: str, **options: Any) -> None:
    """List all keys, including those in the settings. Secrets cannot be shown."""
    settings = configuration(**options).settings
    with _told():
        rows = list(_rows(settings))
    if form == "json":
        click.echo(json.dumps(rows, indent=2))
        return
    if not rows:
        click.echo(f"no keys in {_file(settings)}", err=True)
    for row in rows:
        click.echo("  ".join((row["id"], f"{row['client']:16}", f"{row['created'] or 'in settings':20}", row["state"])))


@keys.command()
@click.argument("id_", metavar="ID")
@file_options
def revoke(id_: str, **options: Any) -> None:
    """Revoke the key with this ID, the part between "oct_" and the second "_"."""
    settings = configuration(**options).settings
    if any(Key.parse(text).id == id_ for client in settings.clients.values() for text in client.keys):
        fail(FAILURE, f"the key {id_} is in the settings: remove it there")
    with _told(), changing_keys(_file(settings)) as kept:
        gone = [each for each in kept if each.key.id == id_]
        if not gone:
            raise KeysError(f"there is no key {id_}" if len(id_) <= LONGEST_ID else "this is not the id of a key")
        kept[:] = [each for each in kept if each.key.id != id_]
    click.echo(f"revoked {id_} of {gone[0].client}")


def _check_client(client: str, settings: Settings) -> None:
    if client == ANONYMOUS.name:
        fail(FAILURE, "anonymous cannot have keys")
    if client not in settings.clients:
        known = ", ".join(sorted(settings.clients)) or "none"
        table = f"[clients.{client}]"
        fail(FAILURE, f"unknown client {client!r}: add a table {table} to the settings file; known clients: {known}")


def _rows(settings: Settings) -> Iterator[dict[str, Any]]:
    for kept in read_keys(_file(settings)):
        yield _row(kept.key, kept.client, kept.created.isoformat(timespec="seconds"), settings)
    for name, client in settings.clients.items():
        for text in client.keys:
            yield _row(Key.parse(text), name, None, settings)


def _row(key: Key, client: str, created: str | None, settings: Settings) -> dict[str, Any]:
    configured = settings.clients.get(client)
    state = _validity(key)
    if configured is None:
        state = "no such client"
    elif configured.disabled:
        state = "client disabled"
    expires = key.expires.isoformat(timespec="seconds") if key.expires else None
    return {"id": key.id, "client": client, "created": created, "expires": expires, "state": state}


def _validity(key: Key) -> str:
    if key.expires is None:
        return "valid for good"
    return (
        f"{'expired' if key.expired(datetime.now(UTC)) else 'valid until'} {key.expires.isoformat(timespec='seconds')}"
    )


def _file(settings: Settings) -> Path:
    return settings.server.keys_file or default_keys_path()


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except KeysError as error:
        fail(FAILURE, str(error))
