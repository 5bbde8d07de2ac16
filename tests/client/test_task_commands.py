"""Commands and bulk jobs of tasks against a real server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from octavo.cli.root import octavo
from octavo.client import Client
from tests.server.conftest import head_models as head_models  # noqa: PLC0414 - a fixture
from tests.server.conftest import models as models  # noqa: PLC0414
from tests.server.conftest import state_home as state_home  # noqa: PLC0414
from tests.server.conftest import task_server as task_server  # noqa: PLC0414
from tests.server.helpers import Server, prose

TEXT = f"Größe 漢字 {prose(900)}\r\n"
Invoke = Callable[..., Result]


@pytest.fixture
def invoke(task_server: Server) -> Invoke:
    return lambda *arguments: CliRunner(env={"OCTAVO_SERVER": task_server.address}).invoke(
        octavo, list(map(str, arguments))
    )


@pytest.fixture
def book(tmp_path: Path) -> Path:
    file = tmp_path / "book.txt"
    file.write_bytes(TEXT.encode())
    return file


@pytest.fixture
def written(invoke: Invoke, tmp_path: Path) -> Callable[..., str]:
    """What a command writes; to a file, since the server of this process logs to standard output."""

    def write(*arguments: str | Path) -> str:
        done = invoke(*arguments, "--output", tmp_path / "written")
        assert done.exit_code == 0, done.output
        return (tmp_path / "written").read_bytes().decode()

    return write


def test_redact_writes_the_text_and_nothing_else(written: Callable[..., str], book: Path, task_server: Server) -> None:
    with Client(task_server.address) as client:
        assert written("redact", "--mask", "*", book) == client.redact(TEXT, mask="*").result.text
    answer = json.loads(written("redact", "--format", "json", book))
    first = answer["entities"][0]
    assert answer["text"][first["redacted_start"] : first["redacted_end"]] == f"[{first['label']}]"


def test_analyze_runs_tasks_of_several_models_in_one_call(written: Callable[..., str], book: Path) -> None:
    tasks = ("classify-tokens", "embed-sparse", "classify:sorter", "classify:tagger", "embed", "rank")
    options = [each for task in tasks for each in ("--task", task)]
    answer = json.loads(written("analyze", "--segments", "--tokens", "--query", "a good deed", *options, book))
    assert list(answer["results"]) == [task.replace("-", "_") for task in tasks]
    ranked = json.loads(written("rank", "--input-type", "query", "a good deed", book))  # analyze adds no prefix either
    assert answer["results"]["rank"]["passages"] == ranked["passages"]
    for found in answer["results"]["classify_tokens"]["entities"]:
        assert TEXT[found["char_start"] : found["char_end"]] == found["text"]
    assert all(trunk["segments"][-1]["char_end"] == len(TEXT) for trunk in answer["trunks"])
    single = json.loads(written("classify", "--model", "tagger", "--segments", book))
    assert single["model"].startswith("tagger@")
    assert single["labels"] == answer["results"]["classify:tagger"]["labels"]


def test_wrong_tasks_and_labels_are_told_in_a_line(invoke: Invoke, book: Path) -> None:
    assert invoke("analyze", "--task", "guess", book).exit_code == 2
    assert invoke("redact", "--segments", book).exit_code == 2
    unasked = invoke("analyze", "--task", "rank", book)
    assert unasked.exit_code == 2
    assert "--query" in unasked.stderr
    done = invoke("redact", "--label", "NOBODY", book)
    assert done.exit_code == 1
    assert "--label" in done.stderr


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_a_job_has_columns_for_its_tasks(invoke: Invoke, book: Path, tmp_path: Path, form: str) -> None:
    tasks = ("redact", "classify-tokens", "classify:tagger", "embed-sparse", "embed", "rank")
    options = [each for task in tasks for each in ("--task", task)]
    out = tmp_path / "out"
    own = ("--segments", "--tokens", "--query", "a good deed", "--passages", "2")
    command = ("batch", "-i", book, "-o", out, "--format", form, *own, *options)
    done = invoke(*command)
    assert done.exit_code == 0, done.output
    part = out / f"part-00000.{form}"
    rows = (
        parquet.read_table(part).to_pylist()
        if form == "parquet"
        else [json.loads(line) for line in part.read_text().splitlines()]
    )
    first, *segments = rows
    assert list(first)[4:-2] == [
        "redacted", "redacted_entities", "entities", "labels", "scores", "indices", "weights", "tokens", "vector",
        "score", "passages",
    ]  # fmt: skip
    best, second = first["passages"]
    assert first["score"] == best["score"] >= second["score"]
    assert 0 <= best["char_start"] < best["char_end"] <= len(TEXT)
    mask = first["redacted_entities"][0]
    assert first["redacted"][mask["redacted_start"] : mask["redacted_end"]] == f"[{mask['label']}]"
    assert len(first["indices"]) == len(first["weights"]) == len(first["tokens"])
    assert segments[-1]["char_end"] == len(TEXT)
    assert all(row["vector"] and row["indices"] and row["entities"] is None for row in segments)
    assert json.loads((out / "_manifest.json").read_text())["options"]["task"] == " ".join(tasks)
    assert invoke(*command).exit_code == 0
    assert invoke(*command, "--mask", "x").exit_code == 2
    assert invoke(*command, "--query", "another").exit_code == 2


def test_a_job_of_two_tasks_of_a_kind_is_refused(invoke: Invoke, book: Path, tmp_path: Path) -> None:
    done = invoke("batch", "-i", book, "-o", tmp_path / "o", "--task", "classify:sorter", "--task", "classify:tagger")
    assert done.exit_code == 2
