"""`octavo segment`."""

from typing import Any

import click

from octavo.cli.connection import connected, explained, is_unreachable
from octavo.cli.exits import FAILED, Failure, complain
from octavo.cli.options import call_arguments, call_options, check_call_options, files_argument
from octavo.cli.output import glimpse, json_line, segmentation_json, table
from octavo.cli.texts import read_text, refuse_stdin_twice
from octavo.client import OctavoError, SegmentationResult


@click.command()
@files_argument
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one line per file.",
)
@call_options
@click.pass_context
def segment(ctx: click.Context, /, files: tuple[str, ...], form: str, **options: Any) -> None:
    r"""Show the segments and cost of documents.

    The model does not run. Positions are in characters. Segments tile the document: each starts where the previous one
    ends.

    \b
    octavo segment book.txt
    octavo segment --policy sentence --max-tokens 200 book.txt
    octavo segment --format json *.txt | jq .uncached_tokens
    """
    refuse_stdin_twice(files)
    check_call_options(ctx)
    failed = False
    with connected(options) as client:
        for file in files:
            try:
                text = read_text(file, options["encoding"])
                result = client.segment(text, timeout=options["timeout"], **call_arguments(options))
            except (Failure, OctavoError) as fault:
                if isinstance(fault, OctavoError) and is_unreachable(fault):
                    raise
                failed = True
                complain(fault.message if isinstance(fault, Failure) else f"{file}: {explained(fault)}")
                continue
            if form == "json":
                click.echo(json_line(segmentation_json(file, result)), nl=False)
            else:
                click.echo(_described(file, text, result))
    if failed:
        ctx.exit(FAILED)


def _described(file: str, text: str, result: SegmentationResult) -> str:
    rows = [
        (
            str(each.index),
            f"{each.char_start:,}",
            f"{each.char_end:,}",
            f"{each.token_count:,}",
            glimpse(text[each.char_start : each.char_end]),
        )
        for each in result.segments
    ]
    total = (
        f"{file}: {result.usage.tokens:,} tokens in {len(rows):,} segments, {len(text):,} characters; {result.model} "
        f"would compute {result.uncached_tokens:,} tokens"
    )
    return f"{total}\n{table(('segment', 'from', 'to', 'tokens', 'text'), rows, right=(0, 1, 2, 3))}"
