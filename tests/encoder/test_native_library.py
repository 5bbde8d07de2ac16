"""Building the native core, finding it, and choosing its form."""

from pathlib import Path

import pytest

from encoder.native import build, library
from encoder.ops.native import best, outlook


def test_forms_are_tried_from_the_fastest_down(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        library.find()
    except library.NativeUnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(library, "forms", lambda: ("withheld", "generic"))
    assert best().form == "generic"
    monkeypatch.setattr(library, "forms", lambda: ("withheld",))
    with pytest.raises(library.NativeUnavailableError, match="withheld"):
        best()


def test_the_key_follows_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copies = []
    for path in library.sources():
        copies.append(tmp_path / path.relative_to(library.FOLDER))
        copies[-1].parent.mkdir(exist_ok=True)
        copies[-1].write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "sources", lambda: tuple(copies))
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    keys = {library.key.__wrapped__()}
    for path in copies:
        path.write_bytes(path.read_bytes() + b"\n")
        keys.add(library.key.__wrapped__())
    assert len(keys) == len(copies) + 1


def test_without_a_compiler_pytorch_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler; PyTorch serves" in build.ensure()
    with pytest.raises(library.NativeUnavailableError, match=r"encoder\.native\.build"):
        library.find()


def test_a_compiler_that_refuses_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "c++"
    refusing.write_text('#!/bin/sh\n[ "$1" = --version ] && echo refusing 1.0 && exit\necho no such flag >&2; exit 1\n')
    refusing.chmod(0o755)
    folder = tmp_path / "builds"
    monkeypatch.setattr(library, "folders", lambda: (folder,))
    monkeypatch.setenv("CXX", str(refusing))
    with pytest.raises(build.BuildError, match="no such flag"):
        build.ensure()
    assert list(folder.iterdir()) == []


def test_a_build_is_made_once_for_each_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def pretend(compiler: str, folder: Path) -> Path:
        target = library.build_of(folder)
        target.mkdir(mode=0o755, exist_ok=True)
        library.library_of(target).touch(mode=0o644)
        (target / "compiler.txt").write_text(build.describe(compiler))
        made.append(compiler)
        return target

    tmp_path.chmod(0o755)
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.setattr(build, "build", pretend)
    for version in ("one", "one", "two"):
        compiler = tmp_path / f"c++-{version}"
        compiler.write_text(f"#!/bin/sh\necho {version}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        build.ensure()
    assert [Path(compiler).name for compiler in made] == ["c++-one", "c++-two"]


def a_build(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """A build in a folder, none of which others can write."""
    folder.chmod(0o755)
    monkeypatch.setattr(library, "folders", lambda: (folder,))
    target = library.build_of(folder)
    target.mkdir()
    target.chmod(0o755)
    library.library_of(target).touch()
    library.library_of(target).chmod(0o644)
    return target


def sources(monkeypatch: pytest.MonkeyPatch, folder: Path, mode: int) -> None:
    """Pretend that the sources are in a new folder."""
    library.key()
    folder.mkdir()
    folder.chmod(mode)
    monkeypatch.setattr(library, "FOLDER", folder)


def test_a_library_that_others_can_write_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = a_build(monkeypatch, tmp_path)
    sources(monkeypatch, tmp_path / "sources", 0o755)
    assert library.find() == target
    for path in (library.library_of(target), target, tmp_path):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        with pytest.raises(library.NativeUnavailableError, match="replaced"):
            library.find()
        path.chmod(mode)


def test_who_can_write_the_sources_may_write_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = a_build(monkeypatch, tmp_path)
    sources(monkeypatch, tmp_path / "sources", 0o775)  # as pip installs them, if the umask is 002
    for path in (library.library_of(target), target, tmp_path):
        path.chmod(path.stat().st_mode | 0o020)
    assert library.find() == target
    target.chmod(0o777)
    with pytest.raises(library.NativeUnavailableError, match="replaced"):
        library.find()


def test_a_folder_that_cannot_be_written_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(library, "folders", lambda: (blocked / "builds", tmp_path / "cache"))
    assert build.writable_folder() == tmp_path / "cache"
    monkeypatch.setattr(library, "folders", lambda: (blocked / "builds",))
    with pytest.raises(build.BuildError):
        build.writable_folder()


def test_slower_forms_say_which_faster_ones_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "architecture", lambda: "x86_64")
    assert outlook("amx") == outlook("avx512") == ""
    assert outlook("avx2") == "this machine has none of amx, avx512, avx_vnni, which would be faster"
    assert "avx2" in outlook("generic")
    monkeypatch.setattr(library, "architecture", lambda: "aarch64")
    assert outlook("neon") == ""
    assert outlook("generic") == "this machine has none of neon, which would be faster"
