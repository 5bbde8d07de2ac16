"""`outputs_damaged`: devices, FIFOs, links, modes, owners and content of what commands write to."""

import fcntl
import io
import json
import os
import stat
from collections.abc import Callable, Collection, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from pyarrow import parquet

from benchmarks.figures import Figure, Figures
from benchmarks.first_hour.bench import HUNG, Bench, bench

_FILES = ("private", "readable", "owned", "link", "hard-link")
_PIPE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Thing:
    """What is at a path, and where its links lead: kind, mode, owner, links."""

    kind: int
    mode: int
    owner: tuple[int, int]
    links: int
    target: str


@dataclass(frozen=True, slots=True)
class Output:
    """The path itself and what it leads to, and the bytes of its file or of each file in its folder."""

    things: tuple[Thing, ...]
    content: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Command:
    """A line that writes to `{out}`.

    Attributes:
        line: of bash.
        read: parses what it has written; raises, or finds nothing, if that is not valid.
        succeeds: the kinds of output that it must write to. It must refuse the others.
    """

    line: str
    read: Callable[[Mapping[str, bytes]], Sized] = dict
    succeeds: Collection[str] = ()

    def damage(self, kind: str, before: Output, after: Output, code: int) -> str:
        """What is wrong with an output of this kind afterwards, "" if nothing is."""
        if code == HUNG:
            return "it hung"
        if after.things != before.things:
            return "another kind, mode, owner or number of links"
        if (code == 0) != (kind in self.succeeds):
            return f"exit code {code}"
        if code:
            return "" if after.content == before.content else "it failed and left other content"
        return "" if kind == "device" or self._valid(before, after) else "invalid content"

    def _valid(self, before: Output, after: Output) -> bool:
        try:
            return after.content != before.content and len(self.read(after.content)) > 0
        except (ValueError, LookupError, OSError):  # an ArrowInvalid is a ValueError
            return False


def _lines(content: Mapping[str, bytes]) -> Sized:
    return [json.loads(line)["vector"] for line in content[""].splitlines()]


def _array(content: Mapping[str, bytes]) -> Sized:
    array: Sized = np.load(io.BytesIO(content[""]))
    return array


def _parts(content: Mapping[str, bytes]) -> Sized:
    return [
        row
        for name, data in content.items()
        if name.endswith(".parquet")
        for row in parquet.read_table(io.BytesIO(data)).to_pylist()
    ]


def _keys(content: Mapping[str, bytes]) -> Sized:
    keys: Sized = json.loads(content[""])["keys"]
    return keys


COMMANDS: Mapping[str, Command] = {
    "embed": Command("octavo embed -o {out} book.txt", _lines, (*_FILES, "fifo", "device")),
    "npy": Command("octavo embed --format npy -o {out} book.txt", _array, (*_FILES, "fifo", "device")),
    "failing": Command("octavo embed --format npy -o {out} book.txt empty.txt"),
    "batch": Command("octavo batch -i docs.jsonl -o {out}", _parts, ("folder", "linked-folder")),
    "keys": Command("octavo keys add --config server.toml --set server.keys_file={out} acme", _keys, _FILES),
    "quantize": Command("octavo models quantize {model} {out}"),
}


def output(path: Path) -> Output:
    """Read what is at a path."""
    things = []
    for status in (path.lstat(), path.stat()):
        kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        target = str(path.readlink()) if path.is_symlink() else ""
        things.append(Thing(kind, mode, (status.st_uid, status.st_gid), status.st_nlink, target))
    return Output(tuple(things), _content(path))


def _content(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    if path.is_fifo():
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as pipe:  # noqa: PTH123
            return {"": pipe.read(_PIPE_BYTES) or b""}
    return {"": path.read_bytes()}


def _private(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o600)


def _readable(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0o640)


def _owned(path: Path) -> None:
    path.write_text("{}")
    with suppress(PermissionError):
        os.chown(path, 1000, 1000)


def _link(path: Path) -> None:
    _private(path.with_suffix(".target"))
    path.symlink_to(path.with_suffix(".target").name)


def _hard_link(path: Path) -> None:
    _private(path.with_suffix(".other"))
    path.hardlink_to(path.with_suffix(".other"))


def _fifo(path: Path) -> None:
    """A FIFO that holds what is written until it is read: it stays open."""
    os.mkfifo(path, 0o600)
    fcntl.fcntl(os.open(path, os.O_RDWR | os.O_NONBLOCK), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _device(path: Path) -> None:
    """A null device of its own, or where none can be made a link to the machine's."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        path.symlink_to("/dev/null")


def _folder(path: Path) -> None:
    path.mkdir(mode=0o700)


def _linked_folder(path: Path) -> None:
    _folder(path.with_suffix(".target"))
    path.symlink_to(path.with_suffix(".target").name)


KINDS: Mapping[str, Callable[[Path], None]] = {
    "private": _private,
    "readable": _readable,
    "owned": _owned,
    "link": _link,
    "hard-link": _hard_link,
    "fifo": _fifo,
    "device": _device,
    "folder": _folder,
    "linked-folder": _linked_folder,
}


def measure(model: str) -> Figures:
    """Let every command write to every kind of thing; what is damaged is named on standard error."""
    with bench(model) as found:
        damaged = list(_damaged(found))
    for each in damaged:
        click.echo(f"first-hour: {each}", err=True)
    return {"outputs_damaged": Figure(len(damaged), "outputs", n=len(KINDS) * len(COMMANDS))}


def _damaged(found: Bench) -> Iterator[str]:
    keys = (found.folder / "keys.json").read_bytes()
    for name, command in COMMANDS.items():
        for kind, make in KINDS.items():
            path = found.folder / f"{name}-{kind}"
            make(path)
            if path.is_file():
                path.write_bytes(keys)
            before = output(path)
            code, said = found.shell(f"timeout 80 {command.line.replace('{out}', path.name)}")
            damage = command.damage(kind, before, output(path), code) if path.exists() else "it is gone"
            if damage:
                yield f"{name} to a {kind}: {damage}; {said.strip()[-300:]}"
