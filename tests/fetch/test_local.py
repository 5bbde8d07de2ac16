"""Folders of this machine, registered by name."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from encoder.folder import describe
from server.config.folders import cache_home
from server.config.schema import ModelSettings
from server.fetch.command import add
from tests.models import head_alone, sequence_model


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A real model, where this machine's models are elsewhere."""
    folder = cache_home() / "models" / "splade-tiny"
    if not (folder / "config.json").is_file():
        pytest.skip("the model splade-tiny was not fetched (make setup)")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_folder_is_checked_copied_and_served_by_name(tiny: Path, tmp_path: Path) -> None:
    source = sequence_model(tiny, tmp_path / "mine", ("good", "bad"))
    for name in ("training_args.bin", "run.py"):
        (source / name).write_bytes(b"not for us")
    result = CliRunner().invoke(add, [str(source)])
    assert result.exit_code == 0, result.output
    folder = ModelSettings(path="mine").folder
    assert result.stdout == f"{folder}\n"
    assert describe(folder).digest == describe(source).digest
    assert not {"training_args.bin", "run.py"} & {file.name for file in folder.iterdir()}
    assert CliRunner().invoke(add, [str(source)]).exit_code == 0  # again


def test_a_head_alone_is_registered(tiny: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(add, [str(head_alone(tiny, tmp_path / "head", ("a", "b")))])
    assert result.exit_code == 0, result.output
    assert {file.name for file in ModelSettings(path="head").folder.iterdir()} == {"octavo.json", "head.safetensors"}


def test_another_model_of_the_name_stays(tiny: Path, tmp_path: Path) -> None:
    first, other = (
        head_alone(tiny, tmp_path / place / "head", labels) for place, labels in (("1", "ab"), ("2", "abc"))
    )
    assert CliRunner().invoke(add, [str(first)]).exit_code == 0
    result = CliRunner().invoke(add, [str(other)])
    assert result.exit_code == 1
    assert "another model is in" in result.stderr
    assert describe(ModelSettings(path="head").folder).digest == describe(first).digest


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "does not exist"),
        ({"config.json": {"model_type": "gpt2"}, "model.safetensors": {}}, "gpt2"),
        ({"config.json": {"auto_map": {"AutoModel": "own.Model"}}}, "never run"),
        ({"octavo.json": {"trunk": {}}}, "needs a task"),
    ],
)
def test_what_cannot_be_served_is_refused(
    tiny: Path, tmp_path: Path, files: dict[str, dict[str, object]], words: str
) -> None:
    folder = tmp_path / "bad"
    if files:
        folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    result = CliRunner().invoke(add, [str(folder)])
    assert result.exit_code == 1, result.output
    assert words in result.stderr
    assert not ModelSettings(path="bad").folder.exists()


def test_a_name_that_is_nothing_is_told_what_there_is() -> None:
    result = CliRunner().invoke(add, ["unheard-of"])
    assert result.exit_code == 2
    words = " ".join(result.stderr.split())
    assert "hf:ORG/NAME@REVISION, ./FOLDER, an archive, or the name of a packaged model" in words
