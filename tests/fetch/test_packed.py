"""Models in archives: of this machine, and from a web server on loopback."""

import functools
import hashlib
import http.server
import io
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from encoder.folder import describe
from server.config.folders import cache_home
from server.config.schema import ModelSettings
from server.fetch import archives
from server.fetch.command import add
from tests.models import head_alone, sequence_model

Pack = Callable[[Path, Mapping[str, bytes]], Path]


def zipped(archive: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(archive, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
    return archive


def tarred(archive: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(archive, "w:gz") as out:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))
    return archive


def files_of(folder: Path, place: str) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{place}{path.relative_to(folder)}": path.read_bytes() for path in files}


def digest(archive: Path) -> str:
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def added(source: object) -> Result:
    return CliRunner().invoke(add, [str(source)])


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A real model, where this machine's models are elsewhere."""
    folder = cache_home() / "models" / "splade-tiny"
    if not (folder / "config.json").is_file():
        pytest.skip("the model splade-tiny was not fetched (make setup)")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


@pytest.fixture
def head(tiny: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of a head, in a folder of its name."""
    return files_of(head_alone(tiny, tmp_path / "head", ("a", "b")), "head/")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server's address, and the folder that it serves."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()


@pytest.mark.parametrize(
    ("pack", "suffix", "place"),
    [(tarred, "tar.gz", "package-1.0/lib/mine/"), (zipped, "zip", "mine/"), (zipped, "whl", "package/models/mine/")],
)
def test_a_model_of_a_local_archive_is_served_by_its_folders_name(
    tiny: Path, tmp_path: Path, pack: Pack, suffix: str, place: str
) -> None:
    source = sequence_model(tiny, tmp_path / "mine", ("good", "bad"))
    code = {"package/__init__.py": b"raise SystemExit('run')", f"{place}pickled.bin": b"not for us"}
    result = added(pack(tmp_path / f"package.{suffix}", {**code, **files_of(source, place)}))
    assert result.exit_code == 0, result.output
    folder = ModelSettings(path="mine").folder
    assert result.stdout == f"{folder}\n"
    assert describe(folder).digest == describe(source).digest
    assert not {"__init__.py", "pickled.bin"} & {file.name for file in folder.rglob("*")}
    assert [path.name for path in folder.parent.iterdir()] == ["mine"], "no scratch is left"


@pytest.mark.usefixtures("tiny")
def test_a_model_that_is_in_no_folder_has_the_archives_name(tmp_path: Path, head: dict[str, bytes]) -> None:
    files = {name.removeprefix("head/"): content for name, content in head.items()}
    result = added(tarred(tmp_path / "topics.tar.gz", files))
    assert result.exit_code == 0, result.output
    assert describe(ModelSettings(path="topics").folder).head


def test_an_archive_at_a_url_is_pinned(head: dict[str, bytes], site: tuple[str, Path]) -> None:
    address, folder = site
    archive = tarred(folder / "head.tgz", head)
    other = hashlib.sha256(b"other").hexdigest()
    result = added(f"{address}/head.tgz#sha256={other}")
    assert result.exit_code == 1, result.output
    assert "does not match its SHA-256" in result.stderr
    assert not ModelSettings(path="head").folder.exists()
    result = added(f"{address}/head.tgz#sha256={digest(archive).upper()}")
    assert result.exit_code == 0, result.output
    assert describe(ModelSettings(path="head").folder).head


def test_a_local_archive_may_be_pinned(tmp_path: Path, head: dict[str, bytes]) -> None:
    archive = zipped(tmp_path / "head.zip", head)
    assert added(f"{archive}#sha256={'0' * 64}").exit_code == 1
    assert added(f"{archive}#sha256={digest(archive)}").exit_code == 0


@pytest.mark.parametrize(
    "source",
    ["https://example.org/m.zip", "https://example.org/m.zip#sha256=12", "./m.zip#md5=12", "http://example.org/m#"],
)
def test_a_source_without_a_valid_pin_is_a_usage_error(source: str) -> None:
    result = added(source)
    assert result.exit_code == 2, result.output
    assert "needs its digest" in result.stderr


@pytest.mark.usefixtures("tiny")
def test_what_a_site_does_not_have_is_told(site: tuple[str, Path]) -> None:
    result = added(f"{site[0]}/none.zip#sha256={'0' * 64}")
    assert result.exit_code == 1, result.output
    assert "/none.zip: answered with HTTP status 404" in result.stderr


@pytest.mark.parametrize("pack", [tarred, zipped])
@pytest.mark.parametrize("name", ["../config.json", "/config.json", "a/../../config.json"])
def test_no_file_leaves_the_scratch_folder(tiny: Path, tmp_path: Path, pack: Pack, name: str) -> None:
    suffix = "zip" if pack is zipped else "tgz"
    result = added(pack(tmp_path / f"bad.{suffix}", {name: b"{}"}))
    assert result.exit_code == 1, result.output
    assert "outside its folder" in result.stderr
    assert not list((tmp_path / "cache").rglob("config.json"))
    assert tiny.is_dir()


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_what_an_archive_unpacks_to_is_bounded(
    head: dict[str, bytes], tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / f"head.{'zip' if pack is zipped else 'tgz'}", head)
    monkeypatch.setattr(archives, "MOST_BYTES", sum(map(len, head.values())) - 1)
    result = added(archive)
    assert result.exit_code == 1, result.output
    assert "bytes of models" in result.stderr
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme.txt": b""}, "0 folders with safetensors"),
        ({"a/model.safetensors": b"", "b/model.safetensors": b""}, "2 folders with safetensors"),
        ({"a/model.safetensors": b"", "a/2_Dense/model.safetensors": b""}, "no config.json"),
        ({"a/model.safetensors": b"", "a/config.json": b'{"model_type": "gpt2"}'}, "gpt2"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_what_holds_no_model_that_can_be_served_is_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    result = added(zipped(tmp_path / "m.zip", files))
    assert result.exit_code == 1, result.output
    assert words in result.stderr


@pytest.mark.parametrize("name", ["m.zip", "m.tar.gz"])
@pytest.mark.usefixtures("tiny")
def test_a_damaged_archive_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no archive")
    result = added(tmp_path / name)
    assert result.exit_code == 1, result.output
    assert f"{name} cannot be unpacked" in result.stderr
