"""`octavo rank` against a real server."""

import json
import subprocess
import sys
from pathlib import Path

from tests.server.conftest import head_models as head_models  # noqa: PLC0414 - a fixture
from tests.server.conftest import models as models  # noqa: PLC0414
from tests.server.conftest import state_home as state_home  # noqa: PLC0414
from tests.server.conftest import task_server as task_server  # noqa: PLC0414
from tests.server.helpers import Server, prose

QUERY = "bread and water"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "octavo.cli", "rank", *arguments], capture_output=True, text=True, check=False
    )


def test_files_are_written_best_first_with_their_passages(task_server: Server, tmp_path: Path) -> None:
    texts = {str(tmp_path / f"{i}.txt"): f"漢字 👩‍👩‍👧 {prose(800, seed=i)}" for i in range(4)}
    for file, text in texts.items():
        Path(file).write_text(text, encoding="utf-8")
    arguments = ["--server", task_server.address, "--passages", "2", QUERY]
    done = run(*arguments, *texts)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["file"] for line in lines} == texts.keys()
    assert [line["score"] for line in lines] == sorted((line["score"] for line in lines), reverse=True)
    for line in lines:
        assert len(line["passages"]) == 2
        assert line["passages"][0]["score"] == line["score"]
        for passage in line["passages"]:
            assert texts[line["file"]][passage["char_start"] : passage["char_end"]] == passage["text"]

    (tmp_path / "empty.txt").write_text(" ")
    done = run(*arguments, "--top-k", "1", *texts, str(tmp_path / "empty.txt"))
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["file"] == lines[0]["file"]
    assert "empty.txt" in done.stderr
