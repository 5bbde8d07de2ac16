"""Fetching: pinned, complete or absent, and nothing of a package leaves its folder or runs."""

import dataclasses
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import server.fetch
from server.fetch import archives, fetch, is_fetched, items, packages, place
from server.fetch.command import fetch as command
from server.fetch.errors import ArchiveError, DownloadError, FetchError, UnknownItem
from server.fetch.manifest import SHIPPED, Item, Package, Take

ITEM = Item(
    kind="models",
    name="tiny",
    package=Package("tiny-package", "pypi", "1.0", "00"),
    about="a small thing",
    notice="Somebody's work.",
    take=(Take("package/data", ("*.json", "deep/*")),),
    recipe=None,
    digest="first",
)


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarball(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content.encode()))
    return path


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A registry that has one package; the list tells what was downloaded."""
    downloaded: list[str] = []

    def download(package: Package, folder: Path) -> Path:
        downloaded.append(package.name)
        files = {"package/data/a.json": "{}", "package/data/deep/b": "b", "package/setup.py": "raise SystemExit"}
        return wheel(folder / "tiny.whl", files)

    monkeypatch.setattr(server.fetch, "items", lambda: {"tiny": ITEM})
    monkeypatch.setattr(server.fetch, "download", download)
    return downloaded


@pytest.mark.usefixtures("registry")
def test_a_folder_has_what_was_taken_its_notice_and_a_receipt(tmp_path: Path) -> None:
    folder = fetch("tiny", tmp_path)
    assert folder == tmp_path / "models" / "tiny"
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {"a.json", "deep/b", "NOTICE", "fetched.json"}
    assert (folder / "NOTICE").read_text() == "Somebody's work.\n"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]  # no scratch is left


def test_what_is_there_is_not_fetched_again(registry: list[str], tmp_path: Path) -> None:
    assert not is_fetched(ITEM, tmp_path)
    assert fetch("tiny", tmp_path) == fetch("tiny", tmp_path)
    assert registry == ["tiny-package"]
    assert is_fetched(ITEM, tmp_path)


def test_what_was_damaged_or_is_of_another_manifest_is_made_anew(
    registry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fetch("tiny", tmp_path)
    (folder / "a.json").write_text("")
    assert (fetch("tiny", tmp_path) / "a.json").read_text() == "{}"
    changed = dataclasses.replace(ITEM, digest="second")
    monkeypatch.setattr(server.fetch, "items", lambda: {"tiny": changed})
    fetch("tiny", tmp_path)
    assert len(registry) == 3
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_head_that_ships_is_copied(tmp_path: Path) -> None:
    folder = fetch("reuters-r8", tmp_path)
    assert folder == tmp_path / "models" / "reuters-r8"
    for file in (SHIPPED / "reuters-r8").iterdir():
        assert (folder / file.name).read_bytes() == file.read_bytes()
    item = items()["reuters-r8"]
    assert is_fetched(item, tmp_path)
    assert not is_fetched(dataclasses.replace(item, digest="another version's"), tmp_path)


@pytest.mark.usefixtures("registry")
def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fetch("tiny", tmp_path)

    def fail(package: Package, folder: Path) -> Path:
        raise DownloadError(f"{package.name}: no route to {folder.name}")

    monkeypatch.setattr(server.fetch, "download", fail)
    monkeypatch.setattr(server.fetch, "items", lambda: {"tiny": dataclasses.replace(ITEM, digest="second")})
    with pytest.raises(DownloadError):
        fetch("tiny", tmp_path)
    assert (folder / "a.json").read_text() == "{}"
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_an_unknown_name_is_told_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(UnknownItem, match="all-MiniLM-L6-v2"):
        fetch("GPT-9", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [wheel, tarball])
@pytest.mark.parametrize("name", ["../outside.json", "/outside.json", "a/../../outside.json", "C:outside.json"])
def test_no_file_leaves_its_folder(tmp_path: Path, make: object, name: str) -> None:
    suffix = "whl" if make is wheel else "tgz"
    archive = make(tmp_path / f"bad.{suffix}", {f"package/{name}": "x"})  # type: ignore[operator]
    target = tmp_path / "target"
    target.mkdir()
    with pytest.raises(ArchiveError, match="outside its folder"):
        archives.extract(archive, [Take("package", ("*",))], target)
    assert not list(tmp_path.rglob("outside.json"))


def test_links_are_not_files(tmp_path: Path) -> None:
    tar, zipped = tmp_path / "link.tgz", tmp_path / "link.whl"
    with tarfile.open(tar, "w:gz") as package:
        link = tarfile.TarInfo("package/secret.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        package.addfile(link)
    with zipfile.ZipFile(zipped, "w") as archive:
        entry = zipfile.ZipInfo("package/secret.json")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    for path in (tar, zipped):
        with pytest.raises(ArchiveError, match=r"has no package/\*\.json"):
            archives.extract(path, [Take("package", ("*.json",))], tmp_path)


def fake_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_an_archive_that_is_not_the_pinned_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, "echo other > package.tgz", monkeypatch)
    folder = tmp_path / "downloads"
    folder.mkdir()
    with pytest.raises(DownloadError, match="does not match the pinned SHA-256"):
        packages.download(Package("thing", "npm", "1.0", "00"), folder)


def test_a_client_that_fails_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_npm(tmp_path, "echo much talk >&2; echo no such version >&2; exit 1", monkeypatch)
    with pytest.raises(DownloadError, match=r"thing 1\.0 could not be downloaded: no such version"):
        packages.download(Package("thing", "npm", "1.0", "00"), tmp_path)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DownloadError, match="npm is not installed"):
        packages.download(Package("thing", "npm", "1.0", "00"), tmp_path)


def test_pip_is_held_to_the_digest(tmp_path: Path) -> None:
    command_line = packages._pip(Package("thing", "pypi", "1.0", "ab", platform="any-any"), tmp_path)
    assert {"--require-hashes", "--no-deps", "--only-binary=:all:", "any-any"} <= set(command_line)
    assert (tmp_path / "requirements.txt").read_text() == "thing==1.0 --hash=sha256:ab\n"


def test_every_item_is_pinned_and_says_whose_it_is() -> None:
    for item in items().values():
        assert item.package is None or len(item.package.sha256) == 64
        assert item.about
        assert item.notice.endswith(".")
        assert item.recipe in {None, *server.fetch._RECIPES}
    assert len({item.digest for item in items().values()}) == len(items())


def test_the_command_lists_what_can_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(command, ["--list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in items())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("registry")
def test_the_command_prints_the_folder_and_tells_failures_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    good = CliRunner().invoke(command, ["tiny"])
    assert good.stdout == f"{place(ITEM, tmp_path / 'octavo')}\n"
    bad = CliRunner().invoke(command, ["huge"])
    assert bad.exit_code == 1
    assert bad.stderr.splitlines()[-1].startswith("Error: unknown name huge")
    assert issubclass(UnknownItem, FetchError)
