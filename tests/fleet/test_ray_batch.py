"""Bulk jobs on Ray, with real clusters, servers and processes: `octavo batch --engine ray` and `octavo.ray.embed`.

`make test-fleet` runs them; elsewhere they are skipped, for want of Ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from pyarrow import parquet

from octavo.batch.errors import BatchError
from octavo.client import Classify, Embed, Segmentation

ray = pytest.importorskip("ray", reason="needs Ray: make test-fleet")

ROOT = Path(__file__).parents[2]
MODEL = "splade-tiny"
PROGRAM = "from octavo.cli import main; main()"
WORDS = ("keeper", "light", "wrote", "log", "sea", "and", "weather", "night", "of", "a", "ship", "lamp", "oil")
ENVIRONMENT = {
    **os.environ,
    "RAY_ADDRESS": "local",
    "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "proto"))),
}
ON_RAY = ("--engine", "ray", "--replicas", "2", "--replica-cpus", "1")
BAD = ('{"id": "d0", "text": "again"}', "no JSON", '{"id": "empty", "text": " "}')


def rows_of(count: int, words: int = 40) -> list[dict[str, Any]]:
    texts = [" ".join(WORDS[(i * j) % len(WORDS)] for j in range(1, words + i % 7)) for i in range(count)]
    return [{"id": f"d{i}", "text": f"Night {i}. {text}", "year": 1790 + i} for i, text in enumerate(texts)]


def written(path: Path, rows: list[dict[str, Any]], *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in (*map(json.dumps, rows), *lines)))
    return path


def command(docs: Path, output: Path, *flags: str) -> list[str]:
    shared = ("--model", MODEL, "--cache-mode", "bypass", "--part-rows", "10", "--keep", "year")
    where = ("--input", str(docs), "--output", str(output))
    return [sys.executable, "-c", PROGRAM, "batch", *where, *shared, *flags]


def batch(docs: Path, output: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(docs, output, *flags), env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=200
    )


def parts(output: Path) -> list[pa.Table]:
    return [parquet.read_table(each) for each in sorted(output.glob("part-*.parquet"))]


def ids(output: Path) -> list[str]:
    return [str(name) for part in parts(output) for name in part["id"].to_pylist()]


def waited(condition: Callable[[], object], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, "the job has ended"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def servers(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    below = psutil.Process(process.pid).children(recursive=True)
    return [each for each in below if "octavo.cli.tied" in each.cmdline()]


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=30)[1]


def test_a_job_on_ray_writes_what_a_local_one_does_and_says_the_same(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs.jsonl", rows_of(45), *BAD)
    local = batch(docs, tmp_path / "local", "--local", "--segments")
    on_ray = batch(docs, tmp_path / "ray", *ON_RAY, "--segments")
    assert (local.returncode, on_ray.returncode) == (1, 1), on_ray.stderr
    assert parts(tmp_path / "ray") == parts(tmp_path / "local")
    assert len(parts(tmp_path / "ray")) == 5
    first, second = (json.loads(each.stdout) for each in (local, on_ray))
    assert second["errors"] == {"DUPLICATE_ID": 1, "EMPTY_DOCUMENT": 1, "MALFORMED_ROW": 1}
    for name in first.keys() - {"output", "run"}:
        assert second[name] == first[name]
    assert (tmp_path / "ray" / "_SUCCESS").exists()
    again = json.loads(batch(docs, tmp_path / "ray", *ON_RAY, "--segments").stdout)
    assert (again["documents"], again["run"]["documents"]) == (48, 0)
    refused = batch(docs, tmp_path / "ray", *ON_RAY)
    assert (refused.returncode, "--segments" in refused.stderr) == (2, True)


def test_a_killed_job_is_resumed_by_either_engine(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs.jsonl", rows_of(200, 400))
    process = subprocess.Popen(command(docs, tmp_path / "out", *ON_RAY), env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    waited(lambda: len(list((tmp_path / "out").glob("part-*"))) >= 2, process)
    theirs = servers(process)
    process.kill()
    process.wait()
    assert theirs
    assert gone(theirs)
    kept = {each.name: each.stat().st_mtime_ns for each in (tmp_path / "out").glob("part-*")}
    assert 0 < len(kept) < 20
    done = batch(docs, tmp_path / "out", *ON_RAY)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["documents"] == 200
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    assert ids(tmp_path / "out") == [f"d{i}" for i in range(200)]
    assert batch(docs, tmp_path / "local", "--local").returncode == 0
    assert parts(tmp_path / "out") == parts(tmp_path / "local")


def test_an_actor_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs.jsonl", rows_of(200, 400))
    process = subprocess.Popen(command(docs, tmp_path / "out", *ON_RAY), env=ENVIRONMENT, stdout=subprocess.PIPE)
    waited(lambda: len(list((tmp_path / "out").glob("part-*"))) >= 2, process)
    server = servers(process)[0]
    actor = server.parent()
    assert actor is not None
    actor.kill()
    assert gone([server])
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0
    assert json.loads(said)["documents"] == 200
    assert ids(tmp_path / "out") == [f"d{i}" for i in range(200)]


def test_sigterm_stops_a_job_and_its_servers(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs.jsonl", rows_of(200, 400))
    process = subprocess.Popen(command(docs, tmp_path / "out", *ON_RAY), env=ENVIRONMENT, stderr=subprocess.PIPE)
    waited(lambda: len(list((tmp_path / "out").glob("part-*"))) >= 1, process)
    theirs = servers(process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 143
    assert b"run the same command to resume" in told
    assert gone(theirs)


def test_what_cannot_run_says_so_and_why(tmp_path: Path) -> None:
    docs = written(tmp_path / "docs.jsonl", rows_of(3))
    unknown = batch(docs, tmp_path / "a", *ON_RAY, "--model", "no-such-model")
    assert (unknown.returncode, unknown.stdout) == (3, "")
    assert "no-such-model" in unknown.stderr
    large = batch(docs, tmp_path / "b", "--engine", "ray", "--replicas", "1000", "--replica-cpus", "64")
    assert (large.returncode, large.stdout) == (1, "")
    assert "1000 replicas of 64 CPUs do not fit" in large.stderr
    wrong = batch(docs, tmp_path / "c", *ON_RAY, "--task", "classify")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "classify" in wrong.stderr
    none = subprocess.run(
        command(docs, tmp_path / "e", *ON_RAY),
        env={**ENVIRONMENT, "RAY_ADDRESS": "nowhere"},
        capture_output=True,
        check=False,
    )
    assert (none.returncode, none.stdout) == (3, b"")
    assert b"no Ray cluster can be reached or started" in none.stderr
    errors = batch(written(tmp_path / "bad.jsonl", [], *BAD), tmp_path / "d", *ON_RAY, "--max-errors", "1")
    assert (errors.returncode, errors.stdout) == (1, "")
    assert "more than --max-errors 1" in errors.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def embed(dataset: Any, **arguments: Any) -> Any:
    from octavo.ray import embed

    return embed(dataset, model=MODEL, cache_mode="bypass", **arguments)


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["id"], -1 if row.get("segment") is None else row["segment"]))


@pytest.mark.usefixtures("cluster")
def test_a_dataset_gets_the_rows_of_a_job(tmp_path: Path) -> None:
    rows = [*rows_of(30), {"id": "empty", "text": " ", "year": None}]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "docs.parquet")
    assert (
        batch(tmp_path / "docs.parquet", tmp_path / "out", "--local", "--segments", "--max-tokens", "32").returncode
        == 1
    )
    truth = by_id([row for part in parts(tmp_path / "out") for row in part.to_pylist()])
    asked: dict[str, Any] = {"keep": ["year"], "segments": True, "replicas": (1, 2), "batch_size": 8}
    asked["segmentation"] = Segmentation(max_tokens=32)
    source = ray.data.read_parquet(str(tmp_path / "docs.parquet"))
    found = embed(source.repartition(3), **asked)
    assert by_id(found.take_all()) == truth
    items = embed(ray.data.from_items(rows), **asked)
    assert by_id(items.take_all()) == truth
    found.write_parquet(str(tmp_path / "written"))
    kinds = parquet.read_table(tmp_path / "written").schema
    assert kinds.equals(parts(tmp_path / "out")[0].schema)


@pytest.mark.usefixtures("cluster")
def test_wrong_arguments_are_named_at_once() -> None:
    dataset = ray.data.from_items([{"id": 1, "body": "a"}])
    with pytest.raises(ValueError, match="the dataset has no column 'text'; its columns: body, id"):
        embed(dataset)
    with pytest.raises(ValueError, match="the column 'error' is reserved"):
        embed(dataset, text_column="body", keep=["error"])
    with pytest.raises(ValueError, match="no task has vectors"):
        embed(dataset, text_column="body", tasks=[Classify()], segments=True)
    with pytest.warns(UserWarning, match="leave none of the cluster's 2 for reading"), pytest.raises(BatchError):
        embed(dataset, text_column="body", tasks=[Classify()], replicas=2)
    with pytest.raises(ValueError, match="embed is given twice"):
        embed(dataset, text_column="body", tasks=[Embed(), Embed(dimensions=8)])


RESUMABLE = """
import sys
import ray
from octavo.ray import embed
folder = sys.argv[1]
ray.init("local", num_cpus=4, include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().checkpoint_config = ray.data.checkpoint.CheckpointConfig(
    id_column="id", checkpoint_path=f"{folder}/done", delete_checkpoint_on_success=False)
dataset = ray.data.read_parquet(f"{folder}/docs", override_num_blocks=10)
embed(dataset, model="splade-tiny", cache_mode="bypass", replicas=1, batch_size=20).write_parquet(f"{folder}/out")
"""


def test_a_dataset_is_resumed_from_ray_s_checkpoints(tmp_path: Path) -> None:
    rows = rows_of(200, 400)
    (tmp_path / "docs").mkdir()
    for i in range(10):
        parquet.write_table(pa.Table.from_pylist(rows[20 * i : 20 * i + 20]), tmp_path / "docs" / f"{i}.parquet")
    line = [sys.executable, "-c", RESUMABLE, str(tmp_path)]
    process = subprocess.Popen(line, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    waited(lambda: any("pending" not in each.name for each in (tmp_path / "done").glob("*.parquet")), process)
    process.kill()
    process.wait()
    subprocess.run(line, env=ENVIRONMENT, check=True, timeout=200, stderr=subprocess.DEVNULL)
    ids = parquet.read_table(tmp_path / "out", columns=["id"])["id"].to_pylist()
    assert sorted(ids) == sorted(row["id"] for row in rows)
