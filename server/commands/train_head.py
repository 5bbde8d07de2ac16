"""`octavo train-head`."""

import re
from pathlib import Path
from typing import Any, Final

import click

from octavo.cli.progress import note, progress
from server.commands.options import FAILURE, cache_options, configuration, fail
from server.errors import StartError
from server.telemetry import logs
from server.training.examples import ExampleError, HeadTask, read_data

_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?", re.ASCII)


def _version(_: click.Context, __: click.Parameter, text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise click.BadParameter(f"{text!r} is not a version such as 1.0.0")
    return text


@click.command("train-head")
@click.option("--model", required=True, metavar="NAME|FOLDER|hf:ORG/NAME", help="The model whose states are read.")
@click.option(
    "--data",
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Labelled documents, JSON Lines.",
)
@click.option("--task", required=True, type=click.Choice(["classify", "tokens"]), help="What the head classifies.")
@click.option(
    "--out", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="The new folder of the head."
)
@click.option("--version", default="1.0.0", show_default=True, callback=_version, help="The head's version, SemVer.")
@click.option("--licence", default="", metavar="SPDX", help="The head's licence.")
@click.option("--trained-on", metavar="TEXT", help="The data in one line. [default: the file's name]")
@cache_options
def train_head(
    model: str,
    data: Path,
    task: HeadTask,
    out: Path,
    version: str,
    licence: str,
    trained_on: str | None,
    **options: Any,
) -> None:
    r"""Train a head on a model's frozen states and write it to a new folder.

    Only the head is fitted: the model runs once, its states go to the layer cache, and training again takes seconds.
    Each line of FILE is a JSON object:

    \b
    {"text": "…", "label": "news"}                    to classify documents
    {"text": "…", "labels": ["news", "sport"]}        the same, any number of labels
    {"text": "…", "entities": [{"start": 0, "end": 5, "label": "NAME"}]}
                                                      to classify tokens; code points

    Penalty and calibration are chosen by cross-validation. A server needs the model beside the head.

    \b
    octavo train-head --model all-MiniLM-L6-v2 --data mails.jsonl --task classify --out ./spam
    octavo serve --model all-MiniLM-L6-v2 --model ./spam

    Exits with 1 if the data, the model or the cache cannot be used, or the folder exists; 2 if the settings are wrong.
    """
    settings = configuration(models=(model,), **options).settings
    logs.configure("warning", settings.log.format)
    if out.exists():
        fail(FAILURE, f"{out} exists already")
    try:
        read = read_data(data, task)
        from encoder.fitting import MOST_FITS  # noqa: PLC0415 - loads torch
        from server.training import heads  # noqa: PLC0415
        from server.training.features import read_examples  # noqa: PLC0415
        from server.training.states import open_states  # noqa: PLC0415

        with open_states(settings) as states, progress(len(read.documents), "documents") as documents:
            examples = read_examples(states, read, documents)
        with progress(MOST_FITS, "fitting") as fits:
            head = heads.train(states.model, read, examples, fits)
        about = heads.About(version, licence, " ".join((trained_on or data.name).split()))
        head.save(out, about, heads.card(out.resolve().name, head, about))
    except (ExampleError, StartError, OSError) as error:
        fail(FAILURE, str(error))
    note(f"{len(read.documents):,} documents, {len(read.labels)} labels: {head.measured}")
    note(f"octavo serve --model {model} --model {out if '/' in str(out) else f'./{out}'}")
    click.echo(out)
