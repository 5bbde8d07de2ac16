"""`octavo doctor`: what would stop the server is a failure, what would slow it down is said."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from click.testing import CliRunner, Result

from benchmarks import redis_server
from server.auth.keys import KeptKey, Key, changing_keys
from server.commands.access import certificate, keys, redis
from server.commands.doctor import cache_folder, cores, doctor, listener, processor, served, software
from server.config.folders import cache_home
from server.config.schema import ClientSettings, ComputeSettings, LimitSettings, ModelSettings, ServerSettings, Settings
from server.config.values import StorageUrl

TINY = cache_home() / "models" / "splade-tiny"
AMX = "flags\t\t: avx2 avx512f avx512_vnni avx512_bf16 amx_int8 amx_bf16\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a small real model, to be spoilt."""
    if not TINY.is_dir():
        pytest.skip("splade-tiny is not installed: make setup")
    return shutil.copytree(TINY, tmp_path / "tiny")


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, ["--listen", "127.0.0.1:0", "--set", "metrics.listen=", *arguments])


def test_a_sound_model_is_told_with_scheme_kernels_and_digest(folder: Path) -> None:
    result = run("--model", str(folder), "--set", "compute.threads=1")
    assert result.exit_code == 0, result.output
    lines = {tuple(line.split(maxsplit=3)[:3]) for line in result.output.splitlines()}
    assert {("ok", "kernels", "tiny:"), ("ok", "digest", "tiny:")} <= lines
    assert re.search(r"^ok   model     tiny@[0-9a-f]{12}: 2 layers of 128, ", result.output, re.MULTILINE)
    assert "fail" not in result.output


@pytest.mark.parametrize("scheme", ["fp32", "bf16"])
def test_the_scheme_that_was_asked_for_is_told(folder: Path, scheme: Literal["fp32", "bf16"]) -> None:
    findings = served(ModelSettings(path=str(folder), scheme=scheme, device="cpu"), ComputeSettings())
    told = [finding.says for finding in findings if (finding.level, finding.subject) == ("ok", "kernels")]
    assert len(told) == 1
    assert told[0].startswith(f"tiny: {scheme} on cpu, ")


def test_a_missing_model_fails_and_names_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = tmp_path / "octavo" / "models" / "known"
    known.mkdir(parents=True)
    (known / "config.json").write_text("{}")
    (finding,) = served(ModelSettings(path="knwon"), ComputeSettings())
    assert finding.level == "fail"
    assert "does not exist" in finding.says
    assert finding.says.endswith("; available: known")


def spoil_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def spoil_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


def ask_for_code(folder: Path) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": {"AutoModel": "evil.Model"}}))


@pytest.mark.parametrize("spoil", [spoil_weights, spoil_tokenizer, ask_for_code])
def test_a_model_that_cannot_be_served_fails_on_one_line(folder: Path, spoil: Callable[[Path], None]) -> None:
    spoil(folder)
    result = run("--model", str(folder))
    assert result.exit_code == 1
    assert [line.split()[1] for line in result.output.splitlines() if line.startswith("fail")] == ["model"]


def test_a_port_in_use_fails(folder: Path, taken: str) -> None:
    result = run("--model", str(folder), "--listen", taken)
    assert result.exit_code == 1
    assert f"fail listen    {taken}: Address already in use" in result.output


def test_a_free_port_is_left_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    assert [listener("listen", address).level for _ in range(2)] == ["ok", "ok"]


def test_unix_sockets_new_left_over_and_in_use(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    assert listener("listen", f"unix:{path}").level == "ok"
    assert not path.exists()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert listener("listen", f"unix:{path}").says == f"unix:{path}: Address already in use"
    assert listener("listen", f"unix:{path}").level == "ok"
    assert path.exists()
    assert listener("listen", f"unix:{tmp_path}/no/socket").level == "fail"


def test_wrong_settings_exit_with_2() -> None:
    assert run("--set", "compute.threads=-1").exit_code == 2


@pytest.mark.parametrize(
    ("cpuinfo", "levels"),
    [(f"model name : x\n{AMX}", ["ok"]), ("model name : x\nflags : avx2\n", ["ok", "warn"])],
    ids=["AMX", "AVX2"],
)
def test_the_lack_of_an_instruction_set_is_a_warning(
    cpuinfo: str, levels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    file = tmp_path / "cpuinfo"
    file.write_text(cpuinfo + "\nmodel name : y\nflags : amx_int8\n")
    assert [finding.level for finding in processor(file)] == levels
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in [finding.says for finding in processor(file)][-1]
    assert [finding.level for finding in processor(tmp_path / "none")] == ["note"]


def test_more_threads_than_granted_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoder.threads.usable_cores", lambda: 1)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert [finding.level for finding in cores(0)] == ["ok", "note"]
    assert [finding.level for finding in cores(2)] == ["ok", "note", "warn"]


def test_versions_are_told_and_a_missing_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.commands.doctor.PACKAGES", ("torch", "no-such-package"))
    told, missing = software()
    assert (told.level, missing.level) == ("ok", "fail")
    assert "torch 2." in told.says
    assert missing.says == "not installed: no-such-package"


def test_the_cache_s_folder_must_be_writable_or_be_made(tmp_path: Path) -> None:
    assert cache_folder(tmp_path / "a" / "b").level == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert cache_folder(tmp_path / "file").level == "fail"


# Who can call, and how


def make_certificate(folder: Path, *options: str) -> tuple[Path, Path]:
    chain, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        subprocess.run(
            [*command, "-subj", "/CN=x", *options, "-out", chain, "-keyout", key], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    return chain, key


NAMED = ("-addext", "subjectAltName=DNS:octavo.test,IP:127.0.0.1")


def test_a_sound_certificate_is_told_with_its_names_and_its_end(tmp_path: Path) -> None:
    assert list(certificate(None, None)) == []
    files = make_certificate(tmp_path, *NAMED, "-days", "90")
    (finding,) = certificate(*files)
    end = datetime.now(UTC) + timedelta(days=90)
    assert finding.level == "ok"
    assert finding.says == f"{files[0]} for octavo.test, 127.0.0.1 is valid until {end:%Y-%m-%d}"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((*NAMED, "-days", "5"), "for 4 more days"),
        (("-days", "90"), "no subject alternative name"),
        ((*NAMED, "-days", "90", "-addext", "extendedKeyUsage=clientAuth"), "clients will refuse it"),
    ],
    ids=["soon", "nameless", "no server's"],
)
def test_a_certificate_that_clients_refuse_or_soon_will_is_a_warning(
    options: tuple[str, ...], told: str, tmp_path: Path
) -> None:
    files = make_certificate(tmp_path, *options)
    assert any(finding.level == "warn" and told in finding.says for finding in certificate(*files))


EXPIRED = """
[ca]
default_ca = own
[own]
database = index
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def test_a_certificate_of_the_past_is_a_warning(tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, *NAMED)
    for name, content in (("conf", EXPIRED), ("index", ""), ("serial", "01")):
        (tmp_path / name).write_text(content)
    ask = ["openssl", "req", "-new", "-key", str(key), "-subj", "/CN=x", "-out", "request"]
    sign = [
        "openssl",
        "ca",
        "-config",
        "conf",
        "-batch",
        "-selfsign",
        "-notext",
        "-keyfile",
        str(key),
        "-in",
        "request",
    ]
    dates = ["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"]
    for command in (ask, [*sign, *dates, "-out", str(chain)]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    ((level, says),) = told(certificate(chain, key))
    assert level == "warn"
    assert says == f"{chain}: clients will refuse it: certificate has expired"


def test_a_certificate_that_would_stop_the_server_fails(tmp_path: Path) -> None:
    chain, _ = make_certificate(tmp_path, *NAMED)
    for wrong in ((chain, chain), (chain, tmp_path / "none.pem")):
        assert [finding.level for finding in certificate(*wrong)] == ["fail"]


def told(findings: Iterator[Any]) -> list[tuple[str, str]]:
    return [(finding.level, finding.says) for finding in findings]


def with_keys(path: Path, clients: dict[str, ClientSettings] | None = None, **server: Any) -> Settings:
    return Settings(server=ServerSettings(keys_file=path, **server), clients=clients or {})


def add_key(path: Path, client: str, expires: datetime | None = None) -> str:
    key, token = Key.make(expires)
    with changing_keys(path) as kept:
        kept.append(KeptKey(key, client, datetime.now(UTC)))
    return token


def test_keys_are_counted_and_those_that_are_not_taken_are_told(tmp_path: Path) -> None:
    path, past = tmp_path / "keys.json", datetime.now(UTC) - timedelta(days=1)
    assert told(keys(with_keys(path))) == [("ok", f"0 valid, of 0 clients; {path}")]
    tokens = [add_key(path, "acme"), add_key(path, "acme"), add_key(path, "acme", past), add_key(path, "gone")]
    clients = {"acme": ClientSettings(), "more": ClientSettings(keys=(str(Key.make()[0]),))}
    found = told(keys(with_keys(path, clients)))
    assert found == [
        ("ok", f"3 valid, of 2 clients; {path}"),
        ("note", "1 expired"),
        ("warn", "refused, because these clients do not exist or are disabled: gone"),
    ]
    assert not any(token.split("_")[2] in says for token in tokens for _, says in found)


def test_keys_that_cannot_be_read_fail(tmp_path: Path) -> None:
    (tmp_path / "keys.json").write_text("{")
    ((level, says),) = told(keys(with_keys(tmp_path / "keys.json")))
    assert level == "fail"
    assert "is not JSON" in says


def test_settings_that_shut_everybody_out_or_let_anybody_in_are_told(tmp_path: Path) -> None:
    path, nobody = tmp_path / "keys.json", {"anonymous": ClientSettings(disabled=True)}
    remote: dict[str, Any] = {"listen": ("0.0.0.0:0",), "allow_plaintext_remote": True}
    assert ("warn", "no client can call: there is no valid key, and anonymous is disabled") in told(
        keys(with_keys(path, nobody))
    )
    assert told(keys(with_keys(path, **remote)))[1:] == [
        ("warn", "no other machine can call 0.0.0.0:0: there is no valid key")
    ]
    assert told(keys(with_keys(path, **remote, allow_anonymous_remote=True)))[1:] == [
        ("note", "anyone who can reach 0.0.0.0:0 may call without a key")
    ]
    add_key(path, "acme")
    found = told(keys(with_keys(path, {"acme": ClientSettings()}, **remote, allow_plaintext_credentials=True)))
    assert found[1:] == [("warn", "keys sent to 0.0.0.0:0 can be read by others: there is no TLS")]


def limits(url: str, **more: Any) -> LimitSettings:
    return LimitSettings(storage=StorageUrl(url), **more)


def test_a_redis_that_is_gone_is_a_warning_that_says_what_follows_and_no_password() -> None:
    assert told(redis(LimitSettings())) == []
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        url = f"redis://:hunter2@127.0.0.1:{deaf.getsockname()[1]}/0"
        ((level, says),) = told(redis(limits(url)))
        assert level == "warn"
        assert "count alone" in says
        assert "hunter2" not in says
        ((_, says),) = told(redis(limits(url, when_storage_fails="closed")))
        assert "refused" in says


def test_a_redis_that_answers_is_told(tmp_path: Path) -> None:
    try:
        with redis_server.running(tmp_path) as running:
            assert told(redis(limits(running.url))) == [("ok", f"{running.url} answers")]
    except redis_server.NoRedis as reason:
        pytest.skip(str(reason))


def test_the_report_has_them_all(folder: Path, tmp_path: Path) -> None:
    chain, key = make_certificate(tmp_path, *NAMED, "-days", "90")
    tls = ("--set", f"server.tls_certificate={chain}", "--set", f"server.tls_key={key}")
    keys_file = ("--set", f"server.keys_file={tmp_path / 'keys.json'}")
    result = run("--model", str(folder), *tls, *keys_file, "--set", "limits.storage=redis://127.0.0.1:1/0")
    assert result.exit_code == 0, result.output
    subjects = {line[5:].split()[0]: line.split()[0] for line in result.output.splitlines()}
    assert (subjects["tls"], subjects["keys"], subjects["redis"]) == ("ok", "ok", "warn")
