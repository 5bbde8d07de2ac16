"""Reads wheels and npm packages as archives; nothing in them is imported or run."""

import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO

from server.fetch.errors import ArchiveError
from server.fetch.manifest import Take


def extract(archive: Path, take: Iterable[Take], folder: Path) -> None:
    """Copy files into a folder, with names relative to the folder of their `Take`.

    Raises:
        ArchiveError: a pattern matches no file, or a file's path would be outside the folder.
    """
    wanted = {(each, pattern) for each in take for pattern in each.patterns}
    missing = set(wanted)
    for name, content in _files(archive):
        for each, pattern in wanted:
            if fnmatchcase(name, f"{each.folder}/{pattern}"):
                missing.discard((each, pattern))
                _copy(content, folder, name.removeprefix(f"{each.folder}/"))
    if missing:
        absent = ", ".join(sorted(f"{each.folder}/{pattern}" for each, pattern in missing))
        raise ArchiveError(f"{archive.name} has no {absent}")


def _copy(content: IO[bytes], folder: Path, name: str) -> None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise ArchiveError(f"a file's path is outside its folder: {name!r}")
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        shutil.copyfileobj(content, out, 1 << 20)


def _files(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield regular files in the archive's order; each is readable until the next is requested."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for entry in wheel.infolist():
                if not entry.is_dir() and not stat.S_ISLNK(entry.external_attr >> 16):
                    with wheel.open(entry) as content:
                        yield entry.filename, content
    else:
        with tarfile.open(archive, "r:gz") as package:
            for member in package:
                file = package.extractfile(member) if member.isfile() else None
                if file:
                    yield member.name, file
