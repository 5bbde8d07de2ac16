"""Files that commands write: what a name stands for is still there afterwards."""

import errno
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import CliRunner

from octavo.cli.root import octavo
from octavo.files import PRIVATE, replacing
from tests.client.double import Double, serving


def write(path: Path, content: bytes = b"new") -> None:
    with replacing(path) as file:
        file.write(content)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "plain")
        with replacing(tmp_path / "secret", new=PRIVATE):
            pass
    finally:
        os.umask(before)
    assert mode(tmp_path / "plain") == 0o640
    assert mode(tmp_path / "secret") == 0o600


def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for kept in (0o600, 0o640, 0o755, 0o666):
        path.touch()
        path.chmod(kept)
        write(path)
        assert (mode(path), path.read_bytes()) == (kept, b"new")
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_existing_file_keeps_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, 12, 34)
    write(path)
    assert (path.stat().st_uid, path.stat().st_gid, path.read_bytes()) == (12, 34, b"new")


def test_links_are_followed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "target").write_bytes(b"old")
    for name in ("target", "absent"):
        link, second = tmp_path / name, tmp_path / f"second-{name}"
        link.symlink_to(Path("folder", name))
        second.symlink_to(name)
        write(second)
        assert second.is_symlink()
        assert link.is_symlink()
        assert not (folder / name).is_symlink()
        assert (folder / name).read_bytes() == b"new"
    assert names(folder) == ["absent", "target"]


def test_hard_links_stay_links(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"something longer")
    other.hardlink_to(path)
    write(path)
    assert path.samefile(other)
    assert other.read_bytes() == b"new"
    assert names(tmp_path) == ["file", "other"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of three megabytes; without the right to mount it, there is nothing to test with."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True, check=False
    ).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_file_with_hard_links_stays_as_it_was_when_the_disk_is_full(small_disk: Path) -> None:
    path, other = small_disk / "file", small_disk / "other"
    path.write_bytes(b"old")
    other.hardlink_to(path)
    with pytest.raises(OSError, match="No space left"):
        write(path, bytes(2 << 20))  # fits once
    assert path.read_bytes() == b"old"
    assert names(small_disk) == ["file", "other"]
    write(path, bytes(1 << 20))
    assert other.read_bytes() == bytes(1 << 20)
    assert names(small_disk) == ["file", "other"]


def test_a_copy_that_fails_leaves_the_draft_and_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(b"old")
    other.hardlink_to(path)

    def fail(source: BinaryIO, file: BinaryIO) -> None:
        file.write(source.read(1))
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("shutil.copyfileobj", fail)
    with pytest.raises(OSError, match="Input/output error; the new content is in ") as caught:
        write(path)
    draft = Path(str(caught.value.strerror).rpartition(" ")[2])
    assert caught.value.filename == str(path)
    assert draft.read_bytes() == b"new"
    assert names(tmp_path) == sorted([draft.name, "file", "other"])


def test_a_file_stays_as_it_was_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def break_off() -> None:
        with replacing(path) as file:
            file.write(b"half")
            file.flush()
            raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        break_off()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def received(fifo: Path) -> tuple[threading.Thread, list[bytes]]:
    """What comes out of a FIFO, read by a thread."""
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(fifo.read_bytes()), daemon=True)
    thread.start()
    return thread, got


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    thread, got = received(fifo)
    write(fifo)
    thread.join(30)
    assert got == [b"new"]
    assert fifo.is_fifo()
    assert names(tmp_path) == ["fifo"]


def device(path: Path) -> Path:
    """A null device of our own."""
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.write_bytes(b"")
    except PermissionError:
        pytest.skip("devices cannot be made here")
    return path


def test_a_device_is_written_to(tmp_path: Path) -> None:
    null = device(tmp_path / "null")
    (tmp_path / "link").symlink_to("null")
    write(tmp_path / "link")
    write(null)
    assert null.is_char_device()
    assert names(tmp_path) == ["link", "null"]


# Commands


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as served:
        yield served


def run(double: Double, *arguments: str | Path) -> None:
    done = CliRunner(env={"OCTAVO_SERVER": double.address}).invoke(octavo, list(map(str, arguments)))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("options", [[], ["--format", "npy"]])
def test_embed_damages_nothing_that_its_output_names(double: Double, tmp_path: Path, options: list[str]) -> None:
    book, plain, fifo, link = (tmp_path / name for name in ("book", "plain", "fifo", "link"))
    book.write_text("a text")
    run(double, "embed", *options, "-o", plain, book)
    expected = plain.read_bytes() if options else None  # JSON has timings
    plain.chmod(0o600)
    link.symlink_to(plain)
    run(double, "embed", *options, "-o", link, book)
    assert link.is_symlink()
    assert mode(plain) == 0o600
    os.mkfifo(fifo)
    thread, got = received(fifo)
    run(double, "embed", *options, "-o", fifo, book)
    thread.join(30)
    assert fifo.is_fifo()
    assert got[0]
    assert expected in {None, plain.read_bytes()}
    assert expected in {None, got[0]}


def test_embed_leaves_a_device(double: Double, tmp_path: Path) -> None:
    null, book = device(tmp_path / "null"), tmp_path / "book"
    book.write_text("a text")
    run(double, "embed", "-o", null, book)
    assert null.is_char_device()


def test_batch_keeps_the_modes_of_what_it_replaces(double: Double, tmp_path: Path) -> None:
    docs, out = tmp_path / "docs.jsonl", tmp_path / "out"
    docs.write_text('{"text": "one"}\n')
    (tmp_path / "real").mkdir(mode=0o700)
    out.symlink_to("real")
    job = ("batch", "--server", double.address, "--input", docs, "--output", out)
    run(double, *job)
    (out / "_SUCCESS").chmod(0o600)
    run(double, *job)
    assert mode(out / "_SUCCESS") == 0o600
    assert out.is_symlink()
    assert mode(tmp_path / "real") == 0o700
    assert names(out) == ["_SUCCESS", "_manifest.json", "part-00000.parquet"]


def test_batch_refuses_an_output_that_is_no_folder(double: Double, tmp_path: Path) -> None:
    docs, fifo = tmp_path / "docs.jsonl", tmp_path / "fifo"
    docs.write_text('{"text": "one"}\n')
    os.mkfifo(fifo)
    arguments = ["batch", "--server", double.address, "--input", str(docs), "--output", str(fifo)]
    done = CliRunner().invoke(octavo, arguments)
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert fifo.is_fifo()


# Standard output that takes nothing


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is always full")
@pytest.mark.parametrize("command", [["embed"], ["embed", "--format", "npy"], ["segment"], ["models"], ["--help"]])
def test_a_full_disk_is_one_line_and_1(double: Double, tmp_path: Path, command: list[str]) -> None:
    book = tmp_path / "book"
    book.write_text("a text")
    files = [str(book)] if command[0] in {"embed", "segment"} else []
    server = ["--server", double.address] if command[0] != "--help" else []
    arguments = [sys.executable, "-m", "octavo.cli", *command, *server, *files]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "octavo: standard output: No space left on device\n")
