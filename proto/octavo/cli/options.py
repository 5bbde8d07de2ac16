"""Options shared by commands, and their conversion to the client's arguments."""

import codecs
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from octavo.cli.group import file_names
from octavo.cli.output import STDOUT
from octavo.client.arguments import (
    CallArguments,
    Classify,
    ClassifyTokens,
    Embed,
    EmbedSparse,
    Rank,
    Redact,
    Segmentation,
    Task,
)

Command = TypeVar("Command", bound=Callable[..., Any])


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
    "--timeout", type=float, metavar="SECONDS", callback=_positive, help="Time limit for each answer."
)
encoding_option = click.option(
    "--encoding", default="utf-8", show_default=True, callback=_encoding, help="Encoding of the files."
)
in_flight_option = click.option(
    "--in-flight", type=click.IntRange(min=1), default=8, show_default=True, help="Documents in progress at a time."
)
_output_option = click.option(
    "--output",
    "-o",
    shell_complete=file_names,
    metavar="FILE",
    default=STDOUT,
    help="Output file. [default: standard output]",
)
_segments_option = click.option("--segments", is_flag=True, help="Include segments and their results, such as vectors.")
_priority_option = click.option(
    "--priority",
    type=click.Choice(["interactive", "bulk"]),
    help="The scheduling class. [default: interactive]",
)
local_option = click.option("--local", is_flag=True, help="Start a server for this command and stop it afterwards.")
_MODEL = (
    local_option,
    click.option(
        "--model",
        metavar="NAME",
        help="NAME or NAME@VERSION; with --local also a folder or hf:ORG/NAME. [default: the server's default, else "
        "the first that supports the task]",
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
_RUN = (
    click.option(
        "--window",
        type=click.IntRange(min=0),
        metavar="N",
        help="Half width of the attention window in tokens; 0: full attention.",
    ),
    click.option(
        "--expected-fingerprint", metavar="HEX", help="Fail unless the results can be compared with this fingerprint's."
    ),
)
_OF_TASKS: dict[str, Callable[[Any], Any]] = {
    "pooling": click.option("--pooling", type=click.Choice(["mean", "cls"]), help="How token states become a vector."),
    "normalize": click.option("--normalize/--no-normalize", default=None, help="Whether to scale vectors to length 1."),
    "dimensions": click.option(
        "--dimensions", type=click.IntRange(min=1), metavar="N", help="Truncate vectors to N values."
    ),
    "data_type": click.option(
        "--data-type", type=click.Choice(["float32", "float16", "int8", "binary"]), help="Type of a vector's values."
    ),
    "mask": click.option(
        "--mask", metavar="TEXT", help='Replaces each entity; "{label}" stands for its label. [default: [{label}]]'
    ),
    "labels": click.option(
        "--label", "labels", multiple=True, metavar="NAME", help="Only entities with this label. Repeatable."
    ),
    "aggregation": click.option(
        "--aggregation",
        type=click.Choice(["simple", "first", "average", "max"]),
        help="How scores of tokens become scores of words. [default: max]",
    ),
    "min_score": click.option(
        "--min-score",
        type=click.FloatRange(0, 1),
        metavar="SCORE",
        help="Only entities or labels with at least this score, from 0 to 1.",
    ),
    "top_k": click.option(
        "--top-k", type=click.IntRange(min=1), metavar="N", help="Only the N highest scores or weights."
    ),
    "query": click.option(
        "--query",
        metavar="TEXT",
        help="What the task rank ranks by. If the model has prefixes, add --input-type passage.",
    ),
    "method": click.option(
        "--method",
        type=click.Choice(["dense", "sparse", "cross_encoder"]),
        help="How segments are scored. [default: as the model does best]",
    ),
    "passages": click.option(
        "--passages",
        type=click.IntRange(0, 100),
        metavar="N",
        help="Number of best passages of a document. [default: 3]",
    ),
    "tokens": click.option("--tokens", is_flag=True, help="Include the texts of a sparse vector's tokens."),
}
"""Options for the fields of tasks; an option applies to all tasks of a call that have its field."""

TASKS: dict[str, type[Task]] = {
    "embed": Embed,
    "classify-tokens": ClassifyTokens,
    "redact": Redact,
    "classify": Classify,
    "embed-sparse": EmbedSparse,
    "rank": Rank,
}


def connection_options(command: Command) -> Command:
    """Add the options for the server and the connection to a command."""
    return _given(command, server_option, *_ENCRYPTION)


def call_options(command: Command) -> Command:
    """Add the options of every call to a command."""
    own = (*_MODEL, timeout_option, *_CUTTING, _priority_option, encoding_option)
    return _given(command, server_option, *_ENCRYPTION, *own)


def task_options(*kinds: type[Task], without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Add the options of these kinds of tasks to a command, without those of some fields."""
    names = {field.name for kind in kinds for field in fields(kind)}.difference(without)
    own = (option for name, option in _OF_TASKS.items() if name in names)
    return lambda command: _given(command, *own, *_RUN)


def document_options(*kinds: type[Task], without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Add the arguments and options of a command that runs these kinds of tasks on files."""
    own = files_argument, _output_option, _segments_option, task_options(*kinds, without=without)
    return lambda command: _given(command, *own, in_flight_option, call_options)


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


def task_of(name: str, options: dict[str, Any], model: str | None = None) -> Task:
    """Convert options to the task of this name, run by this model; None: the call's model."""
    kind = TASKS[name]
    if kind is Rank and options["query"] is None:
        raise click.UsageError("--task rank needs --query")
    given = {**options, "segment_vectors": options["segments"], "model": model}
    return kind(**{field.name: value for field in fields(kind) if (value := given.get(field.name)) is not None})


def tasks_of(wanted: Sequence[tuple[str, str | None]], options: dict[str, Any]) -> dict[str, Task]:
    """Convert names of tasks, with their models, to tasks by kind; by kind and model if there are several of a kind.

    A single task has the model of the call, so that it is not given to another model that supports it.
    """
    if len(wanted) == 1 and not options["local"]:
        wanted = [(name, model or options["model"]) for name, model in wanted]
    kinds = Counter(name for name, _ in wanted)
    found = {}
    for name, model in wanted:
        key = name.replace("-", "_")
        found[key if kinds[name] == 1 else f"{key}:{model or ''}"] = task_of(name, options, model)
    return found


def _wanted(
    ctx: click.Context,  # noqa: ARG001
    parameter: click.Parameter,  # noqa: ARG001
    names: tuple[str, ...],
) -> tuple[tuple[str, str | None], ...]:
    parts = [name.partition(":") for name in names]
    for kind, _, _ in parts:
        if kind not in TASKS:
            raise click.BadParameter(f"{kind!r} is not one of {', '.join(TASKS)}")
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise click.BadParameter(f"{twice!r} is given twice")
    return tuple((kind, model or None) for kind, _, model in parts)


def task_option(*default: str) -> Callable[[Command], Command]:
    """The option that names the tasks of a call."""
    return click.option(
        "--task",
        "tasks",
        multiple=True,
        required=not default,
        default=default or None,
        show_default=bool(default),
        metavar="TASK[:MODEL]",
        callback=_wanted,
        help=f"A task: {', '.join(TASKS)}; with the name of its model, if not the call's. Repeatable.",
    )


def check_call_options(ctx: click.Context) -> None:
    """Raise a usage error for options that exclude each other. --local overrides a server from the environment."""
    for option in ("server", "tls", "ca") if ctx.params["local"] else ():
        if ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--local and --{option} exclude each other", ctx)
    if ctx.params.get("policy") == "fixed" and ctx.params["min_tokens"] is not None:
        raise click.UsageError("--min-tokens has no effect with --policy fixed", ctx)
