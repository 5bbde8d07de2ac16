"""Reads wheels, zip files and compressed tar files; nothing in them is imported or run."""

import math
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Final, Self
from urllib.parse import urlsplit

from server.fetch.errors import ArchiveError
from server.fetch.manifest import Take

SUFFIXES: Final = (".tar.gz", ".tgz", ".zip", ".whl")
MOST_BYTES: Final = 16 << 30  # of a model; what an archive says of its files' sizes is not trusted
MOST_FILES: Final = 1000
_PIN: Final = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive's path or URL, and its SHA-256 in hexadecimal; None: it is not checked."""

    place: str
    sha256: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse PATH or URL and `#sha256=HEX`; None if the text names no archive.

        Raises:
            ValueError: it names an archive, but not how it is pinned.
        """
        place, mark, pin = text.partition("#")
        remote = place.startswith(("https://", "http://"))
        if not remote and not place.endswith(SUFFIXES):
            return None
        digest = _PIN.fullmatch(pin)
        if digest is None and (mark or remote):
            raise ValueError(f"{place} needs its digest: #sha256= and 64 hexadecimal digits")
        return cls(place, digest[1].lower() if digest else None)

    @property
    def name(self) -> str:
        """The name of its file."""
        return Path(urlsplit(self.place).path if "://" in self.place else self.place).name


def extract(archive: Path, take: Iterable[Take], folder: Path) -> None:
    """Copy files into a folder, with names relative to the folder of their `Take`.

    Raises:
        ArchiveError: a pattern matches no file, or as `unpack`.
    """
    wanted = {(each, pattern) for each in take for pattern in each.patterns}
    missing = set(wanted)
    with _explained(archive):
        for name, content in _files(archive):
            for each, pattern in wanted:
                if fnmatchcase(name, f"{each.folder}/{pattern}"):
                    missing.discard((each, pattern))
                    _copy(content, folder, name.removeprefix(f"{each.folder}/"))
    if missing:
        absent = ", ".join(sorted(f"{each.folder}/{pattern}" for each, pattern in missing))
        raise ArchiveError(f"{archive.name} has no {absent}")


def unpack(archive: Path, is_wanted: Callable[[str], bool], folder: Path) -> None:
    """Copy the files whose own names are wanted into a folder, with their paths.

    Raises:
        ArchiveError: it is no archive or is damaged, has too much, or a file's path would be outside the folder.
    """
    with _explained(archive):
        files, left = 0, MOST_BYTES
        for name, content in _files(archive):
            if is_wanted(PurePosixPath(name).name):
                files += 1
                left -= _copy(content, folder, name, left)
                if files > MOST_FILES or left < 0:
                    raise ArchiveError(
                        f"{archive.name} has over {MOST_FILES:,} files or {MOST_BYTES:,} bytes of models"
                    )


def _copy(content: IO[bytes], folder: Path, name: str, most: float = math.inf) -> int:
    """Copy a file, no further than the first mebibyte over `most`; return how many bytes were copied."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ArchiveError(f"a file's path is outside its folder: {name!r}")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    size = 0
    with target.open("wb") as out:
        while size <= most and (part := content.read(1 << 20)):
            size += out.write(part)
    return size


@contextmanager
def _explained(archive: Path) -> Iterator[None]:
    """Convert errors of reading and writing to ArchiveError. zipfile raises the last two of what it does not know."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(f"{archive.name}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ArchiveError(f"{archive.name} cannot be unpacked: {error}") from error


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield regular files in the archive's order; each is readable until the next is requested."""
    if archive.suffix in {".whl", ".zip"}:
        with zipfile.ZipFile(archive) as zipped:
            for entry in zipped.infolist():
                if not entry.is_dir() and not stat.S_ISLNK(entry.external_attr >> 16):
                    with zipped.open(entry) as content:
                        yield entry.filename, content
    else:
        with tarfile.open(archive, "r:gz") as package:
            for member in package:
                file = package.extractfile(member) if member.isfile() else None
                if file:
                    yield member.name, file
