"""`octavo embed`."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from octavo.cli.connection import connected
from octavo.cli.documents import Outcome, outcomes, reader, succeeded
from octavo.cli.exits import FAILED, Failure
from octavo.cli.options import (
    call_options,
    check_call_options,
    file_names,
    files_argument,
    in_flight_option,
    vector_options,
)
from octavo.cli.output import STDOUT, destination, embedding_json, json_line, save_array
from octavo.cli.texts import refuse_stdin_twice

if TYPE_CHECKING:
    from octavo.client.results import Array


@click.command()
@files_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "npy"]),
    default="json",
    show_default=True,
    help="json: one line per file. npy: NumPy's format, one row per file, or with --segments one per segment.",
)
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    default=STDOUT,
    shell_complete=file_names,
    help="Output file. [default: standard output]",
)
@click.option("--segments", is_flag=True, help="Include segments and their vectors.")
@vector_options
@in_flight_option
@call_options
@click.pass_context
def embed(
    ctx: click.Context, /, files: tuple[str, ...], form: str, output: str, in_flight: int, **options: Any
) -> None:
    r"""Embed documents of any length.

    Each FILE is a document; '-' is standard input. Lines are in the order of the files. If files fail, they are named
    on standard error and the exit code is 1; the others are still written, but an array only if all succeed.

    \b
    octavo embed book.txt | jq .usage
    octavo embed --segments book.txt                     every segment with its position and vector
    octavo embed --format npy -o vectors.npy *.txt       one row per file
    pdftotext report.pdf - | octavo embed --local -      without a server
    """
    refuse_stdin_twice(files)
    check_call_options(ctx)
    if form == "npy":
        _check_array(files, output, segments=options["segments"])
    read = reader(files, options["encoding"])
    write = _write_array if form == "npy" else _write_lines
    with destination(output) as out, connected(options) as client:
        failed = write(outcomes(client, files, read, in_flight, options), out, segments=options["segments"])
    if failed:
        ctx.exit(FAILED)


def _check_array(files: tuple[str, ...], output: str, *, segments: bool) -> None:
    if segments and len(files) > 1:
        raise click.UsageError("--segments with --format npy takes only one FILE: rows do not name their file")
    if output == STDOUT and sys.stdout.isatty():
        raise click.UsageError("an array is not written to a terminal: add --output FILE")


def _write_lines(results: Iterator[Outcome], out: BinaryIO, *, segments: bool) -> bool:
    """Write one line per successful file; return whether any failed."""
    failed: list[str] = []
    for file, result in succeeded(results, failed):
        out.write(json_line(embedding_json(file, result, segments=segments)))
        out.flush()
    return bool(failed)


def _write_array(results: Iterator[Outcome], out: BinaryIO, *, segments: bool) -> bool:
    """Write one row per file or segment. Raises Failure if any file failed."""
    failed: list[str] = []
    rows: list[Array] = []
    for _, result in succeeded(results, failed):
        rows += [each.vector for each in result.segments if each.vector is not None] if segments else [result.vector]
    if failed:
        raise Failure(f"no array was written: {len(failed)} of the files failed")
    save_array(rows, out)
    return False
