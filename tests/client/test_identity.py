"""Who calls, over which connection: the key reaches the server, and nobody else."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result

from octavo.cli.root import octavo
from octavo.client import AsyncClient, Client, Embed, Retry, Unauthenticated, Unavailable
from tests.client.conftest import Caller
from tests.client.double import Double, Fault, serving

TOKEN = "oct_k3v9q0z7m2xd_" + "0123456789abcdef" * 4
ONCE = Retry(attempts=1, patience=0)
REMOTE = "octavo.example.org:50051"


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate for a name or address alone, and its key."""
    files = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=octavo.test", "-addext", f"subjectAltName={name}", "-days", "2"]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return files


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[tuple[Double, Path]]:
    """A double whose certificate is for another name, and that certificate."""
    chain, key = make_certificate(tmp_path, "DNS:octavo.test")
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
    with serving(Double(), credentials=credentials) as double:
        yield double, chain


@pytest.fixture
def encrypted(certificate: tuple[Path, Path]) -> Iterator[Double]:
    """A double that speaks TLS alone."""
    chain, key = (file.read_bytes() for file in certificate)
    with serving(Double(), credentials=grpc.ssl_server_credentials([(key, chain)])) as double:
        yield double


def test_every_kind_of_call_shows_the_token(call: Caller, double: Double) -> None:
    client = {"token": TOKEN}
    for method in ("embed", "segment", "models", "model"):
        call(method, *(["text"] if method in {"embed", "segment"} else []), client=client)
    call("analyze", "text", {"a": Embed()}, client=client)
    call.process([("a", "text")], client=client)
    call.many(["text"], client=client)
    call.stream("text", client=client)
    assert len(double.authorizations) == 10  # models come in three pages
    assert set(double.authorizations) == {f"Bearer {TOKEN}"}
    double.authorizations.clear()
    call("embed", "text")
    assert double.authorizations == [None]


def test_a_token_is_not_shown(double: Double) -> None:
    secret = TOKEN.rpartition("_")[2]
    with Client(double.address, token=TOKEN) as client:
        assert secret not in f"{client!r} {client}"
    for wrong in (f"{TOKEN}\nx", f"{TOKEN}\N{SNOWMAN}", ""):
        with pytest.raises(ValueError, match="token") as caught:
            Client(double.address, token=wrong)
        assert secret not in str(caught.value)
    with pytest.raises(ValueError, match="without encryption") as caught:
        Client(REMOTE, token=TOKEN)
    assert secret not in str(caught.value)


def test_a_token_s_line_end_is_not_part_of_it(double: Double) -> None:
    with Client(double.address, token=f"{TOKEN}\n") as client:
        client.embed("text")
    assert double.authorizations == [f"Bearer {TOKEN}"]


@pytest.mark.parametrize(
    ("address", "safe"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/octavo/socket", True),
        (REMOTE, False),
        ("10.0.0.1:1", False),
        ("127.0.0.1.example.org:1", False),
        ("127.0.0.1.5:1", False),
        ("localhost.example.org:1", False),
        ("[2001:db8::1]:1", False),
        ("dns:///localhost:1", False),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
    ],
)
async def test_no_token_travels_in_the_open_unless_it_is_allowed_by_name(address: str, safe: bool) -> None:
    for made in (Client, AsyncClient):
        make: Callable[..., Any] = made
        if safe:
            make(address, token=TOKEN)
        else:
            with pytest.raises(ValueError, match="without encryption"):
                make(address, token=TOKEN)
        make(address)
        make(address, token=TOKEN, insecure_token=True)
        make(address, token=TOKEN, credentials=grpc.ssl_channel_credentials())


def test_over_tls_calls_are_answered_and_the_certificate_is_checked(
    certificate: tuple[Path, Path], encrypted: Double, impostor: tuple[Double, Path], call: Caller
) -> None:
    trust = grpc.ssl_channel_credentials(certificate[0].read_bytes())
    tls = Caller(encrypted, call.manner)
    assert tls("embed", "text", client={"token": TOKEN, "credentials": trust}).usage.tokens == 4
    assert encrypted.authorizations == [f"Bearer {TOKEN}"]
    with pytest.raises(Unavailable, match="CERTIFICATE_VERIFY_FAILED"):
        tls("embed", "text", client={"credentials": grpc.ssl_channel_credentials(), "retry": ONCE})
    other, chain = impostor
    with pytest.raises(Unavailable, match="Hostname"):
        Caller(other, call.manner)(
            "embed",
            "text",
            client={"credentials": grpc.ssl_channel_credentials(chain.read_bytes()), "retry": ONCE, "token": TOKEN},
        )
    assert not other.requests
    with pytest.raises(Unavailable):
        tls("embed", "text", client={"retry": ONCE})
    assert len(encrypted.requests) == 1


# The command line


@pytest.fixture
def invoke() -> Callable[..., Result]:
    def invoke_command(*arguments: str | Path, **env: str) -> Result:
        environment = {"OCTAVO_API_KEY": None, "OCTAVO_SERVER": None, "OCTAVO_TLS": None, "OCTAVO_CA": None, **env}
        return CliRunner(env=environment).invoke(octavo, list(map(str, arguments)))

    return invoke_command


def test_the_command_takes_the_key_from_the_environment_and_shows_it_nowhere(
    invoke: Callable[..., Result], double: Double, tmp_path: Path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    for command in (["embed", file], ["embed", file, file], ["segment", file], ["models"], ["models", "show"]):
        done = invoke(*command, "--server", double.address, OCTAVO_API_KEY=TOKEN)
        assert done.exit_code == 0, done.output
        assert TOKEN not in done.output
    assert set(double.authorizations) == {f"Bearer {TOKEN}"}
    double.faults.append(Fault(grpc.StatusCode.UNAUTHENTICATED, "not valid", "UNAUTHENTICATED"))
    done = invoke("models", "--server", double.address, OCTAVO_API_KEY=TOKEN)
    assert (done.exit_code, done.stderr) == (1, "Error: not valid (check the key in OCTAVO_API_KEY)\n")
    done = invoke("models", "--server", double.address, OCTAVO_API_KEY="oct_\N{SNOWMAN}secret")
    assert done.exit_code == 2
    assert "OCTAVO_API_KEY" in done.stderr
    assert "secret" not in done.stderr


def test_the_command_says_where_a_key_belongs_when_one_is_needed(invoke: Callable[..., Result], double: Double) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAUTHENTICATED, "who?", "UNAUTHENTICATED"))
    done = invoke("models", "--server", double.address)
    assert done.exit_code == 1
    assert "OCTAVO_API_KEY" in done.stderr


def test_the_command_refuses_to_send_the_key_in_the_open(invoke: Callable[..., Result]) -> None:
    done = invoke("models", "--server", REMOTE, OCTAVO_API_KEY=TOKEN)
    assert done.exit_code == 2
    assert "--tls" in done.stderr
    assert TOKEN not in done.stderr
    done = invoke(
        "models", "--server", "192.0.2.1:1", "--allow-plaintext-token", "--timeout", "0.1", OCTAVO_API_KEY=TOKEN
    )
    assert done.exit_code in {1, 3}  # it went and asked


def test_the_command_speaks_tls_and_tells_what_is_wrong_with_it(
    invoke: Callable[..., Result],
    certificate: tuple[Path, Path],
    encrypted: Double,
    impostor: tuple[Double, Path],
    double: Double,
    tmp_path: Path,
) -> None:
    address, ca = encrypted.address, str(certificate[0])
    assert invoke("models", "--server", address, "--ca", ca, OCTAVO_API_KEY=TOKEN).exit_code == 0
    assert invoke("models", OCTAVO_SERVER=address, OCTAVO_TLS="1", OCTAVO_CA=ca).exit_code == 0
    assert encrypted.authorizations[:1] == [f"Bearer {TOKEN}"]
    for arguments, code, told in (
        (["--server", address, "--tls"], 3, "--ca"),
        (["--server", impostor[0].address, "--ca", str(impostor[1])], 3, "another name"),
        (["--server", address], 3, "--tls"),
        (["--server", double.address, "--tls"], 3, "does not use TLS"),
        (["--server", address, "--ca", str(certificate[1])], 2, "no certificate"),
        (["--server", address, "--ca", str(tmp_path / "none.pem")], 2, "No such file"),
        (["--server", "unix:/run/x", "--tls"], 2, "Unix socket"),
    ):
        done = invoke("models", *arguments)
        assert done.exit_code == code, (arguments, done.stderr)
        assert told in done.stderr


def test_local_and_tls_exclude_each_other(invoke: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    done = invoke("embed", "--local", "--tls", file)
    assert done.exit_code == 2
    assert "--local and --tls exclude" in done.stderr


def test_a_refusal_for_the_key_is_told_as_such(call: Caller, double: Double) -> None:
    double.faults.append(Fault(grpc.StatusCode.UNAUTHENTICATED, "not valid", "UNAUTHENTICATED", pushback="-1"))
    with pytest.raises(Unauthenticated, match="not valid"):
        call("embed", "text", client={"token": TOKEN})
    assert len(double.requests) == 1
