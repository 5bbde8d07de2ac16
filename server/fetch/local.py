"""Registers a model folder of this machine: checked, and copied to where "octavo serve" finds models by name."""

import shutil
import tempfile
from pathlib import Path

from chunking import ChunkingError, load_tokenizer
from encoder.configuration import read_architecture
from encoder.errors import EncoderError
from encoder.folder import describe, weight_files
from server.fetch.add import DESCRIPTION, LICENCES
from server.fetch.errors import FetchError, UnsupportedModel


def register(source: Path, models: Path) -> Path:
    """Copy a folder's description, tokenizer and weights, nothing else, to a folder of its name.

    Raises:
        UnsupportedModel: Octavo cannot serve it.
        FetchError: there is another model of its name, or it cannot be copied.
    """
    try:
        described = describe(source)
        if not described.trunk:
            read_architecture(source)
            load_tokenizer(source)
        target = models / described.name
        if target.exists():
            if describe(target).digest == described.digest:
                return target
            raise FetchError(f"another model is in {target}: rename one of them, or remove it")
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{described.name}.", dir=models) as scratch:
            made = Path(scratch) / described.name
            for file in _files(source):
                copy = made / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)
            made.rename(target)
    except (EncoderError, ChunkingError) as error:
        raise UnsupportedModel(str(error)) from error
    except OSError as error:
        raise FetchError(f"{source}: {error.strerror or error}") from error
    return target


def _files(source: Path) -> list[Path]:
    named = [file for file in source.iterdir() if file.name in DESCRIPTION or LICENCES.fullmatch(file.name)]
    index = [file for file in source.glob("*.index.json") if file.is_file()]
    return [*named, *index, *source.glob("*/config.json"), *weight_files(source)]
