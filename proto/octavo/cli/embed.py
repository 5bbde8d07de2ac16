"""`octavo embed`."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from octavo.cli.documents import Outcome, each_written, run_tasks, succeeded
from octavo.cli.exits import Failure
from octavo.cli.options import document_options, tasks_of
from octavo.cli.output import STDOUT, save_array
from octavo.cli.tasks import task_line
from octavo.client import Embed

if TYPE_CHECKING:
    from octavo.client.results import Array


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["json", "npy"]),
    default="json",
    show_default=True,
    help="json: one line per file. npy: NumPy's format, one row per file, or with --segments one per segment.",
)
@document_options(Embed)
@click.pass_context
def embed(ctx: click.Context, /, files: tuple[str, ...], form: str, **options: Any) -> None:
    r"""Embed documents of any length.

    Each FILE is a document; '-' is standard input. Lines are in the order of the files. If files fail, they are named
    on standard error and the exit code is 1; the others are still written, but an array only if all succeed.

    \b
    octavo embed book.txt | jq .usage
    octavo embed --segments book.txt                     every segment with its position and vector
    octavo embed --format npy -o vectors.npy *.txt       one row per file
    pdftotext report.pdf - | octavo embed --local -      without a server
    """
    segments = options["segments"]
    if form == "npy":
        _check_array(files, options["output"], segments=segments)
    write = partial(_write_array, segments=segments) if form == "npy" else each_written(task_line(segments=segments))
    run_tasks(ctx, files, tasks_of([("embed", None)], options), write, options)


def _check_array(files: tuple[str, ...], output: str, *, segments: bool) -> None:
    if segments and len(files) > 1:
        raise click.UsageError("--segments with --format npy takes only one FILE: rows do not name their file")
    if output == STDOUT and sys.stdout.isatty():
        raise click.UsageError("an array is not written to a terminal: add --output FILE")


def _write_array(results: Iterator[Outcome], out: BinaryIO, *, segments: bool) -> bool:
    """Write one row per file or segment. Raises Failure if any file failed."""
    failed: list[str] = []
    rows: list[Array] = []
    for _, answer in succeeded(results, failed):
        found = answer.segments if segments else [answer.summary]
        rows += [each.results["embed"].vector for each in found]
    if failed:
        raise Failure(f"no array was written: {len(failed)} of the files failed")
    save_array(rows, out)
    return False
