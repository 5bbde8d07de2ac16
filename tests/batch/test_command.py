"""`octavo batch` from end to end, with real files, sockets and processes, and a double for a server."""

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result
from pyarrow import parquet

from octavo.batch.cluster import sizes
from octavo.batch.errors import BatchError, Unserved
from octavo.batch.sources import shown
from octavo.cli.root import octavo
from octavo.client import Unavailable
from octavo.v1 import inference_pb2 as pb
from tests.client.double import DIMENSIONS, FINGERPRINT, Double, Fault, serving, vector_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def double() -> Iterator[Double]:
    with serving(Double()) as served:
        yield served


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    path = tmp_path / "docs.jsonl"
    rows = [{"id": f"d{i}", "text": f"Document number {i}.", "year": 1790 + i} for i in range(25)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def batch(double: Double, docs: Path, *arguments: str, server: bool = True) -> Result:
    flags = ["--server", double.address] if server else []
    output = ["--output", str(docs.parent / "out")]
    return CliRunner().invoke(octavo, ["batch", "--input", str(docs), *output, *flags, "--part-rows", "10", *arguments])


def summary(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]


def sent(double: Double) -> int:
    return sum(not part.more for part in double.parts)


def test_every_document_has_its_row_in_the_input_s_order(double: Double, docs: Path, tmp_path: Path) -> None:
    double.batch = 5  # answered in another order; a divisor, for the stream ends when all are answered
    done = batch(double, docs, "--keep", "year")
    assert done.exit_code == 0, done.output
    found = rows(tmp_path / "out")
    assert [row["id"] for row in found] == [f"d{i}" for i in range(25)]
    assert [row["year"] for row in found] == list(range(1790, 1815))
    for i, row in enumerate(found):
        assert np.array_equal(np.array(row["vector"], np.float32), vector_of(f"Document number {i}."))
        assert row["error"] is None
        assert row["usage"]["tokens"] > 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "_SUCCESS", "_manifest.json", "part-00000.parquet", "part-00001.parquet", "part-00002.parquet",
    ]  # fmt: skip
    told = summary(done)
    assert (told["documents"], told["failed"], told["complete"], told["parts"]) == (25, 0, True, 3)
    assert json.loads((tmp_path / "out" / "_SUCCESS").read_text()) == told


def test_the_schema_is_the_documented_one_and_tells_the_model(double: Double, docs: Path, tmp_path: Path) -> None:
    assert batch(double, docs, "--keep", "year").exit_code == 0
    schema = parquet.read_schema(tmp_path / "out" / "part-00000.parquet")
    assert schema.names == ["id", "year", "vector", "usage", "error"]
    assert str(schema.field("vector").type) == f"fixed_size_list<element: float>[{DIMENSIONS}]"
    told = json.loads(schema.metadata[b"octavo"])
    assert told["fingerprint"] == FINGERPRINT
    assert told["options"]["keep"] == ["year"]
    document = (ROOT / "docs" / "batch.md").read_text()
    for name in ("id", "segment", "char_start", "char_end", "vector", "usage", "error"):
        assert f"| `{name}` |" in document


def test_lines_of_json_hold_the_same(double: Double, docs: Path, tmp_path: Path) -> None:
    assert batch(double, docs, "--format", "jsonl").exit_code == 0
    lines = (tmp_path / "out" / "part-00000.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert list(first) == ["id", "vector", "usage", "error"]
    assert np.array_equal(np.array(first["vector"], np.float32), vector_of("Document number 0."))
    assert len(lines) == 10


def test_segments_have_rows_after_their_document_s(double: Double, docs: Path, tmp_path: Path) -> None:
    assert batch(double, docs, "--segments").exit_code == 0
    found = [row for row in rows(tmp_path / "out") if row["id"] == "d0"]
    text = "Document number 0."
    assert [row["segment"] for row in found] == [None, 0, 1]
    assert [(row["char_start"], row["char_end"]) for row in found[1:]] == [(0, 10), (10, len(text))]
    assert np.array_equal(np.array(found[1]["vector"], np.float32), vector_of(text[:10]))
    assert summary(batch(double, docs, "--segments"))["documents"] == 25  # segments are none


def test_bad_rows_have_errors_and_the_exit_code_tells(double: Double, docs: Path, tmp_path: Path) -> None:
    docs.write_text(docs.read_text() + '{"id": "d0", "text": "again"}\nno JSON\n')
    done = batch(double, docs)
    assert done.exit_code == 1
    assert summary(done)["errors"] == {"DUPLICATE_ID": 1, "MALFORMED_ROW": 1}
    assert (tmp_path / "out" / "_SUCCESS").exists()
    last = rows(tmp_path / "out")[-1]
    assert last["id"] == "docs.jsonl:27"
    assert last["vector"] is None
    assert last["error"]["reason"] == "MALFORMED_ROW"


def test_too_many_errors_stop_the_job_which_goes_on_with_a_higher_bound(double: Double, docs: Path) -> None:
    docs.write_text("no JSON\n" * 3 + docs.read_text())
    done = batch(double, docs, "--max-errors", "2")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--max-errors 2" in done.stderr
    assert not (docs.parent / "out" / "_SUCCESS").exists()
    done = batch(double, docs, "--max-errors", "3")
    assert done.exit_code == 1
    assert summary(done)["documents"] == 28


def test_a_job_goes_on_with_the_parts_that_are_missing(double: Double, docs: Path, tmp_path: Path) -> None:
    assert batch(double, docs).exit_code == 0
    before = rows(tmp_path / "out")
    (tmp_path / "out" / "part-00001.parquet").unlink()
    double.parts.clear()
    done = batch(double, docs)
    assert sent(double) == 10
    assert rows(tmp_path / "out") == before
    assert summary(done)["documents"] == 25
    assert summary(done)["run"]["documents"] == 10


def test_other_options_and_inputs_are_refused_by_name(double: Double, docs: Path) -> None:
    assert batch(double, docs).exit_code == 0
    double.parts.clear()
    done = batch(double, docs, "--pooling", "cls", "--keep", "year")
    assert done.exit_code == 2
    assert "--keep unset, not year" in done.stderr
    assert "--pooling unset, not cls" in done.stderr
    docs.write_text(docs.read_text().replace("number 7", "number 8"))
    done = batch(double, docs)
    assert done.exit_code == 2
    assert "--input docs.jsonl has changed" in done.stderr
    assert not double.parts


def test_a_folder_of_other_files_is_not_written_to(double: Double, docs: Path) -> None:
    (docs.parent / "out").mkdir()
    (docs.parent / "out" / "thesis.txt").write_text("mine")
    done = batch(double, docs)
    assert done.exit_code == 1
    assert "_manifest.json" in done.stderr
    (docs.parent / "out" / "thesis.txt").unlink()
    done = batch(double, docs, str(docs.parent))
    assert done.exit_code == 1
    assert "overlap" in done.stderr


def test_a_damaged_part_is_named(double: Double, docs: Path, tmp_path: Path) -> None:
    assert batch(double, docs).exit_code == 0
    (tmp_path / "out" / "part-00001.parquet").write_bytes(b"damaged")
    done = batch(double, docs)
    assert done.exit_code == 1
    assert "part-00001.parquet" in done.stderr


def test_shards_share_the_parts_and_the_last_says_that_all_is_done(double: Double, docs: Path, tmp_path: Path) -> None:
    first = batch(double, docs, "--shard", "1/2")
    assert summary(first)["documents"] == 15
    assert not summary(first)["complete"]
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    second = batch(double, docs, "--shard", "2/2")
    assert summary(second)["complete"]
    assert summary(second)["documents"] == 25
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"d{i}" for i in range(25)]
    assert sent(double) == 25


def test_a_sample_is_taken_of_all(double: Double, docs: Path, tmp_path: Path) -> None:
    done = batch(double, docs, "--sample", "5")
    assert summary(done)["documents"] == 5
    ids = [int(row["id"][1:]) for row in rows(tmp_path / "out")]
    assert ids == sorted(ids)
    assert max(ids) > 5


def test_a_plan_counts_and_writes_nothing(double: Double, docs: Path, tmp_path: Path) -> None:
    done = batch(double, docs, "--plan")
    assert done.exit_code == 0, done.output
    told = summary(done)
    assert told["documents"] == 25
    assert told["uncached_tokens"] == 25 * 7
    assert told["seconds"] == pytest.approx(25 * 7 / told["tokens_per_second"], abs=0.001)
    assert told["bytes"] > 25 * DIMENSIONS * 4
    assert not double.parts
    assert not (tmp_path / "out").exists()


def test_a_server_that_breaks_or_drains_loses_nothing(double: Double, docs: Path, tmp_path: Path) -> None:
    double.ends.extend([(3, Fault(grpc.StatusCode.UNAVAILABLE)), (0, "draining"), (5, "silently")])
    done = batch(double, docs)
    assert done.exit_code == 0, done.output
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"d{i}" for i in range(25)]


def test_several_servers_share_the_work_and_one_takes_over_for_another(docs: Path, tmp_path: Path) -> None:
    docs.write_text("".join(json.dumps({"id": f"d{i}", "text": f"Document {i}."}) + "\n" for i in range(300)))
    with serving(Double()) as one, serving(Double()) as other:
        one.delay = other.delay = lambda text: 0.01
        other.ends.append((4, Fault(grpc.StatusCode.PERMISSION_DENIED)))
        done = batch(one, docs, "--server", one.address, "--server", other.address, server=False)
        assert done.exit_code == 0, done.output
        assert f"continuing without {other.address}" in done.stderr
        assert sent(one) > 0
        assert sent(other) > 0
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"d{i}" for i in range(300)]


def test_no_server_at_all_is_told_and_the_job_can_go_on(double: Double, docs: Path) -> None:
    double.ends.append((3, Fault(grpc.StatusCode.UNAUTHENTICATED, "who are you")))
    done = batch(double, docs)
    assert done.exit_code == 1
    assert "who are you" in done.stderr
    assert batch(double, docs).exit_code == 0


def test_no_server_is_told_as_embed_tells_it(docs: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        nobody = Double(address=f"127.0.0.1:{deaf.getsockname()[1]}")
        told = []
        for arguments in ((), ("--plan",)):
            done = batch(nobody, docs, "--patience", "0", *arguments)
            assert done.exit_code == 3
            told.append(done.stderr)
        embed = CliRunner().invoke(octavo, ["embed", "--server", nobody.address, str(docs)])
    assert told == [embed.stderr] * 2
    assert nobody.address in embed.stderr


def test_without_the_extra_it_says_what_to_install(double: Double, docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("octavo.batch.command.find_spec", lambda name: None if name == "pyarrow" else object())
    done = batch(double, docs)
    assert done.exit_code == 1
    assert "pip install pyarrow" in done.stderr


class Strict(Double):
    """Refuses each document once, for a while, as a limit does."""

    refused: Counter[str]

    def ProcessDocuments(self, requests: Any, context: grpc.ServicerContext) -> Iterator[pb.ProcessDocumentsResponse]:  # noqa: N802
        limit = Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, "later", "RATE_LIMITED", retry_delay=0.3).status()
        for response in super().ProcessDocuments(requests, context):
            text = next((part.text for part in self.parts if part.id == response.result.id), "")
            self.refused.update([text] if text else [])
            if text and self.refused[text] == 1:
                yield pb.ProcessDocumentsResponse(result=pb.DocumentResult(id=response.result.id, error=limit))
            else:
                yield response


def test_hints_are_obeyed(docs: Path, tmp_path: Path) -> None:
    strict = Strict()
    strict.refused = Counter()
    with serving(strict):
        start = time.monotonic()
        done = batch(strict, docs)
    assert done.exit_code == 0, done.output
    assert time.monotonic() - start >= 0.3
    assert set(strict.refused.values()) == {2}
    assert [row["id"] for row in rows(tmp_path / "out")] == [f"d{i}" for i in range(25)]


def test_the_fingerprint_of_the_first_run_is_demanded_of_all(double: Double, docs: Path, tmp_path: Path) -> None:
    assert batch(double, docs).exit_code == 0
    (tmp_path / "out" / "part-00002.parquet").unlink()
    manifest = tmp_path / "out" / "_manifest.json"
    manifest.write_text(manifest.read_text().replace(FINGERPRINT, "00" * 16))
    done = batch(double, docs)
    assert done.exit_code == 2
    assert "makes different results" in done.stderr


def process(double: Double, docs: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "octavo.cli", "batch", "--input", str(docs), "--output", str(docs.parent / "out")]
    command += ["--server", double.address, "--part-rows", "2", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(os.environ), cwd=ROOT)


def until_a_part_is_there(docs: Path, running: "subprocess.Popen[bytes]") -> None:
    while not list((docs.parent / "out").glob("part-*")):
        assert running.poll() is None, running.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_whatever_ends_it_it_goes_on(double: Double, docs: Path, number: signal.Signals, code: int) -> None:
    released = threading.Event()

    def held(text: str) -> float:
        """Answer four documents, and no more while the command runs."""
        if (found := re.search(r"number (\d+)", text)) and int(found[1]) >= 4:
            released.wait(60)
        return 0.0

    double.delay = held
    with process(double, docs) as running:
        until_a_part_is_there(docs, running)
        running.send_signal(number)
        assert running.wait(60) == code
        assert running.stderr is not None
        said = running.stderr.read()
    assert b"Traceback" not in said
    assert (b"run the same command to resume" in said) == (number != signal.SIGKILL)
    assert not (docs.parent / "out" / "_SUCCESS").exists()
    released.set()
    double.delay = lambda text: 0.0
    double.parts.clear()
    with process(double, docs) as running:
        assert running.wait(60) == 0
    assert 0 < sent(double) < 25
    assert [row["id"] for row in rows(docs.parent / "out")] == [f"d{i}" for i in range(25)]


def test_what_a_killed_run_has_left_is_removed_in_the_end(double: Double, docs: Path) -> None:
    assert batch(double, docs).exit_code == 0
    folder = docs.parent / "out"
    (folder / "part-00001.parquet").unlink()
    (folder / f".part-00001.parquet.{'0' * 32}").write_text("half a part")
    assert batch(double, docs).exit_code == 0
    assert not list(folder.glob(".*"))


def test_help_and_serving_do_not_load_pyarrow() -> None:
    code = (
        "import sys; from octavo.cli.root import run; run(['--help']); run(['batch', '--help']);"
        "import server.app; assert 'pyarrow' not in sys.modules, 'loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_credentials_in_uris_stay_out_of_files_and_messages(double: Double, docs: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / docs.name).write_text('{"text": "One more."}\n')  # of the same name: rows are named by input
    uris = [f"file://{path}?secret_key=SECRET" for path in (docs, tmp_path / "more" / docs.name, tmp_path / "out")]
    server = ["--server", double.address]
    done = CliRunner().invoke(octavo, ["batch", *server, "-i", uris[0], "-i", uris[1], "-o", uris[2]])
    assert done.exit_code == 0, done.output
    assert summary(done)["output"].endswith("/out?secret_key=***")
    told = [done.output_bytes, *(file.read_bytes() for file in (tmp_path / "out").iterdir())]
    for given in ("SECRET@host/x", "KEY:SECRET@", "KEY:SEC/SECRET@host/x"):
        bad = CliRunner().invoke(octavo, ["batch", *server, "-i", f"file://{given}", "-o", str(tmp_path / "other")])
        assert bad.exit_code != 0
        assert "***@" in bad.output
        told.append(bad.output_bytes)
    assert not any(b"SECRET" in each for each in told)
    assert [row["id"] for row in rows(tmp_path / "out")][-1].endswith(f"/{docs.name}?secret_key=***:{docs.name}:1")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://KEY:SECRET@bucket/a@b", "s3://***@bucket/a@b"),
        ("s3://KEY:SEC/RET@bucket/a", "s3://***@bucket/a"),
        ("hdfs://host:8020/a@b", "hdfs://host:8020/a@b"),
        ("abfss://c@account/x?account_key=SECRET&region=eu", "abfss://***@account/x?account_key=***&region=eu"),
        ("s3://bucket/x?region=eu", "s3://bucket/x?region=eu"),
        ("/a/me:you@here", "/a/me:you@here"),
    ],
)
def test_uris_are_shown_without_credentials(uri: str, expected: str) -> None:
    assert shown(uri) == expected


def test_failed_documents_are_counted_on_standard_error(double: Double, docs: Path) -> None:
    docs.write_text('{"id": "a", "text": "good"}\n{"id": "b", "text": ""}\n{"id": "c", "text": 3}\n')
    done = batch(double, docs)
    assert done.exit_code == 1
    reasons = summary(done)["errors"]
    assert sum(reasons.values()) == 2
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    assert done.stderr.splitlines()[-1] == f"octavo: 2 of 3 documents failed: {listed}"


def test_sizes_have_units(double: Double, docs: Path) -> None:
    assert batch(double, docs, "--max-document-bytes", "1kB").exit_code == 0
    docs.write_text(json.dumps({"id": "long", "text": "x" * 1001}) + "\n")
    done = batch(double, docs, "--max-document-bytes", "1kB", "--output", str(docs.parent / "other"))
    assert summary(done)["errors"] == {"DOCUMENT_TOO_LARGE": 1}


def test_an_output_that_is_a_file_is_told_in_the_system_s_words(double: Double, docs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    done = batch(double, docs)
    assert (done.exit_code, done.stderr) == (1, f"Error: {tmp_path / 'out'}: File exists\n")


def test_a_server_that_is_away_is_told_once_in_our_words(double: Double, docs: Path) -> None:
    double.ends.extend([(3, Fault(grpc.StatusCode.UNAVAILABLE)), (0, Fault(grpc.StatusCode.UNAVAILABLE))])
    done = batch(double, docs)
    assert done.exit_code == 0, done.output
    assert done.stderr.count(f"octavo: waiting: no server answers on {double.address}") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--replicas", "2"], "--replicas needs --engine ray"),
        (["--replica-gpus", "1"], "--replica-gpus needs --engine ray"),
        (["--engine", "ray", "--server", "localhost:1"], "--engine ray and --server exclude each other"),
        (["--engine", "ray", "--local"], "--engine ray and --local exclude each other"),
        (["--engine", "ray", "--plan"], "--engine ray and --plan exclude each other"),
    ],
)
def test_options_of_ray_and_of_servers_exclude_each_other(
    double: Double, docs: Path, arguments: list[str], told: str
) -> None:
    done = batch(double, docs, *arguments, server=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_ray_is_an_extra(double: Double, docs: Path) -> None:
    done = batch(double, docs, "--engine", "ray", server=False)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "pip install 'octavo[ray]'" in done.stderr


@pytest.mark.parametrize(
    ("nodes", "number", "cpus", "found"),
    [
        ([8, 8], None, None, (2, 8)),
        ([0, 8], None, None, (1, 8)),
        ([6, 2], 2, None, (2, 3)),
        ([8, 8], 3, None, (3, 4)),
        ([8, 7], None, 2, (7, 2)),
        ([8, 8], 2, 4, (2, 4)),
    ],
)
def test_replicas_fit_the_nodes(nodes: list[int], number: int | None, cpus: int | None, found: tuple[int, int]) -> None:
    assert sizes(nodes, number, cpus) == found


@pytest.mark.parametrize(("number", "cpus"), [(5, None), (None, 5), (2, 3)])
def test_replicas_that_do_not_fit_are_refused(number: int | None, cpus: int | None) -> None:
    with pytest.raises(BatchError, match="do not fit the cluster's nodes"):
        sizes([3, 1], number, cpus)


def test_a_job_s_error_passes_between_processes() -> None:
    fault = copy.deepcopy(
        Unserved("here:1", Unavailable("no", reason="DRAINING", retry_after=1.5))
    )  # as pickle does it
    assert (str(fault), fault.address, fault.error.reason) == ("here:1: no", "here:1", "DRAINING")
    assert fault.error.retry_after == 1.5
