"""Adds a model from an archive, of this machine or at a URL: unpacked to a scratch folder, then added as a folder is.

Nothing of it is imported or run. A URL is pinned by the archive's SHA-256.
"""

import hashlib
import http.client
import tempfile
import urllib.request
from pathlib import Path
from typing import Final
from urllib.error import HTTPError

from server.fetch.add import DESCRIPTION, LICENCES, Progress
from server.fetch.archives import SUFFIXES, Archive, unpack
from server.fetch.errors import ArchiveError, DownloadError
from server.fetch.local import register

TIMEOUT_SECONDS: Final = 30.0


def add(archive: Archive, models: Path, progress: Progress) -> Path:
    """Add the one model that an archive holds; return its folder.

    Raises:
        FetchError: the archive cannot be read or is not the pinned one, or Octavo cannot serve its model.
    """
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".archive.", dir=models) as scratch:
        folder = Path(scratch)
        file = _download(archive, folder, progress) if "://" in archive.place else Path(archive.place).expanduser()
        if archive.sha256:
            _check(file, archive)
        # A model that is not in a folder gets the name of its archive.
        root = folder / "model" / archive.name.removesuffix(next(filter(archive.name.endswith, SUFFIXES), ""))
        unpack(file, _is_wanted, root)
        return register(_model(root, archive.name), models)


def _is_wanted(name: str) -> bool:
    return name in DESCRIPTION or LICENCES.fullmatch(name) is not None or name.endswith((".safetensors", ".index.json"))


def _model(root: Path, name: str) -> Path:
    """The only folder with weights; folders of its modules are part of it."""
    found = {file.parent for file in root.rglob("*.safetensors")}
    outer = [folder for folder in found if found.isdisjoint(folder.parents)]
    if len(outer) != 1:
        raise ArchiveError(f"{name} holds {len(outer)} folders with safetensors, not one model")
    return outer[0]


def _check(file: Path, archive: Archive) -> None:
    try:
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ArchiveError(f"{archive.place}: {error.strerror}") from error
    if digest != archive.sha256:
        raise DownloadError(f"{archive.place} does not match its SHA-256")


def _download(archive: Archive, folder: Path, progress: Progress) -> Path:
    target = folder / archive.name
    try:
        with (
            urllib.request.urlopen(archive.place, timeout=TIMEOUT_SECONDS) as source,  # noqa: S310 - http or https
            target.open("wb") as out,
            progress(int(source.headers.get("Content-Length") or 0), archive.name) as advance,
        ):
            while part := source.read(1 << 20):
                out.write(part)
                advance(len(part))
    except HTTPError as error:
        raise DownloadError(f"{archive.place}: answered with HTTP status {error.code}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        raise DownloadError(f"{archive.place}: {getattr(error, 'reason', None) or error}") from error
    return target
