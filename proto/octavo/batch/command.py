"""`octavo batch`."""

import contextlib
import json
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from types import FrameType
from typing import Any, NoReturn

import click
from click.core import ParameterSource

from octavo.batch.columns import columns_of
from octavo.batch.documents import TEXT_COLUMN, Columns
from octavo.batch.drivers import LOCAL_PATIENCE, NO_RETRY, Ask
from octavo.batch.errors import BatchError, OtherJob, TooManyErrors, Unserved
from octavo.batch.job import Engine, Job, run
from octavo.batch.manifest import Options
from octavo.batch.output import FORMATS as OUTPUT_FORMATS
from octavo.batch.parts import Share, Size
from octavo.batch.records import FIRST_COLUMNS, LAST_COLUMNS
from octavo.batch.servers import Servers
from octavo.batch.sources import FORMATS as INPUT_FORMATS
from octavo.cli.connection import client_of, failure
from octavo.cli.exits import FAILED, Failure, complain
from octavo.cli.group import file_names
from octavo.cli.local import local_server
from octavo.cli.options import (
    TASKS,
    call_arguments,
    check_call_options,
    job_options,
    task_option,
    task_options,
    tasks_of,
)
from octavo.client import Client, Embed, EmbedSparse, Retry
from octavo.client.arguments import Task
from octavo.sizes import parse_size

RAY = "ray"
_CONNECTION, _OF_RAY = ("local", "server", "tls", "ca"), ("replicas", "replica_cpus", "replica_gpus")
# The options that determine the output, besides the columns.
DECIDING = (
    "format", "segments", "pooling", "normalize", "dimensions", "data_type", "window", "input_type",
    "mask", "aggregation", "min_score", "top_k",
    "policy", "max_tokens", "min_tokens", "encoding", "input_format", "sample", "part_rows", "part_characters",
    "max_document_bytes",
)  # fmt: skip


def _share(_: click.Context, __: click.Parameter, text: str) -> Share:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter("must be I/N, from 1/N to N/N")
    return Share(int(match[1]) - 1, int(match[2]))


def _once(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _size(_: click.Context, __: click.Parameter, text: str) -> int:
    size = int(text) if text.isdecimal() else parse_size(text)
    if not size:
        raise click.BadParameter('must be a number of bytes, or a size such as "16MB" or "16MiB"')
    return size


_NUMBER = click.IntRange(min=1)


@click.command()
@click.option(
    "--input",
    "-i",
    "inputs",
    multiple=True,
    required=True,
    metavar="PATH...",
    shell_complete=file_names,
    help="Input files, folders or URIs.",
)
@click.argument("more", nargs=-1, metavar="", shell_complete=file_names)
@click.option(
    "--output", "-o", required=True, metavar="PATH", shell_complete=file_names, help="Output folder or its URI."
)
@task_option("embed")
@click.option(
    "--server",
    metavar="ADDR",
    envvar="OCTAVO_SERVER",
    multiple=True,
    default=("127.0.0.1:50051",),
    show_default=True,
    help="A server: HOST:PORT, [IPV6]:PORT or unix:PATH. Repeatable, to share the work. Also OCTAVO_SERVER.",
)
@click.option("--text-column", default=TEXT_COLUMN, show_default=True, metavar="NAME", help="Column of the text.")
@click.option("--id-column", metavar="NAME", help='Column of the id. [default: "id" if it exists, else FILE:ROW]')
@click.option("--keep", multiple=True, metavar="NAME", callback=_once, help="A column to copy. Repeatable.")
@click.option(
    "--format", type=click.Choice(OUTPUT_FORMATS), default="parquet", show_default=True, help="Output format."
)
@click.option(
    "--input-format", type=click.Choice(INPUT_FORMATS), help="Input format of all files. [default: by file name]"
)
@click.option("--segments", is_flag=True, help="Add a row for each segment, with its position and vectors.")
@click.option("--plan", is_flag=True, help="Only count documents and tokens and estimate time and disk.")
@click.option(
    "--sample", type=_NUMBER, metavar="N", help="Process a random sample of N documents, the same one each time."
)
@click.option(
    "--shard", callback=_share, default="1/1", metavar="I/N", help="Process the I-th of N shares of the parts."
)
@click.option("--max-errors", type=click.IntRange(min=0), metavar="N", help="Stop if more than N rows fail.")
@click.option("--part-rows", type=_NUMBER, default=1000, show_default=True, metavar="N", help="Documents per part.")
@click.option(
    "--part-characters", type=_NUMBER, default=8_000_000, show_default=True, metavar="N", help="Characters per part."
)
@click.option(
    "--max-document-bytes",
    callback=_size,
    default="16MB",
    show_default=True,
    metavar="SIZE",
    help="Maximum UTF-8 bytes of a document.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to keep trying a server that does not answer.",
)
@click.option(
    "--engine",
    type=click.Choice(["servers", RAY]),
    default="servers",
    show_default=True,
    help="What computes: servers, or a Ray cluster with servers started for this job.",
)
@click.option("--replicas", type=_NUMBER, metavar="N", help="Servers on Ray. [default: one on each machine]")
@click.option("--replica-cpus", type=_NUMBER, metavar="N", help="Cores of each. [default: as many as there are]")
@click.option(
    "--replica-gpus", type=click.FloatRange(min=0), default=0, show_default=True, metavar="N", help="Devices of each."
)
@task_options(*TASKS.values())
@job_options
@click.pass_context
def batch(ctx: click.Context, /, inputs: tuple[str, ...], more: tuple[str, ...], plan: bool, **options: Any) -> None:
    r"""Embed, classify or redact many documents, from files to files.

    Reads JSON Lines, CSV, Parquet and text files, compressed or not, from any file system that pyarrow supports. Writes
    Parquet or JSON Lines in parts, each atomically; if the job is killed, the same command resumes with the missing
    parts. Bad rows get an error instead of results. The last line of standard output is the summary, as JSON.

    \b
    octavo batch --input docs.jsonl --output vectors                     with the server on 127.0.0.1:50051
    octavo batch --input mails/ --output vectors --local                 with a server started for this job
    octavo batch --input *.parquet --output vectors --keep title --segments
    octavo batch --input s3://bucket/docs --output s3://bucket/vectors --server a:50051 --server b:50051
    octavo batch --input docs.csv --output vectors --plan --sample 200
    octavo batch --input mails/ --output masked --task redact --task classify:reuters-r8
    octavo batch --input logs/ --output ranked --task rank --query "who keeps the light?"
    octavo batch --input s3://bucket/docs --output s3://bucket/vectors --engine ray

    Exit codes: 0 all rows have results, 1 some rows failed, or the job stopped without a summary and can be resumed,
    2 wrong usage, or options that differ from those of the existing output, 3 no server can be reached,
    130 interrupted, 143 terminated.
    """
    check_call_options(ctx)
    _check_engine(ctx, plan)
    options["local"] = options["local"] or options["engine"] == RAY
    job = _job((*inputs, *more), options)
    try:
        with _terminated():
            summary = _plan(job, options) if plan else run(job, _engine(options))
    except OtherJob as fault:
        raise click.UsageError(str(fault), ctx) from fault
    except TooManyErrors as fault:
        raise Failure(f"{fault}; completed parts are kept, and the same command with a higher limit resumes") from fault
    except Unserved as fault:
        raise failure(fault.error, fault.address) from fault
    except BatchError as fault:
        raise Failure(str(fault)) from fault
    click.echo(json.dumps(summary, ensure_ascii=False))
    if not plan and summary["failed"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary["errors"].items())
        complain(f"{summary['failed']:,} of {summary['documents']:,} documents failed: {reasons}")
        ctx.exit(FAILED)


def _check_engine(ctx: click.Context, plan: bool) -> None:
    if find_spec("pyarrow") is None:
        raise Failure("this needs pyarrow: pip install pyarrow")
    given = [each for each in _CONNECTION if ctx.get_parameter_source(each) is ParameterSource.COMMANDLINE]
    of_ray = [each for each in _OF_RAY if ctx.get_parameter_source(each) is ParameterSource.COMMANDLINE]
    if ctx.params["engine"] != RAY:
        if of_ray:
            raise click.UsageError(f"--{of_ray[0].replace('_', '-')} needs --engine ray", ctx)
        return
    if plan or given:
        raise click.UsageError(f"--engine ray and --{'plan' if plan else given[0]} exclude each other", ctx)
    if find_spec("ray") is None:
        raise Failure("--engine ray needs Ray: pip install 'octavo[ray]'")


def _job(inputs: tuple[str, ...], options: dict[str, Any]) -> Job:
    columns = Columns(options["text_column"], options["id_column"], options["keep"])
    tasks = _tasks(options)
    deciding = {
        **{name.replace("_", "-"): options[name] for name in DECIDING},
        "task": " ".join(f"{name}:{model}" if model else name for name, model in options["tasks"]),
        "label": list(options["labels"]) or None,
        "tokens": options["tokens"] or None,
        **{name: options[name] for name in ("query", "method", "passages")},
    }
    return Job(
        inputs=inputs,
        output=options["output"],
        options=Options(columns, deciding),
        ask=Ask(tasks, call_arguments(options)),
        reading=columns.reading(options["encoding"], options["max_document_bytes"]),
        size=Size(options["part_rows"], options["part_characters"]),
        sample=options["sample"],
        input_format=options["input_format"],
        output_format=options["format"],
        share=options["shard"],
        max_errors=options["max_errors"],
        patience=LOCAL_PATIENCE if options["local"] else options["patience"],
    )


def _tasks(options: dict[str, Any]) -> dict[str, Task]:
    tasks = tasks_of(options["tasks"], options)
    if len({name for name, _ in options["tasks"]}) < len(tasks):
        raise click.UsageError("--task: a job has one task of a kind, whose results are in columns of their own")
    if options["segments"] and not any(isinstance(task, Embed | EmbedSparse) for task in tasks.values()):
        raise click.UsageError("--segments needs a task with vectors: embed or embed-sparse")
    own = (*FIRST_COLUMNS, *columns_of(tasks), *LAST_COLUMNS)
    if taken := next((name for name in options["keep"] if name in own), None):
        raise click.BadParameter(f"the column {taken!r} is reserved for the output", param_hint="--keep")
    return tasks


@contextlib.contextmanager
def _engine(options: dict[str, Any]) -> Iterator[Engine]:
    if options["engine"] == RAY:
        from octavo.batch.cluster import cluster  # noqa: PLC0415 - rarely needed

        own = (options[name] for name in (*_OF_RAY, "model", "max_document_bytes"))
        with cluster(*own) as engine:
            yield engine
    else:
        with _connected(options) as clients:
            yield Servers(clients)


@contextlib.contextmanager
def _connected(options: dict[str, Any], retry: Retry = NO_RETRY) -> Iterator[Sequence[Client]]:
    """Connect to each server, or to one that is started for the job."""
    most = options["max_document_bytes"]
    with contextlib.ExitStack() as stack:
        if options["local"]:
            limit = ("--set", f"server.max_document_bytes={most}")
            address = stack.enter_context(local_server(options["model"], arguments=limit))
            yield [stack.enter_context(Client(address, retry=retry, max_document_bytes=most))]
        else:
            clients = [client_of({**options, "server": each}, retry) for each in dict.fromkeys(options["server"])]
            yield [stack.enter_context(client) for client in clients]


def _plan(job: Job, options: dict[str, Any]) -> dict[str, Any]:
    from octavo.batch.plan import plan  # noqa: PLC0415 - rarely needed
    from octavo.batch.progress import clock  # noqa: PLC0415

    with _connected(options, Retry()) as clients:
        found = plan(job, clients)
    click.echo(
        f"octavo: {found['documents']:,} documents, {found['tokens']:,} tokens in {found['segments']:,} segments, "
        f"{found['uncached_tokens']:,} to compute: {clock(found['seconds'])} at {found['tokens_per_second']:,} "
        f"tokens/s, {found['bytes'] / 1e6:,.1f} MB; {found['failing']:,} would fail",
        err=True,
    )
    return found


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Make SIGTERM raise SystemExit, so that every `finally` runs."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
