"""Adds a model of a Hugging Face hub: safetensors, configuration and tokenizer files of one commit, nothing else.

The model is made in a folder `.partial/NAME` beside its place, where an interrupted download resumes, and moved to its
place when complete.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from chunking import ChunkingError, load_tokenizer
from encoder.configuration import read_architecture
from encoder.errors import EncoderError, MissingFileError
from encoder.folder import MANIFEST, QUANTISED, describe
from server.config.hub import HubModel
from server.fetch.errors import FetchError, UnsupportedModel
from server.fetch.hub import Advance, Hub, RemoteFile, Snapshot

DESCRIPTION: Final = frozenset(
    {
        "config.json",
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spiece.model",
        "tokenizer.model",
        MANIFEST,
    }
)
LICENCES: Final = re.compile(r"README\.md|LICEN[CS]E[^/]*|NOTICE[^/]*")
_WEIGHTS: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
_PICKLED: Final = re.compile(r"[^/]*\.(bin|pt|pth|ckpt)")

Progress = Callable[[int, str], AbstractContextManager[Advance]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a folder was made from. Its file is no `.json`, which would be part of the model's digest.

    Attributes:
        bytes: of all files together; 0 while the download is not complete.
    """

    model: str
    commit: str
    bytes: int = 0

    FILE = "receipt"

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The folder's receipt; None without a valid one."""
        try:
            return cls(**json.loads((folder / cls.FILE).read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Store it in a folder."""
        (folder / self.FILE).write_text(json.dumps(asdict(self)) + "\n")

    def is_complete(self, folder: Path) -> bool:
        """Whether the folder has all that was downloaded, by size."""
        return self.bytes > 0 and self.bytes == _size(folder)


def add(model: HubModel, hub: Hub, progress: Progress) -> Receipt:
    """Download a model, unless its folder has the revision's commit already.

    Raises:
        FetchError: it cannot be downloaded, or Octavo cannot serve it, which is checked before its weights are
            downloaded.
    """
    present = Receipt.read(model.folder)
    if present and not present.is_complete(model.folder):
        present = None
    if present and present.commit == model.revision:
        return present
    snapshot = hub.snapshot(model)
    if present and present.commit == snapshot.commit:
        return present
    with _partial(model, snapshot.commit) as folder:
        download = _Download(model, hub, snapshot, folder)
        download.description()
        weights = download.weights()
        with progress(sum(file.size for file in weights), model.name) as advance:
            download.take(weights, advance)
        receipt = Receipt(str(model), snapshot.commit, _size(folder))
        receipt.write(folder)
        _replace(model.folder, folder)
    return receipt


@dataclass(frozen=True, slots=True)
class _Download:
    """A download of a commit to a folder."""

    model: HubModel
    hub: Hub
    snapshot: Snapshot
    folder: Path

    def take(self, files: Iterable[RemoteFile], advance: Advance = lambda _: None) -> None:
        """Download files."""
        for file in files:
            self.hub.download(self.model, self.snapshot.commit, file, self.folder / file.name, advance)

    def description(self) -> None:
        """Download everything but the weights, and check it as the server does.

        Raises:
            EncoderError, ChunkingError: the model cannot be served.
        """
        self.take(self._files("config.json"))
        read_architecture(self.folder)
        files = self.snapshot.files
        self.take(file for name, file in files.items() if name in DESCRIPTION or LICENCES.fullmatch(name))
        self.take(self._files(*self._module_files()))
        load_tokenizer(self.folder)
        with contextlib.suppress(MissingFileError):  # the weights, which it looks for last
            describe(self.folder)

    def weights(self) -> list[RemoteFile]:
        """The weight files. Raises UnsupportedModel if there are none."""
        if found := [name for name in (_WEIGHTS, QUANTISED) if name in self.snapshot.files]:
            return self._files(found[0])
        if _INDEX not in self.snapshot.files:
            pickled = any(map(_PICKLED.fullmatch, self.snapshot.files))
            why = "; its pickled weights could run code, and are not read" if pickled else ""
            raise UnsupportedModel(f"no {_WEIGHTS}{why}")
        self.take(self._files(_INDEX))
        return self._files(*self._shards())

    def _files(self, *names: str) -> list[RemoteFile]:
        if missing := [name for name in names if name not in self.snapshot.files]:
            raise UnsupportedModel(f"no file {missing[0]!r}")
        return [self.snapshot.files[name] for name in names]

    def _shards(self) -> list[str]:
        try:
            shards: list[str] = sorted(
                set(json.loads((self.folder / _INDEX).read_text("utf-8"))["weight_map"].values())
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            shards = []
        if not shards or any("/" in str(shard) for shard in shards):
            raise UnsupportedModel(f"{_INDEX} has no valid list of shards")
        return shards

    def _module_files(self) -> list[str]:
        """The configuration of the module that pools."""
        try:
            modules = json.loads((self.folder / "modules.json").read_text("utf-8"))
            return [f"{each['path']}/config.json" for each in modules if str(each["type"]).endswith(".Pooling")]
        except (OSError, ValueError, TypeError, KeyError):
            return []  # none, or `describe` says what is wrong


@contextlib.contextmanager
def _partial(model: HubModel, commit: str) -> Iterator[Path]:
    """A folder for the download, with what an interrupted one of this commit left.

    Raises:
        UnsupportedModel: for the encoder's and the tokenizer's errors; the folder is removed.
    """
    folder = model.folder.parent / ".partial" / model.folder.name
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock, model)
        left = Receipt.read(folder)
        if left is None or left.commit != commit:
            _clear(folder)
            Receipt(str(model), commit).write(folder)
        yield folder
    except (EncoderError, ChunkingError, UnsupportedModel) as error:
        shutil.rmtree(folder)
        words = str(error).replace(f"{folder}: ", "").removeprefix(f"{folder.name}: ")
        raise UnsupportedModel(f"{model}: {words}") from error
    finally:
        os.close(lock)


def _lock(folder: int, model: HubModel) -> None:
    """Lock an open folder until it is closed."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FetchError(f"{model} is being added by another process") from None


def _clear(folder: Path) -> None:
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


def _replace(folder: Path, made: Path) -> None:
    """Move a folder to its place, where another may be."""
    old = made.with_name(f"{made.name}.old")
    if folder.exists():
        folder.rename(old)
    made.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(OSError):  # another download is in it
        made.parent.rmdir()


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != Receipt.FILE)
