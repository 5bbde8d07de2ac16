"""`octavo models`."""

import dataclasses
from typing import Any

import click

from octavo.cli.connection import connected
from octavo.cli.group import PluginGroup
from octavo.cli.options import connection_options, timeout_option
from octavo.cli.output import glimpse, json_line, table
from octavo.client import Model

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one line per model.",
)


@click.group(cls=PluginGroup, plugins="octavo.models_commands", invoke_without_command=True)
@connection_options
@timeout_option
@format_option
@click.pass_context
def models(ctx: click.Context, /, **options: Any) -> None:
    r"""Show a server's models, and get models for a server. Without a command: list the server's.

    \b
    octavo models
    octavo models show all-MiniLM-L6-v2
    octavo models --format json | jq .fingerprint
    octavo models fetch multilingual-e5-small
    """
    if ctx.invoked_subcommand is None:
        _list(options)


@models.command("list")
@connection_options
@timeout_option
@format_option
def list_models(**options: Any) -> None:
    r"""List models: name, tasks, labels, dimensions, number scheme, kernels, fingerprint.

    \b
    octavo models list --server unix:/run/octavo/socket
    """
    _list(options)


@models.command()
@click.argument("name", default="")
@connection_options
@timeout_option
@format_option
def show(name: str, **options: Any) -> None:
    r"""Show one model; without NAME, the server's default.

    \b
    octavo models show
    octavo models show all-MiniLM-L6-v2 --format json
    """
    with connected(options) as client:
        model = client.model(name, timeout=options["timeout"])
    if options["form"] == "json":
        click.echo(json_line(_values(model)), nl=False)
        return
    rows = [(key.replace("_", " "), _shown(value)) for key, value in _values(model).items() if value not in ("", [])]
    width = max(len(key) for key, _ in rows)
    click.echo("\n".join(f"{key:<{width}}  {value}" for key, value in rows))


def _list(options: dict[str, Any]) -> None:
    with connected(options) as client:
        served = client.models(timeout=options["timeout"])
    if options["form"] == "json":
        for each in served:
            click.echo(json_line(_values(each)), nl=False)
        return
    rows = [
        (
            "*" if each.is_default else "",
            str(each.ref),
            ", ".join(each.tasks),
            glimpse(", ".join(each.labels), 32),
            str(each.dimensions),
            str(each.max_segment_tokens),
            each.number_scheme,
            each.kernels,
            each.fingerprint[:12],
        )
        for each in served
    ]
    heads = ("", "model", "tasks", "labels", "dimensions", "segment", "numbers", "kernels", "fingerprint")
    click.echo(table(heads, rows, right=(4, 5)))


def _values(model: Model) -> dict[str, Any]:
    """A model's fields as plain values."""
    values = dataclasses.asdict(model)
    reference = values.pop("ref")
    segmentation = {key: value for key, value in values.pop("segmentation").items() if value is not None}
    lists = {key: list(values.pop(key)) for key in ("tasks", "labels")}
    return {**reference, **values, "segmentation": segmentation, **lists}


def _shown(value: Any) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(value)
        case dict():
            return ", ".join(f"{key.replace('_', ' ')} {each}" for key, each in value.items()) or "the model's"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
