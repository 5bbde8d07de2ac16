"""`octavo cache warm` against a server double: it is `octavo embed` without output."""

import socket
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner, Result

from octavo.cli.root import octavo
from octavo.v1 import inference_pb2 as pb
from tests.client.double import Double, Fault


def invoke(*arguments: str | Path, server: str | None = None, **env: str) -> Result:
    variables = {"OCTAVO_SERVER": server, **env}
    return CliRunner(env=variables).invoke(octavo, list(map(str, arguments)))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "below").mkdir(parents=True)
    for name, text in (("a.txt", "first"), ("below/b.txt", "second"), ("c.txt", "third")):
        (folder / name).write_text(text)
    return folder


def texts(double: Double) -> list[str]:
    return sorted(request.document.text for request in double.requests)


def test_all_files_below_a_folder_are_computed(double: Double, corpus: Path) -> None:
    done = invoke("cache", "warm", corpus, server=double.address)
    assert done.exit_code == 0, done.output
    assert texts(double) == ["first", "second", "third"]
    assert done.stdout.startswith("3 documents, ")


def test_it_asks_what_embed_asks_and_shows_the_key(double: Double, corpus: Path) -> None:
    file = corpus / "a.txt"
    options = ["--window", "64", "--pooling", "cls", "--policy", "sentence", "--priority", "bulk", "--model", "m"]
    key = f"oct_{'a' * 12}_{'b' * 64}"
    for command in (["embed"], ["cache", "warm"]):
        done = invoke(*command, *options, file, server=double.address, OCTAVO_API_KEY=key)
        assert done.exit_code == 0, done.output
    embed, warm = double.requests
    assert isinstance(warm, pb.StreamSegmentsRequest)
    assert embed == warm
    assert double.authorizations == [f"Bearer {key}"] * 2


def test_it_refuses_what_embed_refuses(double: Double, corpus: Path) -> None:
    (corpus / "c.txt").write_bytes(b"ab\xff")
    double.faults.append(Fault(grpc.StatusCode.INVALID_ARGUMENT, "no token", "EMPTY_DOCUMENT"))
    done = invoke("cache", "warm", "--in-flight", "1", corpus, server=double.address)
    assert done.exit_code == 1
    told = done.stderr.splitlines()
    assert told == [
        f"octavo: {corpus / 'a.txt'}: no token",
        f"octavo: {corpus / 'c.txt'}: byte 2 is not utf-8: set the file's encoding with --encoding",
    ]
    assert done.stdout.startswith("1 document, ")


def test_without_a_server_it_fails_as_embed_does(corpus: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        for command in (["embed", str(corpus / "a.txt")], ["cache", "warm", str(corpus)]):
            done = invoke(*command, "--server", address)
            assert done.exit_code == 3
            assert address in done.stderr


def test_a_folder_without_files_and_settings_of_another_server_are_wrong_usage(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert invoke("cache", "warm", tmp_path / "empty").exit_code == 2
    assert invoke("cache", "warm", "--cache-dir", tmp_path, corpus).exit_code == 2


@pytest.mark.parametrize(
    "command", ["cache stats", "cache verify", "cache warm", "cache purge", "keys add", "keys list"]
)
def test_commands_without_a_server_do_not_offer_to_listen(command: str) -> None:
    shown = invoke(*command.split(), "--help")  # click keeps a command's help option from its first use
    assert shown.exit_code == 0
    assert "--listen" not in shown.stdout
