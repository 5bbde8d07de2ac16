"""Options shared by commands, and their conversion to the client's arguments."""

import codecs
from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from octavo.client.arguments import CallArguments, Embed, Segmentation

Command = TypeVar("Command", bound=Callable[..., Any])

file_names = click.Path().shell_complete  # for options that take a file's or folder's name, but not as click.Path does


def _encoding(ctx: click.Context, parameter: click.Parameter, name: str) -> str:  # noqa: ARG001
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise click.BadParameter(f"unknown encoding {name!r}") from None


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
_ENCRYPTION = (
    click.option("--tls", is_flag=True, envvar="OCTAVO_TLS", help="Encrypt the connection. Also OCTAVO_TLS=1."),
    click.option(
        "--ca",
        metavar="FILE",
        envvar="OCTAVO_CA",
        shell_complete=file_names,
        help="Trust only the certificates in this PEM file. Implies --tls. Also OCTAVO_CA.",
    ),
    click.option(
        "--allow-plaintext-token",
        is_flag=True,
        help="Allow sending the key in OCTAVO_API_KEY to another machine without --tls, where others can read it.",
    ),
)
timeout_option = click.option(
    "--timeout", type=float, metavar="SECONDS", callback=_positive, help="Time limit for each document."
)
encoding_option = click.option(
    "--encoding", default="utf-8", show_default=True, callback=_encoding, help="Encoding of the files."
)
in_flight_option = click.option(
    "--in-flight", type=click.IntRange(min=1), default=8, show_default=True, help="Documents in progress at a time."
)
_priority_option = click.option(
    "--priority",
    type=click.Choice(["interactive", "bulk"]),
    help="The scheduling class. [default: interactive]",
)
_MODEL = (
    click.option("--local", is_flag=True, help="Start a server for this command and stop it afterwards."),
    click.option(
        "--model",
        metavar="NAME",
        help="NAME or NAME@VERSION; with --local also a folder or hf:ORG/NAME. [default: the server's default]",
    ),
)
_CUTTING = (
    click.option("--input-type", type=click.Choice(["query", "passage"]), help="Which of the model's prefixes to use."),
    click.option(
        "--cache-mode",
        type=click.Choice(["read_write", "read_only", "refresh", "bypass"]),
        help="How to use the server's cache; never changes a result.",
    ),
    click.option("--policy", type=click.Choice(["content", "sentence", "fixed"]), help="Where to cut segments."),
    click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Maximum tokens that a segment owns."),
    click.option(
        "--min-tokens", type=click.IntRange(min=1), metavar="N", help="Minimum tokens; not with --policy fixed."
    ),
)
_VECTORS = (
    click.option("--pooling", type=click.Choice(["mean", "cls"]), help="How token states become a vector."),
    click.option("--normalize/--no-normalize", default=None, help="Whether to scale vectors to length 1."),
    click.option("--dimensions", type=click.IntRange(min=1), metavar="N", help="Truncate vectors to N values."),
    click.option(
        "--data-type", type=click.Choice(["float32", "float16", "int8", "binary"]), help="Type of a vector's values."
    ),
    click.option(
        "--window",
        type=click.IntRange(min=0),
        metavar="N",
        help="Half width of the attention window in tokens; 0: full attention.",
    ),
    click.option(
        "--expected-fingerprint", metavar="HEX", help="Fail unless the vectors fit an index of this fingerprint."
    ),
)


def connection_options(command: Command) -> Command:
    """Add the options for the server and the connection to a command."""
    return _given(command, server_option, *_ENCRYPTION)


def call_options(command: Command) -> Command:
    """Add the options of every call to a command."""
    own = (*_MODEL, timeout_option, *_CUTTING, _priority_option, encoding_option)
    return _given(command, server_option, *_ENCRYPTION, *own)


def vector_options(command: Command) -> Command:
    """Add the options for vectors to a command."""
    return _given(command, *_VECTORS)


def job_options(command: Command) -> Command:
    """Add the options that a job shares with a call to a command: encryption, model, segmentation, encoding."""
    return _given(command, *_ENCRYPTION, *_MODEL, *_CUTTING, encoding_option)


def _given(command: Command, *options: Callable[[Command], Command]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def call_arguments(options: dict[str, Any]) -> CallArguments:
    """Convert options to the client's keyword arguments. Some commands lack some options, such as `window`."""
    cut = Segmentation(options["policy"], options["max_tokens"], options["min_tokens"])
    return CallArguments(
        model=None if options["local"] else options["model"],  # a local server has one model
        expected_fingerprint=options.get("expected_fingerprint"),
        input_type=options["input_type"],
        cache_mode=options["cache_mode"],
        priority=options.get("priority"),
        segmentation=None if cut == Segmentation() else cut,
        window=options.get("window"),
    )


def embed_task(options: dict[str, Any]) -> Embed:
    """Convert the options of `embed` to its task."""
    return Embed(
        pooling=options["pooling"],
        normalize=options["normalize"],
        dimensions=options["dimensions"],
        data_type=options["data_type"],
        segment_vectors=options["segments"],
    )


def check_call_options(ctx: click.Context) -> None:
    """Raise a usage error for options that exclude each other. --local overrides a server from the environment."""
    for option in ("server", "tls", "ca") if ctx.params["local"] else ():
        if ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--local and --{option} exclude each other", ctx)
    if ctx.params["policy"] == "fixed" and ctx.params["min_tokens"] is not None:
        raise click.UsageError("--min-tokens has no effect with --policy fixed", ctx)
