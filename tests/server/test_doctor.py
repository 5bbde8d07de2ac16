"""`octavo doctor`: what would stop the server is a failure, what would slow it down is said."""

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner, Result

from server.commands.doctor import cache_folder, cores, doctor, listener, processor, served, software
from server.settings import ModelSettings, cache_home

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
    findings = served(ModelSettings(path=str(folder), scheme=scheme, device="cpu"), 4096)
    told = [finding.says for finding in findings if (finding.level, finding.subject) == ("ok", "kernels")]
    assert len(told) == 1
    assert told[0].startswith(f"tiny: {scheme} on cpu, ")


def test_a_missing_model_fails_and_names_what_there_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    known = tmp_path / "octavo" / "models" / "known"
    known.mkdir(parents=True)
    (known / "config.json").write_text("{}")
    (finding,) = served(ModelSettings(path="knwon"), 4096)
    assert finding.level == "fail"
    assert "does not exist" in finding.says
    assert finding.says.endswith("; there are: known")


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
    assert f"fail listen    {taken}: address already in use" in result.output


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
        assert listener("listen", f"unix:{path}").says == f"unix:{path}: address already in use"
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
