"""Finds a folder's files and reads them."""

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

TEXT_FILES = ("*.txt", "*.md", "*.markdown", "*.rst", "*.adoc", "*.org", "*.tex")
_SETTLED_NS = 2_000_000_000  # the coarsest clock of a file system


@dataclass(frozen=True, slots=True)
class File:
    """A file of the folder.

    Attributes:
        name: its path in the folder, with slashes.
        stamp: changes whenever the content does; empty if the file is so new that it might not.
    """

    name: str
    path: Path
    size: int
    stamp: str


@dataclass(slots=True)
class Scan:
    """A folder's files by name, and why names could not be read."""

    files: dict[str, File] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def is_settled(self) -> bool:
        """Whether an equal scan later means that nothing changed."""
        return all(file.stamp for file in self.files.values())

    def knows(self, name: str) -> bool:
        """Whether the folder was read where this file would be."""
        parents = (name, *(parent.as_posix() for parent in Path(name).parents))
        return not any(parent in self.problems for parent in parents)


def scan(folder: Path, include: Sequence[str] = TEXT_FILES, exclude: Sequence[str] = ()) -> Scan:
    """Find the files that match a pattern of `include`, but none of `exclude`. Hidden ones are skipped.

    A pattern with a slash is matched against the path in the folder, where `**` stands for any folders; one without,
    against the last name. A pattern of `exclude` that matches a folder excludes all below it.
    """
    found = Scan()

    def failed(fault: OSError) -> None:
        found.problems[_relative(Path(fault.filename), folder)] = fault.strerror or str(fault)

    for parent, folders, names in os.walk(folder, onerror=failed):
        below = Path(parent)
        folders[:] = [each for each in sorted(folders) if _is_wanted(_relative(below / each, folder), exclude)]
        for each in sorted(names):
            name = _relative(below / each, folder)
            if _is_wanted(name, exclude) and any(matches(name, pattern) for pattern in include):
                _add(found, name, below / each)
    return found


def read(file: File) -> tuple[bytes, File]:
    """The file's content, and the file as it was when this was read."""
    with file.path.open("rb") as opened:
        before = os.fstat(opened.fileno())
        data = opened.read()
        after = os.fstat(opened.fileno())
    return data, File(file.name, file.path, len(data), _stamp(before) if _stamp(before) == _stamp(after) else "")


def content_digest(data: bytes) -> str:
    """Identifies a file's content."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def matches(name: str, pattern: str) -> bool:
    """Whether a path matches a pattern, or its last name, if the pattern has no slash."""
    parts = name.split("/")
    return _match(parts, pattern.split("/")) if "/" in pattern else fnmatchcase(parts[-1], pattern)


def _match(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    if patterns[0] == "**":
        return any(_match(parts[i:], patterns[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], patterns[0]) and _match(parts[1:], patterns[1:])


def _is_wanted(name: str, exclude: Sequence[str]) -> bool:
    return not name.rpartition("/")[2].startswith(".") and not any(matches(name, pattern) for pattern in exclude)


def _add(found: Scan, name: str, path: Path) -> None:
    try:
        name.encode()
        status = path.stat()
    except UnicodeEncodeError:
        found.problems[name.encode(errors="replace").decode()] = "the name is not UTF-8"
    except FileNotFoundError:  # a broken link, or just deleted
        pass
    except OSError as fault:
        found.problems[name] = fault.strerror or str(fault)
    else:
        if stat.S_ISREG(status.st_mode):
            found.files[name] = File(name, path, status.st_size, _stamp(status))


def _stamp(status: os.stat_result) -> str:
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) < _SETTLED_NS:
        return ""
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
