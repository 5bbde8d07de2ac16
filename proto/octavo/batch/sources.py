"""Finds the files of the inputs and their formats."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from octavo.batch.errors import InputError

TEXT = "text"
FORMATS = (TEXT, "jsonl", "csv", "tsv", "parquet")
_BY_SUFFIX = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_HIDDEN = (".", "_")  # as in Hadoop
# Everything between :// and @. The second form is a secret with an unescaped slash: a colon not followed by a port.
_USER = re.compile(r"(?<=://)(?:[^/?#]*@|[^/?#:]*:(?!\d*(?:[/?#]|$))[^?#]*@)")
_SECRET_QUERY = re.compile(r"([?&][^=&#]*(?:key|secret|token|password|sig|credential)[^=&#]*=)[^&#]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the input.

    Attributes:
        name: prefix of its rows' generated ids, unique among the input's files.
        path: path in its file system.
        files: a pyarrow.fs.FileSystem.
        format: one of FORMATS.
        compression: pyarrow's name for it, or None.
        size: stored size in bytes.
    """

    name: str
    path: str
    files: Any
    format: str
    compression: str | None
    size: int


def file_system(uri: str) -> tuple[Any, str]:
    """Resolve a local path, or a URI that pyarrow.fs supports, to a file system and the path in it.

    Raises:
        ValueError: the URI is not supported.
    """
    from pyarrow import ArrowException  # noqa: PLC0415 - only jobs need pyarrow
    from pyarrow.fs import FileSystem, LocalFileSystem  # noqa: PLC0415

    if "://" not in uri:
        return LocalFileSystem(), str(Path(uri).resolve())
    try:
        files, path = FileSystem.from_uri(uri)
    except (ArrowException, OSError, ValueError) as fault:
        raise ValueError(f"{shown(uri)}: {first_line(fault).replace(uri, shown(uri))}") from None
    return files, path


def shown(uri: str) -> str:
    """A path or URI without credentials, for messages, the manifest and the summary."""
    if "://" not in uri:
        return uri
    return _SECRET_QUERY.sub(r"\1***", _USER.sub("***@", uri))


def first_line(fault: BaseException) -> str:
    """The first line of an error's message."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0].partition(" Detail: ")[0]


def find(inputs: Sequence[str], form: str | None) -> list[list[Source]]:
    """Find the files of each input, ordered by path; a folder stands for all files below it.

    Args:
        inputs: paths and URIs.
        form: format of all files; None: by file name, with text as the default.

    Raises:
        InputError: an input does not exist or has no files.
    """
    found = [list(_files(each, form)) for each in inputs]
    for given, files in zip(inputs, found, strict=True):
        if not files:
            raise InputError(f"{shown(given)}: the folder has no files")
    names = Counter(source.name for files in found for source in files)
    if max(names.values(), default=0) > 1:  # inputs have files of the same name: prefix these with their input
        found = [
            [replace(s, name=f"{shown(given)}:{s.name}") for s in f] for given, f in zip(inputs, found, strict=True)
        ]
    return found


def _files(given: str, form: str | None) -> Iterator[Source]:
    from pyarrow.fs import FileSelector, FileType  # noqa: PLC0415

    try:
        files, path = file_system(given)
        info = files.get_file_info(path)
        if info.type is FileType.Directory:
            below = [each for each in files.get_file_info(FileSelector(path, recursive=True)) if each.is_file]
        else:
            below = [info]
    except ValueError as fault:
        raise InputError(str(fault)) from None
    except OSError as fault:
        raise InputError(f"{shown(given)}: {first_line(fault)}") from None
    if info.type is FileType.NotFound:
        raise InputError(f"{shown(given)}: no such file or folder")
    root = path.rstrip("/") + "/"
    for each in sorted(below, key=lambda each: str(each.path)):
        name = each.path.removeprefix(root) if each is not info else each.base_name
        if each is info or not any(part.startswith(_HIDDEN) for part in name.split("/")):
            yield _source(name, each, files, form)


def _source(name: str, info: Any, files: Any, form: str | None) -> Source:
    plain = PurePosixPath(name.lower())
    compression = _COMPRESSED.get(plain.suffix)
    if compression:
        plain = plain.with_suffix("")
    return Source(name, info.path, files, form or _BY_SUFFIX.get(plain.suffix, TEXT), compression, info.size)
