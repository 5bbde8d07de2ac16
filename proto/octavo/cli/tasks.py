"""`octavo analyze` and the commands that run one task, such as `redact` and `rank`."""

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import click

from octavo.cli.documents import Answer, Outcome, each_written, run_tasks, succeeded
from octavo.cli.options import TASKS, document_options, task_option, tasks_of
from octavo.cli.output import analysis_json, json_line, task_json
from octavo.client import Classify, ClassifyTokens, EmbedSparse, Rank, Redact


def task_line(*, segments: bool) -> Callable[[str, Answer], bytes]:
    """A function that shows the result of a call's only task as a line of JSON."""

    def line(file: str, answer: Answer) -> bytes:
        return json_line({"file": file, **task_json(answer.text, answer.segments, answer.summary, segments=segments)})

    return line


def _run_task(ctx: click.Context, name: str, files: tuple[str, ...], options: dict[str, Any]) -> None:
    line = each_written(task_line(segments=options["segments"]))
    run_tasks(ctx, files, tasks_of([(name, None)], options), line, options)


@click.command()
@document_options(ClassifyTokens)
@click.pass_context
def classify_tokens(ctx: click.Context, /, files: tuple[str, ...], **options: Any) -> None:
    r"""Find entities in documents of any length: names, addresses, whatever the model knows.

    Each FILE is a document; '-' is standard input. Writes one line of JSON per file, with the position, text, label and
    score of each entity. Positions are in characters.

    \b
    octavo classify-tokens mails/*.txt | jq '.entities[].text'
    octavo classify-tokens --model rampart --label EMAIL --label PHONE --min-score 0.8 mail.txt
    """
    _run_task(ctx, "classify-tokens", files, options)


@click.command()
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="text: the redacted text, in UTF-8. json: one line per file, with the position of each entity and mask.",
)
@document_options(Redact)
@click.pass_context
def redact(ctx: click.Context, /, files: tuple[str, ...], form: str, **options: Any) -> None:
    r"""Mask entities in documents of any length.

    Each FILE is a document; '-' is standard input. Writes the redacted texts, one after the other.

    \b
    octavo redact mail.txt > masked.txt
    octavo redact --mask '***' --label EMAIL --label PHONE mail.txt
    octavo redact --format json mails/*.txt | jq -c '.entities[] | [.label, .char_start, .char_end]'
    """
    if form == "json":
        _run_task(ctx, "redact", files, options)
    else:
        if options["segments"]:
            raise click.UsageError("--segments has no effect without --format json", ctx)
        text = each_written(lambda _, answer: answer.summary.results["redact"].text.encode())
        run_tasks(ctx, files, tasks_of([("redact", None)], options), text, options)


@click.command()
@document_options(Classify)
@click.pass_context
def classify(ctx: click.Context, /, files: tuple[str, ...], **options: Any) -> None:
    r"""Label documents of any length.

    Each FILE is a document; '-' is standard input. Writes one line of JSON per file, with labels by descending score.

    \b
    octavo classify --top-k 1 news/*.txt | jq -r '[.file, .labels[0].label] | @tsv'
    octavo classify --segments report.txt                which segments carry each label
    """
    _run_task(ctx, "classify", files, options)


@click.command()
@document_options(EmbedSparse)
@click.pass_context
def embed_sparse(ctx: click.Context, /, files: tuple[str, ...], **options: Any) -> None:
    r"""Compute sparse vectors of documents of any length, over the model's vocabulary.

    Each FILE is a document; '-' is standard input. Writes one line of JSON per file, with ids of tokens and their
    weights.

    \b
    octavo embed-sparse --model splade-tiny --tokens --top-k 20 book.txt | jq -c '[.tokens, .weights]'
    """
    _run_task(ctx, "embed-sparse", files, options)


@click.command()
@click.argument("query")
@click.option("--top-k", type=click.IntRange(min=1), metavar="N", help="Only the N best documents.")
@document_options(Rank, without=["query"])
@click.pass_context
def rank(ctx: click.Context, /, query: str, files: tuple[str, ...], top_k: int | None, **options: Any) -> None:
    r"""Rank documents of any length by how well they answer QUERY.

    Each FILE is a document; '-' is standard input. Writes one line of JSON per file, the best first, with its score and
    best passages. Documents are read as passages unless --input-type says otherwise.

    \b
    octavo rank "who keeps the light?" logs/*.txt | jq -r '[.score, .file, .passages[0].text] | @tsv'
    octavo rank --model reranker --top-k 5 "who keeps the light?" logs/*.txt        with a cross-encoder
    """
    line = task_line(segments=options["segments"])

    def write(results: Iterator[Outcome], out: BinaryIO) -> bool:
        failed: list[str] = []
        found = [
            (answer.summary.results["rank"].score, line(file, answer)) for file, answer in succeeded(results, failed)
        ]
        out.writelines(shown for _, shown in sorted(found, key=lambda each: -each[0])[:top_k])
        return bool(failed)

    options["input_type"] = options["input_type"] or "passage"
    model = None if options["local"] else options["model"]
    run_tasks(ctx, files, {"rank": Rank(query, options["method"], options["passages"], model)}, write, options)


@click.command()
@task_option()
@document_options(*TASKS.values())
@click.pass_context
def analyze(
    ctx: click.Context, /, files: tuple[str, ...], tasks: tuple[tuple[str, str | None], ...], **options: Any
) -> None:
    r"""Run any number of tasks on documents of any length, in one pass over each model's layers.

    Each FILE is a document; '-' is standard input. Writes one line of JSON per file, with the result of each task and
    what ran. An option applies to all tasks that have it.

    \b
    octavo analyze --task embed --task redact --task classify report.txt | jq .results.redact.text
    octavo analyze --task classify:topics --task classify:languages report.txt | jq '.results | keys'
    octavo analyze --task classify --task rank --query "who keeps the light?" logs/*.txt
    """
    segments = options["segments"]
    line = each_written(
        lambda file, answer: json_line(
            {"file": file, **analysis_json(answer.text, answer.segments, answer.summary, segments=segments)}
        )
    )
    run_tasks(ctx, files, tasks_of(tasks, options), line, options)
