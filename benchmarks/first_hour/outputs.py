"""`outputs_damaged`: devices, FIFOs, links, modes and owners of what commands write to."""

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import click

from benchmarks.figures import Figure, Figures
from benchmarks.first_hour.bench import Bench, bench

_COMMANDS: Mapping[str, str] = {
    "embed": "octavo embed -o {out} book.txt",
    "npy": "octavo embed --format npy -o {out} book.txt",
    "failing": "octavo embed --format npy -o {out} book.txt empty.txt",
    "batch": "octavo batch -i docs.jsonl -o {out}",
    "keys": "octavo keys add --config server.toml --set server.keys_file={out} acme",
    "quantize": "octavo models quantize {model} {out}",
}


@dataclass(frozen=True, slots=True)
class Thing:
    """What is at a path, and where its links lead: kind, mode, owner, links."""

    kind: int
    mode: int
    owner: tuple[int, int]
    links: int
    target: str


def things(path: Path) -> list[Thing]:
    """The path itself, and what it leads to."""
    found = []
    for status in (path.lstat(), path.stat()):
        kind, mode = stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode)
        target = str(path.readlink()) if path.is_symlink() else ""
        found.append(Thing(kind, mode, (status.st_uid, status.st_gid), status.st_nlink, target))
    return found


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
    os.mkfifo(path, 0o600)
    Thread(target=path.read_bytes, daemon=True).start()


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
    return {"outputs_damaged": Figure(len(damaged), "outputs", n=len(KINDS) * len(_COMMANDS))}


def _damaged(found: Bench) -> Iterator[str]:
    for command, line in _COMMANDS.items():
        for kind, make in KINDS.items():
            path = found.folder / f"{command}-{kind}"
            make(path)
            before = things(path)
            code, said = found.shell(f"timeout 30 {line.replace('{out}', path.name)}")
            if not os.path.lexists(path) or things(path) != before:
                yield f"{command} to a {kind}: exit code {code}; {said.strip()[-300:]}"
