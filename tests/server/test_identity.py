"""Who is let in, as whom, and what those hear who are not."""

import asyncio
import contextlib
import json
import os
import resource
import socket
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from server.auth.authenticator import LOOK_SECONDS, Authenticator, Caller, clients_of
from server.auth.keys import SETTLED_NS, KeptKey, Key, changing_keys, read_keys_and_state, state_of
from server.config.schema import Settings
from server.errors import PermissionDenied, StartError, Unauthenticated
from server.rpc.call_gate import is_local_peer
from server.rpc.listener import credentials_of
from server.types import Priority
from tests.server.entry import Refusal, bearer, echo, entry, refusal

CLIENTS = {"acme": {"tenant": "t1", "plan": "gold"}, "globex": {"disabled": True}}
PLANS = {"gold": {"weight": 3, "tokens_per_minute": 5_000, "priority": "bulk", "models": ["all-MiniLM-L6-v2"]}}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def configured(file: Path, clients: Any = CLIENTS, **server: Any) -> Settings:
    return Settings.model_validate(
        {"clients": clients, "plans": PLANS, "server": {"keys_file": file, **server}, "metrics": {"listen": ""}}
    )


def add(file: Path, client: str = "acme", expires: timedelta | None = None) -> str:
    key, token = Key.make(datetime.now(UTC) + expires if expires is not None else None)
    with changing_keys(file) as kept:
        kept.append(KeptKey(key, client, datetime.now(UTC)))
    return token


def caller(token: str | None = None, *, local: bool = True, encrypted: bool = False) -> Caller:
    return Caller((f"Bearer {token}",) if token is not None else (), local, encrypted)


def test_clients_have_the_tenants_and_plans_of_their_settings(file: Path) -> None:
    clients = clients_of(configured(file))
    assert clients.keys() == {"acme", "anonymous"}, "a disabled one is none"
    acme = clients["acme"]
    assert (acme.tenant, acme.plan.name, acme.plan.weight, acme.plan.tokens_per_minute) == ("t1", "gold", 3, 5_000)
    assert acme.plan.cap(Priority.INTERACTIVE) is Priority.BULK
    assert acme.plan.allows("all-MiniLM-L6-v2")
    with pytest.raises(PermissionDenied, match="the plan gold does not include the model other"):
        acme.check_model("other")
    anonymous = clients["anonymous"]
    assert (anonymous.tenant, anonymous.plan.name, anonymous.plan.tokens_per_minute) == ("anonymous", "anonymous", None)
    assert clients_of(configured(file, {"x": {}}))["x"].tenant == "x"


def test_the_anonymous_client_can_be_limited_and_shut_out(file: Path) -> None:
    limited = Settings.model_validate({"plans": {"anonymous": {"tokens_per_minute": 1_000}}})
    assert clients_of(limited)["anonymous"].plan.tokens_per_minute == 1_000
    named = Settings.model_validate({"clients": {"anonymous": {"plan": "default"}}})
    assert clients_of(named)["anonymous"].plan.name == "default"
    authenticator = Authenticator(configured(file, {"anonymous": {"disabled": True}}))
    with pytest.raises(Unauthenticated, match="credentials are needed"):
        authenticator.identify(caller())


def test_a_key_names_its_client_and_several_live_side_by_side(file: Path) -> None:
    old, new = add(file), add(file, expires=timedelta(days=90))
    authenticator = Authenticator(configured(file))
    assert authenticator.identify(caller(old)).name == authenticator.identify(caller(new)).name == "acme"
    assert authenticator.identify(Caller((f"bearer  {new} ",), local=True, encrypted=False)).name == "acme"


def test_a_key_of_the_settings_opens_too(file: Path) -> None:
    for expires in (None, datetime.now(UTC) + timedelta(days=1)):
        key, token = Key.make(expires)
        authenticator = Authenticator(configured(file, {"acme": {"keys": [str(key)]}}))
        assert authenticator.identify(caller(token)).name == "acme"


def test_a_key_of_the_settings_that_is_none_stops_the_start_and_is_named(file: Path) -> None:
    keys = [str(Key.make()[0]), f"{Key.make()[0]}:tomorrow"]
    with pytest.raises(StartError, match=r"clients\.acme\.keys\[1\]: a key's record is ID:SALT:DIGEST") as caught:
        Authenticator(configured(file, {"acme": {"keys": keys}}))
    assert keys[1] not in str(caught.value)


def changed(token: str) -> str:
    return token[:-1] + ("0" if token[-1] != "0" else "1")


def test_all_wrong_credentials_are_told_the_same(file: Path) -> None:
    valid = add(file)
    wrong = {
        "unknown id": Key.make()[1],
        "wrong secret": changed(valid),
        "another's secret": "_".join([*valid.split("_")[:2], Key.make()[1].split("_")[2]]),
        "expired": add(file, expires=timedelta(seconds=-1)),
        "disabled client": add(file, "globex"),
        "no such client": add(file, "initech"),
        "empty": "",
        "malformed": valid.upper(),
        "longer": valid + "0",
        "not ASCII": valid[:-1] + "é",
    }
    authenticator = Authenticator(configured(file))
    assert authenticator.identify(caller(valid))
    told = set()
    for case, token in wrong.items():
        with pytest.raises(Unauthenticated) as caught:
            authenticator.identify(caller(token))
        told.add(str(caught.value))
        assert token not in str(caught.value) or not token, case
    for values in (("Basic " + valid,), (valid,), (f"Bearer {valid}", f"Bearer {valid}"), ("",)):
        with pytest.raises(Unauthenticated) as caught:
            authenticator.identify(Caller(values, local=True, encrypted=True))
        told.add(str(caught.value))
    assert told == {"the credentials are not valid"}


def test_all_wrong_credentials_take_the_same_time(file: Path) -> None:
    valid = add(file)
    tokens = [Key.make()[1], changed(valid), add(file, expires=timedelta(seconds=-1)), add(file, "globex")]
    authenticator = Authenticator(configured(file))
    times: list[list[float]] = [[] for _ in tokens]
    for _ in range(3_000):
        for token, spent in zip(tokens, times, strict=True):
            shown = caller(token)
            began = time.perf_counter()
            with pytest.raises(Unauthenticated):
                authenticator.identify(shown)
            spent.append(time.perf_counter() - began)
    medians = [statistics.median(spent) for spent in times]
    assert max(medians) - min(medians) < 0.25 * max(medians), "a digest is more than a quarter of it"


def test_an_unknown_id_costs_a_digest_too(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    original = Key.matches

    def matches(key: Key, secret: bytes) -> bool:
        compared.append(key.id)
        return original(key, secret)

    monkeypatch.setattr(Key, "matches", matches)
    authenticator = Authenticator(configured(file))
    for token in (Key.make()[1], "", "nonsense"):
        with pytest.raises(Unauthenticated):
            authenticator.identify(caller(token))
    assert len(compared) == 3


def test_strangers_from_other_machines_are_let_in_when_asked_for_by_name(file: Path) -> None:
    authenticator = Authenticator(configured(file))
    assert authenticator.identify(caller()).name == "anonymous"
    for encrypted in (True, False):
        with pytest.raises(Unauthenticated, match="credentials are needed"):
            authenticator.identify(caller(local=False, encrypted=encrypted))
    assert (
        Authenticator(configured(file, allow_anonymous_remote=True)).identify(caller(local=False)).name == "anonymous"
    )


def test_credentials_that_others_could_read_are_refused_unless_asked_for_by_name(file: Path) -> None:
    token = add(file)
    authenticator = Authenticator(configured(file))
    assert authenticator.identify(caller(token, local=False, encrypted=True)).name == "acme"
    for each in (token, changed(token)):
        with pytest.raises(Unauthenticated, match="without encryption"):
            authenticator.identify(caller(each, local=False))
    allowed = Authenticator(configured(file, allow_plaintext_credentials=True))
    assert allowed.identify(caller(token, local=False)).name == "acme"


def accepts(authenticator: Authenticator, token: str) -> bool:
    try:
        return authenticator.identify(caller(token)).name == "acme"
    except Unauthenticated:
        return False


def test_changes_of_the_file_apply_without_a_restart_and_looks_are_rare(file: Path) -> None:
    clock = Clock()
    authenticator = Authenticator(configured(file), clock)
    token = add(file)
    clock.now += LOOK_SECONDS / 2
    assert not accepts(authenticator, token)
    clock.now += LOOK_SECONDS / 2
    assert accepts(authenticator, token)
    with changing_keys(file) as kept:
        kept.clear()
    assert accepts(authenticator, token), "the file was looked at just now"
    clock.now += LOOK_SECONDS
    assert not accepts(authenticator, token)


def overwrite(file: Path, content: str) -> None:
    """Write in place; only the time of the inode's change tells."""
    found = file.stat()
    with file.open("r+") as opened:
        opened.write(content)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


def without_keys(content: str) -> str:
    return json.dumps({"format": 1, "keys": []}).ljust(len(content))


def settle(file: Path) -> None:
    """Wait until the file's last change is old enough for its state to be remembered."""
    while time.time_ns() - file.stat().st_ctime_ns <= SETTLED_NS:
        time.sleep(0.05)


def test_a_revocation_counts_once_the_file_s_mode_is_mended(file: Path) -> None:
    clock, token = Clock(), add(file)
    settle(file)
    authenticator = Authenticator(configured(file), clock)
    file.write_text(without_keys(file.read_text()))
    file.chmod(0o664)
    settle(file)
    for _ in range(2):
        clock.now += LOOK_SECONDS
        assert accepts(authenticator, token), "the file cannot be trusted"
    file.chmod(0o600)
    clock.now += LOOK_SECONDS
    assert not accepts(authenticator, token)


def test_a_mode_that_lets_others_write_is_noticed(file: Path) -> None:
    clock, token = Clock(), add(file)
    settle(file)
    authenticator = Authenticator(configured(file), clock)
    with capture_logs() as told:
        file.chmod(0o664)
        clock.now += LOOK_SECONDS
        assert accepts(authenticator, token)
    assert [line["event"] for line in told] == ["keys not read"]


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Let the process open no file: EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_revocation_counts_once_the_process_can_open_files_again(file: Path) -> None:
    clock, token = Clock(), add(file)
    settle(file)
    authenticator = Authenticator(configured(file), clock)
    with changing_keys(file) as kept:
        kept.clear()
    settle(file)
    with capture_logs() as told, no_more_files():
        for _ in range(3):
            clock.now += LOOK_SECONDS
            assert accepts(authenticator, token), "a file that cannot be opened is not one without keys"
    assert [line["reason"] for line in told] == [f"{file} cannot be read: Too many open files"]
    clock.now += LOOK_SECONDS
    assert not accepts(authenticator, token)


def test_a_partial_write_that_is_completed_in_the_same_size_counts(file: Path) -> None:
    clock, token = Clock(), add(file)
    authenticator = Authenticator(configured(file), clock)
    revoked = without_keys(file.read_text())
    file.write_text(revoked[:10].ljust(len(revoked), "\0"))
    settle(file)
    clock.now += LOOK_SECONDS
    assert accepts(authenticator, token), "half a file"
    overwrite(file, revoked)
    clock.now += LOOK_SECONDS
    assert not accepts(authenticator, token)


def test_a_write_of_the_same_size_and_time_of_modification_counts(file: Path) -> None:
    clock, token = Clock(), add(file)
    authenticator = Authenticator(configured(file), clock)
    valid = file.read_text()
    for _ in range(100):
        for content in (without_keys(valid), valid):
            overwrite(file, content)
            clock.now += LOOK_SECONDS
            assert accepts(authenticator, token) == (content is valid)


def test_a_state_is_remembered_once_a_later_write_has_another_time(file: Path) -> None:
    add(file)
    assert read_keys_and_state(file)[1] is None, "within one tick of the clock the next write looks the same"
    settle(file)
    assert read_keys_and_state(file)[1] == state_of(file.stat())


def test_a_file_that_broke_leaves_its_keys_and_is_told_once(file: Path) -> None:
    clock, token = Clock(), add(file)
    authenticator = Authenticator(configured(file), clock)
    content = file.read_text()
    with capture_logs() as told:
        file.write_text(content[:-20])
        for _ in range(3):
            clock.now += LOOK_SECONDS
            assert authenticator.identify(caller(token)).name == "acme"
        assert [(line["event"], line["reason"]) for line in told] == [("keys not read", f"{file} is not JSON")]
        file.write_text(content + " ")
        clock.now += LOOK_SECONDS
        assert authenticator.identify(caller(token)).name == "acme"
    assert told[-1]["event"] == "keys read"
    file.unlink()
    clock.now += LOOK_SECONDS
    with pytest.raises(Unauthenticated):
        authenticator.identify(caller(token))


def test_a_file_that_cannot_be_used_stops_the_start(file: Path) -> None:
    file.write_text("{")
    with pytest.raises(StartError, match="is not JSON"):
        Authenticator(configured(file))
    file.write_text(json.dumps({"format": 1, "keys": []}))
    file.chmod(0o666)
    with pytest.raises(StartError, match="may be written by others"):
        Authenticator(configured(file))


def test_no_secret_is_shown_by_what_holds_it() -> None:
    assert "hunter2" not in repr(caller("hunter2"))


@pytest.mark.parametrize(
    ("peer", "local"),
    [
        ("ipv4:127.0.0.1:36108", True),
        ("ipv4:127.9.9.9:1", True),
        ("ipv6:%5B::1%5D:49406", True),
        ("ipv6:[::1]:49406", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:1", True),
        ("unix:", True),
        ("unix:/run/x", True),
        ("unix-abstract:x", True),
        ("ipv4:192.0.2.2:1", False),
        ("ipv6:%5B::ffff:192.0.2.2%5D:1", False),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", False),
        ("ipv4:127.0.0.1.example.org:1", False),
        ("", False),
        ("vsock:1:2", False),
    ],
)
def test_which_peers_are_this_machine(peer: str, local: bool) -> None:
    assert is_local_peer(peer) is local


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def test_over_the_wire_clients_are_who_they_show_to_be(file: Path) -> None:
    token = add(file)
    async with entry(configured(file)) as server:
        assert await server.call() == "anonymous"
        assert await server.call(token=token) == "acme"
        wrong = await refused(server.call(token=changed(token)))
    assert (wrong.code, wrong.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert wrong.pushback == "-1", "it would be wrong again"
    assert b"oct_" not in wrong.status.SerializeToString()


async def test_nothing_of_a_refused_request_is_parsed_and_no_secret_is_logged(file: Path) -> None:
    token = changed(add(file))
    async with entry(configured(file)) as server:
        with capture_logs() as told:
            await refused(server.call(b"x", token=token))
        assert server.parsed == []
    assert token.split("_")[2] not in repr(told)


async def test_the_log_names_the_client_of_each_call(file: Path) -> None:
    token = add(file)
    context = structlog.contextvars.merge_contextvars
    async with entry(configured(file)) as server:
        with capture_logs(processors=[context]) as told:
            await server.call(token=token)
            await server.call()
            await refused(server.call(token=changed(token)))
            async with asyncio.timeout(10):
                while sum(line["event"] == "call" for line in told) < 3:
                    await asyncio.sleep(0.01)
    assert [line.get("client") for line in told if line["event"] == "call"] == ["acme", "anonymous", None]


async def test_unix_sockets_are_this_machine(file: Path, tmp_path: Path) -> None:
    token = add(file)
    async with entry(configured(file), f"unix:{tmp_path}/s") as server:
        assert await server.call() == "anonymous"
        assert await server.call(token=token) == "acme"


async def test_health_is_open_to_all(file: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    settings = configured(file, {"anonymous": {"disabled": True}})
    async with entry(settings) as server, server.channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(), metadata=bearer("nonsense"))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await refused(echo(channel))).reason == "UNAUTHENTICATED"


def another_address() -> str:
    """An address of this machine that is not loopback; calls from it are calls of another machine to us."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # no packet is sent
        except OSError:
            pytest.skip("this machine has no network but loopback")
        return str(probe.getsockname()[0])


async def test_from_another_machine_in_plain_text(file: Path) -> None:
    token = add(file)
    address = f"{another_address()}:0"
    async with entry(configured(file), address) as server:
        assert "credentials are needed" in (await refused(server.call())).message
        assert "without encryption" in (await refused(server.call(token=token))).message
    async with entry(
        configured(file, allow_plaintext_credentials=True, allow_anonymous_remote=True), address
    ) as server:
        assert await server.call() == "anonymous"
        assert await server.call(token=token) == "acme"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=octavo.test", "-addext", "subjectAltName=DNS:octavo.test", "-days", "2"]
    command += ["-out", str(files[0]), "-keyout", str(files[1])]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return files


async def test_over_tls_credentials_from_another_machine_are_taken(file: Path, certificate: tuple[Path, Path]) -> None:
    token = add(file)
    settings = configured(file, tls_certificate=certificate[0], tls_key=certificate[1])
    address = f"{another_address()}:0"
    async with entry(settings, address, credentials_of(*certificate)) as server:
        trust = grpc.ssl_channel_credentials(certificate[0].read_bytes())
        name = [("grpc.ssl_target_name_override", "octavo.test")]
        async with grpc.aio.secure_channel(server.address, trust, options=name) as channel:
            assert await echo(channel, token=token) == "acme"
            assert "credentials are needed" in (await refused(echo(channel))).message
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.call(token=token, seconds=2)
        assert caught.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def test_certificates_that_cannot_be_used_stop_the_start(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    assert credentials_of(None, None) is None
    assert credentials_of(*certificate) is not None
    gone = tmp_path / "gone.pem"
    with pytest.raises(StartError, match="No such file"):
        credentials_of(gone, certificate[1])
    with pytest.raises(StartError, match="no certificate and its key"):
        credentials_of(certificate[0], certificate[0])
    locked = tmp_path / "locked.pem"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:hunter2", "-in", str(certificate[1]), "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(StartError, match="is encrypted"):
        credentials_of(certificate[0], locked)
