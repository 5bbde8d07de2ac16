"""Options that commands share, and what becomes of them."""

import codecs
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from octavo.client.arguments import CallArguments, Embed, Segmentation

Command = TypeVar("Command", bound=Callable[..., Any])


def _encoding(ctx: click.Context, parameter: click.Parameter, name: str) -> str:  # noqa: ARG001
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise click.BadParameter(f"Python knows no encoding {name!r}") from None


def _positive(ctx: click.Context, parameter: click.Parameter, seconds: float | None) -> float | None:  # noqa: ARG001
    if seconds is not None and not seconds > 0:
        raise click.BadParameter("must be more than 0")
    return seconds


files_argument = click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True),
)
server_option = click.option(
    "--server",
    metavar="ADDR",
    envvar="OCTAVO_SERVER",
    default="127.0.0.1:50051",
    show_default=True,
    help="The server: HOST:PORT, [IPV6]:PORT or unix:PATH. Also OCTAVO_SERVER.",
)
_CONNECTION = (
    server_option,
    click.option("--tls", is_flag=True, envvar="OCTAVO_TLS", help="Encrypt the connection. Also OCTAVO_TLS=1."),
    click.option(
        "--ca",
        metavar="FILE",
        envvar="OCTAVO_CA",
        help="With --tls, and implying it: trust the certificates of this file in PEM alone. Also OCTAVO_CA.",
    ),
    click.option(
        "--allow-plaintext-token",
        is_flag=True,
        help="Send the key in OCTAVO_API_KEY to another machine even without --tls, where others can read it.",
    ),
)
timeout_option = click.option(
    "--timeout", type=float, metavar="SECONDS", callback=_positive, help="Give a document up after so long."
)
_CALL = (
    click.option("--local", is_flag=True, help="Start a server for this command alone, and stop it afterwards."),
    click.option(
        "--model",
        metavar="NAME",
        help="NAME or NAME@VERSION that the server serves; with --local also a model's folder. [default: the server's]",
    ),
    timeout_option,
    click.option("--input-type", type=click.Choice(["query", "passage"]), help="Which of the model's prefixes to use."),
    click.option(
        "--cache-mode",
        type=click.Choice(["read_write", "read_only", "refresh", "bypass"]),
        help="What to want of the server's cache; no mode changes an answer.",
    ),
    click.option(
        "--priority",
        type=click.Choice(["interactive", "bulk"]),
        help="The class of the server's queue. [default: interactive]",
    ),
    click.option("--policy", type=click.Choice(["content", "sentence", "fixed"]), help="Where segments may end."),
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="The most tokens that a segment owns."),
    click.option("--min-tokens", type=click.IntRange(min=1), metavar="N", help="The fewest, with the policy content."),
    click.option(
        "--encoding", default="utf-8", show_default=True, callback=_encoding, help="How the files are encoded."
    ),
)


def connection_options(command: Command) -> Command:
    """Gives a command the options that say which server, and how to reach it."""
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


def call_options(command: Command) -> Command:
    """Gives a command the options of every call."""
    for option in reversed(_CALL):
        command = option(command)
    return connection_options(command)


def call_arguments(options: dict[str, Any]) -> CallArguments:
    """The client's keyword arguments that the options stand for; `window` and such only `embed` has."""
    cut = Segmentation(options["policy"], options["max_tokens"], options["min_tokens"])
    return CallArguments(
        model=None if options["local"] else options["model"],  # a server of our own serves one model
        expected_fingerprint=options.get("expected_fingerprint"),
        input_type=options["input_type"],
        cache_mode=options["cache_mode"],
        priority=options["priority"],
        segmentation=None if cut == Segmentation() else cut,
        window=options.get("window"),
    )


def embed_task(options: dict[str, Any]) -> Embed:
    """What `embed`'s options ask of the model."""
    return Embed(
        pooling=options["pooling"],
        normalize=options["normalize"],
        dimensions=options["dimensions"],
        data_type=options["data_type"],
        segment_vectors=options["segments"],
    )


def refuse_server_with_local(ctx: click.Context) -> None:
    """Raises a usage error where both were typed; a server that the environment names gives way."""
    for option in ("server", "tls", "ca") if ctx.params["local"] else ():
        if ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--local and --{option} exclude each other", ctx)
