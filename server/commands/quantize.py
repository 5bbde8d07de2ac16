"""`octavo models quantize`."""

import sys
from pathlib import Path

import click

from encoder.errors import EncoderError
from octavo.cli.group import file_names
from octavo.cli.progress import note
from server.commands.options import FAILURE, fail
from server.config.schema import ModelSettings


def _model(_: click.Context, __: click.Parameter, text: str) -> ModelSettings:
    try:
        return ModelSettings(path=text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no model: write NAME, FOLDER or hf:ORG/NAME") from None


@click.command()
@click.argument("model", metavar="NAME|FOLDER|hf:ORG/NAME", callback=_model, shell_complete=file_names)
@click.argument("out", metavar="FOLDER", type=click.Path(path_type=Path))
def quantize(model: ModelSettings, out: Path) -> None:
    r"""Quantise a model to 8 bits, a quarter of its size, and write it to a new folder.

    The server quantises a model when it first serves it in 8 bits, and keeps the result beside its cache. With a folder
    made by this command it starts without that delay, and all machines serve the same weights. The folder can only be
    served in 8 bits. NAME is a fetched model; a FOLDER contains a slash.

    \b
    octavo models quantize all-MiniLM-L6-v2 ./minilm-int8
    octavo serve --model ./minilm-int8

    Exits with 1 if the model cannot be read or the folder exists.
    """
    from encoder import quantised  # noqa: PLC0415 - loads torch

    if sys.stderr.isatty():
        note("quantising takes seconds to minutes")
    try:
        quantised.save(model.folder, out)
    except (EncoderError, OSError) as error:
        fail(FAILURE, str(error))
    size = sum(file.stat().st_size for file in out.glob("*.safetensors"))
    click.echo(f"{out}: {size / 1e6:,.0f} MB of 8-bit weights")
