"""`octavo embed`."""

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from octavo.cli.connection import connected, is_unreachable
from octavo.cli.exits import FAILED, Failure, complain
from octavo.cli.options import (
    call_arguments,
    call_options,
    embed_task,
    files_argument,
    refuse_server_with_local,
    vector_options,
)
from octavo.cli.output import STDOUT, destination, embedding_json, json_line, save_array
from octavo.cli.progress import progress
from octavo.cli.texts import read_text, refuse_stdin_twice
from octavo.client import Client, EmbedResult, OctavoError, Segment, StreamSummary

if TYPE_CHECKING:
    from octavo.client.results import Array

TASK = "embed"
Outcome = tuple[str, EmbedResult | OctavoError | Failure]


@click.command()
@files_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "npy"]),
    default="json",
    show_default=True,
    help="json: a line a file. npy: numpy's format, a row a file, or with --segments a row a segment of the one file.",
)
@click.option("--output", "-o", metavar="FILE", default=STDOUT, help="Write there. [default: standard output]")
@click.option("--segments", is_flag=True, help="The segments and their vectors too.")
@vector_options
@click.option("--in-flight", type=click.IntRange(min=1), default=8, show_default=True, help="Documents at a time.")
@call_options
@click.pass_context
def embed(
    ctx: click.Context, /, files: tuple[str, ...], form: str, output: str, in_flight: int, **options: Any
) -> None:
    r"""Vectors of whole documents, however long.

    Each FILE is a document; '-' is standard input. Lines come in the files' order. A file that fails is named on
    standard error, the others go on, and the exit code is 1; an array is written whole or not at all.

    \b
    octavo embed book.txt | jq .usage
    octavo embed --segments book.txt                     every segment with its place and its vector
    octavo embed --format npy -o vectors.npy *.txt       one row a file
    pdftotext report.pdf - | octavo embed --local -      without a server
    """
    refuse_stdin_twice(files)
    refuse_server_with_local(ctx)
    if form == "npy":
        _check_array(files, output, segments=options["segments"])
    # One document is read before anything is started for it.
    only = read_text(files[0], options["encoding"]) if len(files) == 1 else None
    with destination(output) as out, connected(options) as client:
        if only is None:
            outcomes = _several(client, files, in_flight, options)
        else:
            outcomes = iter([(files[0], _one(client, files[0], only, options))])
        write = _write_array if form == "npy" else _write_lines
        failed = write(outcomes, out, segments=options["segments"])
    if failed:
        ctx.exit(FAILED)


def _check_array(files: tuple[str, ...], output: str, *, segments: bool) -> None:
    if segments and len(files) > 1:
        raise click.UsageError("--segments with --format npy takes one FILE: the rows would not tell their files")
    if output == STDOUT and sys.stdout.isatty():
        raise click.UsageError("an array is not for a terminal: add --output FILE")


def _one(client: Client, file: str, text: str, options: dict[str, Any]) -> EmbedResult:
    """A single document as a stream: it shows how far it is, and its segments' vectors need not fit one message."""
    tasks = {TASK: embed_task(options)}
    segments = []
    with (
        client.stream(text, tasks, timeout=options["timeout"], **call_arguments(options)) as stream,
        progress(len(text), file) as advance,
    ):
        for part in stream:
            segments.append(replace(part.segment, vector=part.results[TASK].vector))
            advance(part.segment.char_end - part.segment.char_start)
    return _whole(stream.summary, tuple(segments))


def _whole(summary: StreamSummary | None, segments: tuple[Segment, ...]) -> EmbedResult:
    """What a stream said, as `Client.embed` would have. Raises Failure unless it covers the document."""
    if summary is None or summary.partial:
        raise Failure("the timeout came before the document's end; give it more with --timeout")
    vector = summary.results[TASK].vector
    if vector is None:
        raise Failure("the server sent no document vector")
    return EmbedResult(
        model=summary.model,
        fingerprint=summary.fingerprint,
        usage=summary.usage,
        timings=summary.timings,
        request_id=summary.request_id,
        vector=vector,
        segments=segments,
    )


def _several(client: Client, files: tuple[str, ...], in_flight: int, options: dict[str, Any]) -> Iterator[Outcome]:
    """Every file and what became of it: results in order, then what could not be read. No server ends it."""
    unread: dict[str, Failure] = {}
    sent: deque[str] = deque()

    def texts() -> Iterator[str]:
        for file in files:
            try:
                text = read_text(file, options["encoding"])
            except Failure as fault:
                unread[file] = fault
            else:
                sent.append(file)
                yield text

    task = embed_task(options)
    results = client.embed_many(
        texts(),
        in_flight=in_flight,
        return_exceptions=True,
        timeout=options["timeout"],
        pooling=task.pooling,
        normalize=task.normalize,
        dimensions=task.dimensions,
        data_type=task.data_type,
        segment_vectors=task.segment_vectors,
        **call_arguments(options),
    )
    with progress(len(files), "documents") as advance:
        for result in results:
            if isinstance(result, OctavoError) and is_unreachable(result):
                raise result
            advance(1)
            yield sent.popleft(), result
        for file, fault in unread.items():
            advance(1)
            yield file, fault


def _succeeded(outcomes: Iterator[Outcome], failed: list[str]) -> Iterator[tuple[str, EmbedResult]]:
    """Those that have a result; the others are named on standard error and in `failed`."""
    for file, outcome in outcomes:
        if isinstance(outcome, EmbedResult):
            yield file, outcome
        else:
            failed.append(file)
            complain(str(outcome) if isinstance(outcome, Failure) else f"{file}: {outcome}")


def _write_lines(outcomes: Iterator[Outcome], out: BinaryIO, *, segments: bool) -> bool:
    """Writes a line for every file that succeeded; returns whether any failed."""
    failed: list[str] = []
    for file, result in _succeeded(outcomes, failed):
        out.write(json_line(embedding_json(file, result, segments=segments)))
        out.flush()
    return bool(failed)


def _write_array(outcomes: Iterator[Outcome], out: BinaryIO, *, segments: bool) -> bool:
    """Writes a row a file, or a segment. Raises Failure where a row would be missing."""
    failed: list[str] = []
    rows: list[Array] = []
    for _, result in _succeeded(outcomes, failed):
        rows += [each.vector for each in result.segments if each.vector is not None] if segments else [result.vector]
    if failed:
        raise Failure(f"no array is written: rows would be missing for {len(failed)} of the files")
    save_array(rows, out)
    return False
