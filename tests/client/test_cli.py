"""The command line against a server double: what it prints, how it fails, what it exits with."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from click.testing import CliRunner, Result

from octavo.cli import root
from octavo.cli.output import glimpse, numbers, table
from octavo.cli.root import octavo
from octavo.v1 import inference_pb2 as pb
from tests.client.double import DIMENSIONS, FINGERPRINT, Double, Fault, pieces, vector_of

Run = Callable[..., subprocess.CompletedProcess[str]]
TEXT = "It was the best of times,\r\nit was the worst of times.\n"


@pytest.fixture
def run(double: Double) -> Run:
    """The real command in a process of its own."""

    def run_command(
        *arguments: str | Path, stdin: str = "", env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"OCTAVO_SERVER": double.address} | (env or {})
        command = [sys.executable, "-m", "octavo.cli", *map(str, arguments)]
        return subprocess.run(
            command, input=stdin, capture_output=True, encoding="utf-8", check=False, env=environment, timeout=60
        )

    return run_command


@pytest.fixture
def invoke(double: Double) -> Callable[..., Result]:
    """The command within this process, which is quicker; standard error apart."""

    def invoke_command(*arguments: str | Path, stdin: bytes | str = "") -> Result:
        return CliRunner(env={"OCTAVO_SERVER": double.address}).invoke(octavo, list(map(str, arguments)), input=stdin)

    return invoke_command


@pytest.fixture
def book(tmp_path: Path) -> Path:
    file = tmp_path / "book.txt"
    file.write_bytes(TEXT.encode())
    return file


def write(folder: Path, *texts: str) -> list[Path]:
    files = [folder / f"{number}.txt" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


# embed


def test_embed_prints_a_line_of_json_with_the_vector_to_the_last_bit(invoke: Callable[..., Result], book: Path) -> None:
    done = invoke("embed", book)
    assert done.exit_code == 0, done.output
    (line,) = done.stdout.splitlines()
    answer = json.loads(line)
    assert np.array_equal(np.array(answer["vector"], np.float32), vector_of(TEXT))
    assert answer["file"] == str(book)
    assert (answer["model"], answer["fingerprint"], answer["request_id"]) == ("tiny@3", FINGERPRINT, "r-1")
    assert answer["usage"]["tokens"] == len(TEXT)
    assert answer["timings"]["total"] == 1.5
    assert "segments" not in answer


def test_embed_gives_segments_with_their_places_in_the_file(invoke: Callable[..., Result], book: Path) -> None:
    answer = json.loads(invoke("embed", "--segments", book).stdout)
    whole = book.read_bytes().decode()  # line ends as they are
    assert [whole[s["char_start"] : s["char_end"]] for s in answer["segments"]] == pieces(TEXT)
    for segment, piece in zip(answer["segments"], pieces(TEXT), strict=True):
        assert np.array_equal(np.array(segment["vector"], np.float32), vector_of(piece))


def test_embed_takes_standard_input(invoke: Callable[..., Result]) -> None:
    answer = json.loads(invoke("embed", "-", stdin=TEXT.encode()).stdout)
    assert answer["file"] == "-"
    assert np.array_equal(np.array(answer["vector"], np.float32), vector_of(TEXT))
    assert invoke("embed", "-", "-").exit_code == 2


def test_embed_sends_what_its_options_say(invoke: Callable[..., Result], double: Double, book: Path) -> None:
    options = "--model m@1 --input-type query --window 0 --policy fixed --max-tokens 99 --pooling cls --no-normalize"
    more = (
        "--dimensions 8 --data-type float16 --expected-fingerprint ab --cache-mode refresh --priority bulk --timeout 30"
    )
    assert invoke("embed", *options.split(), *more.split(), book).exit_code == 0
    assert invoke("embed", *options.split(), *more.split(), book, book).exit_code == 0
    stream, first, second = double.requests
    assert stream == first == second
    embed = stream.tasks[0].embed
    assert (stream.options.model, stream.options.window, stream.options.segmentation.max_tokens) == ("m@1", 0, 99)
    assert stream.options.HasField("window")
    assert stream.options.priority == 2
    assert (stream.options.expected_fingerprint, stream.options.cache_mode, stream.options.input_type) == ("ab", 3, 1)
    assert (embed.pooling, embed.normalize, embed.dimensions, embed.data_type) == (
        2,
        False,
        8,
        2,
    )
    assert embed.HasField("normalize")
    assert all(deadline is not None and deadline < 31 for deadline in double.deadlines)


def test_many_files_come_in_their_order(invoke: Callable[..., Result], double: Double, tmp_path: Path) -> None:
    files = write(tmp_path, *[f"text {number}" for number in range(12)])
    double.delay = lambda text: 0.05 if text == "text 0" else 0.0
    lines = invoke("embed", *files).stdout.splitlines()
    assert [json.loads(line)["file"] for line in lines] == list(map(str, files))
    for number, line in enumerate(lines):
        assert np.array_equal(np.array(json.loads(line)["vector"], np.float32), vector_of(f"text {number}"))


def test_one_bad_file_does_not_stop_the_others(invoke: Callable[..., Result], double: Double, tmp_path: Path) -> None:
    files = write(tmp_path, "a", "b", "c", "d")
    files[1].write_bytes(b"ab\xff")
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "no token", "EMPTY_DOCUMENT"))
    done = invoke("embed", "--in-flight", "1", *files)
    assert done.exit_code == 1
    assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == [str(files[2]), str(files[3])]
    assert done.stderr.splitlines() == [
        f"octavo: {files[0]}: no token",
        f"octavo: {files[1]}: byte 2 is not utf-8: set the file's encoding with --encoding",
    ]


def test_an_encoding_is_a_choice(invoke: Callable[..., Result], double: Double, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("Caf\xe9".encode("latin-1"))
    assert invoke("embed", "--encoding", "latin-1", file).exit_code == 0
    assert double.requests[0].document.text == "Caf\xe9"
    assert invoke("embed", "--encoding", "klingon", file).exit_code == 2


def test_an_array_has_a_row_a_file_or_a_segment(invoke: Callable[..., Result], book: Path, tmp_path: Path) -> None:
    other, output = tmp_path / "other.txt", tmp_path / "vectors.npy"
    other.write_text("other")
    assert invoke("embed", "--format", "npy", "-o", output, book, other).exit_code == 0
    assert np.array_equal(np.load(output), [vector_of(TEXT), vector_of("other")])
    assert invoke("embed", "--format", "npy", "-o", output, "--segments", book).exit_code == 0
    assert np.array_equal(np.load(output), [vector_of(piece) for piece in pieces(TEXT)])
    assert invoke("embed", "--format", "npy", "-o", output, "--segments", book, other).exit_code == 2
    assert output.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def test_an_array_is_whole_or_not_written(
    invoke: Callable[..., Result], double: Double, book: Path, tmp_path: Path
) -> None:
    output = tmp_path / "vectors.npy"
    output.write_bytes(b"before")
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "no token", "EMPTY_DOCUMENT"))
    assert invoke("embed", "--format", "npy", "-o", output, book, book).exit_code == 1
    assert output.read_bytes() == b"before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["book.txt", "vectors.npy"]
    assert invoke("embed", "-o", tmp_path / "no" / "such.json", book).exit_code == 1


def test_an_answer_for_part_of_a_document_is_a_failure_that_names_what_ran_out(
    invoke: Callable[..., Result], double: Double, book: Path
) -> None:
    double.partial = True
    for files in ([book], [book, book]):
        done = invoke("embed", "--timeout", "20", *files)
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.count(f"octavo: {book}: the timeout passed") == len(files)
    double.deadlines_passed.extend([2, 2])
    done = invoke("embed", book)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "the server's default deadline" in done.stderr
    assert "--timeout" in done.stderr


def test_a_document_outlasts_the_servers_default_deadline(
    invoke: Callable[..., Result], double: Double, book: Path
) -> None:
    double.deadlines_passed.append(2)
    answer = json.loads(invoke("embed", "--segments", book).stdout)
    assert len(answer["segments"]) == len(pieces(TEXT))
    assert np.array_equal(np.array(answer["vector"], np.float32), vector_of(TEXT))


def test_long_answers_of_several_files_come_in_parts(
    invoke: Callable[..., Result], double: Double, tmp_path: Path
) -> None:
    files = write(tmp_path, "a" * 9000, "b" * 9000)
    assert invoke("embed", "--segments", *files).exit_code == 0
    assert {type(request) for request in double.requests} == {pb.StreamSegmentsRequest}


def test_options_without_effect_are_refused(invoke: Callable[..., Result], double: Double, book: Path) -> None:
    for command in ("embed", "segment"):
        done = invoke(command, "--policy", "fixed", "--min-tokens", "5", book)
        assert done.exit_code == 2
        assert "--min-tokens" in done.stderr
    assert not double.requests


# segment and models


def test_segment_shows_places_tokens_and_text(invoke: Callable[..., Result], book: Path) -> None:
    done = invoke("segment", book)
    assert done.exit_code == 0
    head, columns, *rows = done.stdout.splitlines()
    assert head.startswith(f"{book}: {len(TEXT)} tokens in {len(pieces(TEXT))} segments")
    assert columns.split() == ["segment", "from", "to", "tokens", "text"]
    assert rows[1].split() == ["1", "10", "20", "10", "best", "of", "t"]
    assert len(rows) == len(pieces(TEXT))


def test_segment_speaks_json_and_names_what_failed(
    invoke: Callable[..., Result], double: Double, book: Path, tmp_path: Path
) -> None:
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "no token", "EMPTY_DOCUMENT"))
    (bad,) = write(tmp_path, "")
    done = invoke("segment", "--format", "json", bad, book)
    assert done.exit_code == 1
    assert done.stderr == f"octavo: {bad}: no token\n"
    (answer,) = map(json.loads, done.stdout.splitlines())
    assert answer["uncached_tokens"] == 7
    assert answer["usage"] == {"tokens": len(TEXT), "processed_tokens": len(TEXT) + 2}
    assert len(answer["segments"]) == len(pieces(TEXT))


def test_models_lists_with_and_without_the_word(invoke: Callable[..., Result]) -> None:
    bare, listed = invoke("models"), invoke("models", "list")
    assert bare.stdout == listed.stdout
    rows = [line.split() for line in bare.stdout.splitlines()]
    assert rows[1][:6] == ["*", "model-0@3", "embed", str(DIMENSIONS), "512", "int8"]
    assert [row[-1] for row in rows[1:]] == [FINGERPRINT[:12]] * 3
    lines = invoke("models", "--format", "json").stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["model-0", "model-1", "model-2"]


def test_models_show_tells_all_of_one(invoke: Callable[..., Result]) -> None:
    shown = dict(line.split("  ", 1) for line in invoke("models", "show", "model-5").stdout.splitlines())
    assert shown["name"].strip() == "model-5"
    assert json.loads(invoke("models", "show", "--format", "json").stdout)["segmentation"] == {
        "policy": "content",
        "min_tokens": 256,
    }


# Faults and exit codes


def test_wrong_usage_is_one_line_and_2(run: Run, tmp_path: Path) -> None:
    for arguments in (
        ["embed"],
        ["embed", "--nope", "x"],
        ["nope"],
        ["embed", tmp_path / "missing"],
        ["embed", tmp_path],
    ):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.count("\n") == 1
        assert "--help)" in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("embd", "octavo: unknown command 'embd'; did you mean embed?"),
        ("quite-different", "octavo: unknown command 'quite-different'"),
        ("models lst", "octavo models: unknown command 'lst'; did you mean list?"),
        ("cache stat", "octavo cache: unknown command 'stat'; did you mean stats?"),
        ("models quantize hf:x q", "octavo models quantize: 'hf:x' is no model: write NAME, FOLDER or hf:ORG/NAME"),
        ("embed --outptu x", "octavo embed: unknown option --outptu; did you mean --output?"),
        ("embed", "octavo embed: FILE... is missing"),
        ("batch -i x", "octavo batch: --output is missing"),
        ("embed --window -1 x", "octavo embed: --window: -1 is less than 0"),
        ("embed --format xml x", "octavo embed: --format: 'xml' is not one of 'json', 'npy'"),
        ("embed /no/such", "octavo embed: File '/no/such' does not exist"),
        ("embed --ca /no/such /dev/null", "octavo embed: --ca: /no/such: No such file or directory"),
        ("batch -i x -o y --max-document-bytes 4XB", "octavo batch: --max-document-bytes: must be a number of bytes"),
    ],
)
def test_wrong_usage_is_told_in_our_words(capsys: pytest.CaptureFixture[str], line: str, said: str) -> None:
    assert root.run(line.split()) == 2
    assert capsys.readouterr().err.startswith(said)


def test_a_message_names_options_and_not_fields(invoke: Callable[..., Result], double: Double, book: Path) -> None:
    field = "options.segmentation.max_tokens"
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "max_tokens must be at least 32", field=field))
    done = invoke("embed", book)
    assert done.stderr.startswith(f"octavo: {book}: --max-tokens must be at least 32")
    assert "max_tokens" not in done.stderr


def test_a_task_without_a_model_is_told_with_the_way_to_get_one(
    invoke: Callable[..., Result], double: Double, book: Path
) -> None:
    message = "the served models do not support embed_sparse"
    double.faults.append(Fault(grpc.StatusCode.NOT_FOUND, message, "UNKNOWN_MODEL"))
    done = invoke("embed-sparse", book)
    assert done.exit_code == 1
    assert "models do not support embed-sparse (serve a model that does: 'octavo models fetch --list'" in done.stderr


def test_an_answer_that_is_late_is_told_in_our_words(invoke: Callable[..., Result], double: Double, book: Path) -> None:
    released = threading.Event()
    double.delay = lambda _: 0.0 * released.wait(60)
    done = invoke("embed", "--timeout", "0.2", book)
    released.set()
    assert (done.exit_code, done.stderr) == (1, f"octavo: {book}: no answer in time (--timeout allows more time)\n")


def test_a_server_without_tls_is_told_in_one_line(run: Run, double: Double, book: Path) -> None:
    for command in ("embed", "segment"):
        done = run(command, "--tls", book)
        assert done.returncode == 3
        assert done.stderr == f"octavo: {double.address}: the server does not use TLS: remove --tls and --ca\n"


def test_a_refused_call_is_one_line_and_1(run: Run, double: Double, book: Path) -> None:
    double.faults.append(Fault(grpc.StatusCode.NOT_FOUND, "no model x", "UNKNOWN_MODEL", field="options.model"))
    done = run("embed", book)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"octavo: {book}: no model x (--model: is wrong)\n"


def test_no_server_is_one_line_that_helps_and_3(run: Run, book: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        for arguments in (["embed", book], ["embed", book, book], ["segment", book], ["models"]):
            done = run(*arguments, "--server", address)
            assert done.returncode == 3
            assert done.stderr.count("\n") == 1
            assert address in done.stderr
            assert "octavo serve" in done.stderr


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_port_of_another_program_is_told_as_such(run: Run, book: Path, greeting: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def greet() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = other.accept()
                    connection.sendall(greeting + bytes(64))

        threading.Thread(target=greet, daemon=True).start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run("embed", "--server", address, book)
    assert done.returncode == 3
    assert done.stderr == (
        f"octavo: {address}: another program answers there, which does not speak gRPC: check the port\n"
    )


def test_a_name_that_does_not_resolve_is_told_as_such(run: Run, book: Path) -> None:
    done = run("embed", "--server", "nowhere.invalid:50051", book)
    assert done.returncode == 3
    assert done.stderr.startswith("octavo: nowhere.invalid:50051: the name does not resolve")
    assert done.stderr.count("\n") == 1


def test_a_socket_that_is_not_there_is_told_as_such(run: Run, book: Path, tmp_path: Path) -> None:
    done = run("embed", "--server", f"unix:{tmp_path}/none", book)
    assert done.returncode == 3
    assert done.stderr == f"octavo: unix:{tmp_path}/none: there is no such socket: check the path\n"


def test_an_address_that_is_none_is_wrong_usage(invoke: Callable[..., Result], book: Path) -> None:
    for address in ("localhost", "http://localhost:50051", "localhost:port", "localhost:70000", "localhost:0", ""):
        done = invoke("embed", "--server", address, book)
        assert done.exit_code == 2, address


def test_local_and_a_server_exclude_each_other_unless_the_environment_named_it(
    invoke: Callable[..., Result], book: Path
) -> None:
    done = invoke("embed", "--local", "--server", "127.0.0.1:1", book)
    assert done.exit_code == 2
    assert "exclude" in done.stderr


def test_a_reader_that_goes_away_is_no_complaint(double: Double, tmp_path: Path) -> None:
    files = write(tmp_path, *[f"text {number}" for number in range(300)])
    command = [sys.executable, "-m", "octavo.cli", "embed", "--server", double.address, *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(30) == 141


@pytest.mark.parametrize("arguments", [["--help"], ["embed", "--help"], ["--version"]])
def test_help_that_nobody_reads_ends_as_any_other_output(arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "octavo.cli", *arguments],
            stdout=write,
            stderr=subprocess.PIPE,
            check=False,
            timeout=60,
        )
    finally:
        os.close(write)
    assert done.returncode == 141


@pytest.mark.parametrize(
    ("closed", "code", "said"),
    [
        ("<&-", 1, "octavo: -: Bad file descriptor\n"),
        (">&-", 1, "octavo: standard output: Bad file descriptor\n"),
        ("2>&-", 0, ""),
    ],
)
def test_standard_streams_that_are_closed(double: Double, tmp_path: Path, closed: str, code: int, said: str) -> None:
    (tmp_path / "book").write_text("a text")
    file = "-" if closed == "<&-" else str(tmp_path / "book")
    line = f"{sys.executable} -m octavo.cli embed --server {double.address} {file} {closed}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (code, said)


def test_ctrl_c_while_the_command_is_loaded_leaves_no_traceback(tmp_path: Path) -> None:
    """`click` is the first thing that it loads; here that takes until the signal."""
    (tmp_path / "click.py").write_text("import os, time\nopen(os.environ['STARTED'], 'w').close()\ntime.sleep(60)\n")
    environment = {**os.environ, "STARTED": str(tmp_path / "started")}
    environment["PYTHONPATH"] = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    process = subprocess.Popen([sys.executable, "-m", "octavo.cli"], env=environment, stderr=subprocess.PIPE)
    try:
        until = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, b"")


def test_ctrl_c_ends_at_once_with_130(double: Double, book: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    released = threading.Event()
    double.delay = lambda _: 0.0 * released.wait(60)  # no answer while the command runs
    for files in ([book], [book, book]):
        seen = len(double.requests)
        command = [sys.executable, "-m", "octavo.cli", "embed", "--server", double.address, "-o", output, *files]
        with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
            while len(double.requests) == seen:
                time.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert process.wait(50) == 130
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
    released.set()
    assert not output.exists()


# Help and commands of others


def test_every_help_teaches_with_examples(invoke: Callable[..., Result]) -> None:
    tasks = ("analyze", "classify", "classify-tokens", "embed", "embed-sparse", "redact")
    for command in ([], *([name] for name in tasks), ["segment"], ["models"], ["models", "list"], ["models", "show"]):
        shown = invoke(*command, "--help")
        assert shown.exit_code == 0
        assert "  octavo " in shown.stdout.partition("\n")[2]
        assert "\\b" not in shown.stdout
        assert shown.stdout == invoke(*command, "-h").stdout


def test_help_and_the_clients_commands_load_no_torch() -> None:
    script = """
import sys
from octavo.cli.root import run
assert run(["--help"]) == 0 and run(["embed", "--help"]) == 0
heavy = {"torch", "transformers", "tokenizers"} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


JOINED = '''
import click

@click.command()
def sound():
    r"""Sounds.

    \\b
    a
    b
    """
    click.echo("sound!")

@click.command()
def fails():
    """Fails."""
    raise click.ClickException("it\\ncould not.")

nothing = 3
'''
ENTRY_POINTS = """
[octavo.commands]
sound = joined:sound
fails = joined:fails
broken = broken:command
absent = no_such:thing
nothing = joined:nothing
[octavo.models_commands]
sound = joined:sound
"""


@pytest.fixture
def plugins(tmp_path: Path) -> dict[str, str]:
    """An installed package that joins the command line: one sound command, three that are not."""
    (tmp_path / "joined.py").write_text(JOINED)
    (tmp_path / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    info = tmp_path / "joined-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: joined\nVersion: 1\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}


def test_commands_of_others_join_and_broken_ones_say_so_in_one_line(run: Run, plugins: dict[str, str]) -> None:
    assert run("sound", env=plugins).stdout == "sound!\n"
    assert run("models", "sound", env=plugins).stdout == "sound!\n"
    shown = run("--help", env=plugins)
    assert shown.returncode == 0
    assert "Sounds." in shown.stdout
    assert "cannot be loaded" in shown.stdout
    assert "\n  a\n  b\n" in run("sound", "--help", env=plugins).stdout
    for name, why in (("broken", "two lines"), ("absent", "no_such"), ("nothing", "not a click command")):
        done = run(name, "--any", "option", env=plugins)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert why in done.stderr


def test_a_fault_of_a_joined_command_is_one_line(run: Run, plugins: dict[str, str]) -> None:
    done = run("fails", env=plugins)
    assert (done.returncode, done.stderr) == (1, "octavo: it could not\n")


def test_other_commands_are_not_loaded_for_one(run: Run, plugins: dict[str, str], tmp_path: Path, book: Path) -> None:
    (tmp_path / "broken.py").write_text(f"open({str(tmp_path / 'loaded')!r}, 'w')\nraise RuntimeError\n")
    assert run("embed", book, env=plugins).returncode == 0
    assert not (tmp_path / "loaded").exists()
    run("--help", env=plugins)
    assert (tmp_path / "loaded").exists()


# Parts


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("octavo mod", {"plain": {"models"}}),
        ("octavo models ", {"plain": {"list", "show", "fetch", "add", "quantize"}}),
        ("octavo embed --form", {"plain": {"--format"}}),
        ("octavo embed --format ", {"plain": {"json", "npy"}}),
        *((line, {"file": {"bo"}}) for line in (
            "octavo embed bo", "octavo embed --output bo", "octavo embed --ca bo", "octavo batch --input bo",
            "octavo batch --output bo", "octavo serve --config bo", "octavo serve --model bo",
            "octavo serve --cache-dir bo", "octavo models quantize bo",
        )),
    ],
)  # fmt: skip
def test_the_shell_completes_commands_options_and_files(words: str, completed: dict[str, set[str]]) -> None:
    line = words.split(" ")
    environment = {"COMP_WORDS": "\n".join(line), "COMP_CWORD": str(len(line) - 1), "_OCTAVO_COMPLETE": "bash_complete"}
    said = CliRunner(env=environment).invoke(octavo, [], prog_name="octavo").output
    found: dict[str, set[str]] = {}
    for kind, value in (each.split(",") for each in said.splitlines()):
        found.setdefault(kind, set()).add(value)
    assert found == completed


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_completion_works_in_bash(tmp_path: Path) -> None:
    """As README sets it up, in a shell that calls the function as it does on a tab."""
    command = tmp_path / "octavo"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m octavo.cli "$@"\n')
    command.chmod(0o755)
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    (line,) = re.findall(r"`(eval .*bash_source.*?)`", readme)
    tab = "COMP_WORDS=(octavo embed --form) COMP_CWORD=2; _octavo_completion octavo; echo ${COMPREPLY[@]}"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(
        ["bash", "-c", f"{line}; complete -p octavo; {tab}"],
        capture_output=True, text=True, check=True, timeout=60, env=environment,
    )  # fmt: skip
    assert said.stdout.splitlines() == ["complete -o nosort -F _octavo_completion octavo", "--format"], said


def test_numbers_are_short_and_exact() -> None:
    values = np.array([0.1, 1 / 3, -1e-9, 3.4e38], np.float32)
    assert numbers(values)[0] == 0.1
    assert np.array_equal(np.array(numbers(values), np.float32), values)
    half = np.array([0.1, 65504], np.float16)
    assert np.array_equal(np.array(numbers(half), np.float16), half)
    assert numbers(np.array([-127, 3], np.int8)) == [-127, 3]


def test_a_glimpse_is_one_line_that_no_terminal_obeys() -> None:
    assert glimpse("a\n\tb  c") == "a b c"
    assert glimpse("\x1b[2Jx") == "\N{REPLACEMENT CHARACTER}[2Jx"
    assert glimpse("x" * 49) == "x" * 47 + "…"
    assert glimpse("x" * 48) == "x" * 48


def test_tables_line_up() -> None:
    assert table(("a", "n"), [("long", "1"), ("b", "22")], right=(1,)) == "a      n\nlong   1\nb     22"
