"""Building the native core, finding it, and choosing its instruction set by flags and settings."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from encoder.native import build, library
from encoder.ops.native import best

VNNI = "avx512f avx512bw avx512cd avx512dq avx512vl avx512_vnni bmi2 fma"


def _permitted(monkeypatch: pytest.MonkeyPatch, flags: str, onednn: str = "", capability: str = "AVX512") -> object:
    monkeypatch.setattr(library, "processor_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", onednn)
    try:
        return library.permitted_sets()
    except library.NativeUnavailableError as error:
        return str(error)


@pytest.mark.parametrize(
    ("flags", "sets"),
    [
        (VNNI, ("vnni",)),
        (f"{VNNI} avx512_bf16", ("bf16", "vnni")),
        (f"{VNNI} avx512_bf16 amx_tile amx_int8 amx_bf16", ("amx", "bf16", "vnni")),
        (f"{VNNI} amx_tile amx_int8 amx_bf16", ("vnni",)),
        (f"{VNNI} avx512_bf16 amx_tile amx_int8", ("bf16", "vnni")),
    ],
)
def test_flags_choose_the_set(monkeypatch: pytest.MonkeyPatch, flags: str, sets: tuple[str, ...]) -> None:
    assert _permitted(monkeypatch, flags) == sets


@pytest.mark.parametrize(
    ("setting", "sets"),
    [
        ("AVX512_CORE_VNNI", ("vnni",)),
        ("avx512_core_bf16", ("bf16", "vnni")),
        ("AVX512_CORE_AMX", ("amx", "bf16", "vnni")),
        ("ALL", ("amx", "bf16", "vnni")),
        ("DEFAULT", ("amx", "bf16", "vnni")),
    ],
)
def test_onednns_limit_is_ours(monkeypatch: pytest.MonkeyPatch, setting: str, sets: tuple[str, ...]) -> None:
    everything = f"{VNNI} avx512_bf16 amx_tile amx_int8 amx_bf16"
    assert _permitted(monkeypatch, everything, onednn=setting) == sets


def test_where_nothing_is_permitted_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ONEDNN_MAX_CPU_ISA" in str(_permitted(monkeypatch, VNNI, onednn="AVX2"))
    assert "ONEDNN_MAX_CPU_ISA" in str(_permitted(monkeypatch, VNNI, onednn="AVX512_CORE"))
    assert "AVX2" in str(_permitted(monkeypatch, VNNI, capability="AVX2"))
    assert "processor" in str(_permitted(monkeypatch, "sse2 avx2 avx512f"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "vnni"),
        ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "ALL"}, "PyTorch uses AVX2 here, not AVX-512"),
    ],
)
def test_settings_hold_in_a_fresh_process(settings: dict[str, str], expected: str) -> None:
    try:
        library.permitted_sets()
        library.find()
    except library.NativeUnavailableError as error:
        pytest.skip(str(error))
    code = (
        "from encoder.ops.native import NativeUnavailableError, best\n"
        "try: print(best().instruction_set)\n"
        "except NativeUnavailableError as error: print(error)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_a_set_that_the_kernel_withholds_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        least = library.permitted_sets()[-1]
        library.find()
    except library.NativeUnavailableError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(library, "permitted_sets", lambda: ("withheld", least))
    assert best().instruction_set == least
    monkeypatch.setattr(library, "permitted_sets", lambda: ("withheld",))
    with pytest.raises(library.NativeUnavailableError, match="withheld"):
        best()


def test_the_key_follows_every_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copies = []
    for path in library.sources():
        copies.append(tmp_path / path.name)
        copies[-1].write_bytes(path.read_bytes())
    monkeypatch.setattr(library, "sources", lambda: tuple(copies))
    keys = {library.key.__wrapped__()}
    assert keys == {library.key()}
    for path in copies:
        path.write_bytes(path.read_bytes() + b"\n")
        keys.add(library.key.__wrapped__())
    assert len(keys) == len(copies) + 1


def test_without_a_compiler_the_reference_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler; the reference serves" in build.ensure()
    with pytest.raises(library.NativeUnavailableError, match=r"encoder\.native\.build"):
        library.find()


def test_a_compiler_that_refuses_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    refusing = tmp_path / "c++"
    refusing.write_text('#!/bin/sh\n[ "$1" = --version ] && echo refusing 1.0 && exit\necho no such flag >&2; exit 1\n')
    refusing.chmod(0o755)
    folder = tmp_path / "builds"
    monkeypatch.setattr(library, "folders", lambda: (folder,))
    monkeypatch.setenv("CXX", str(refusing))
    with pytest.raises(build.BuildError, match="no such flag"):
        build.ensure()
    assert list(folder.iterdir()) == []


def test_a_build_is_made_once_for_each_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def pretend(compiler: str, folder: Path) -> Path:
        target = library.build_of(folder)
        target.mkdir(mode=0o755, exist_ok=True)
        library.library_of(target).touch(mode=0o644)
        (target / "compiler.txt").write_text(build.describe(compiler))
        made.append(compiler)
        return target

    tmp_path.chmod(0o755)
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    monkeypatch.setattr(build, "build", pretend)
    for version in ("one", "one", "two"):
        compiler = tmp_path / f"c++-{version}"
        compiler.write_text(f"#!/bin/sh\necho {version}\n")
        compiler.chmod(0o755)
        monkeypatch.setenv("CXX", str(compiler))
        build.ensure()
    assert [Path(compiler).name for compiler in made] == ["c++-one", "c++-two"]


def test_a_library_that_others_can_write_is_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setattr(library, "folders", lambda: (tmp_path,))
    target = library.build_of(tmp_path)
    target.mkdir(mode=0o755)
    library.library_of(target).touch(mode=0o644)
    assert library.find() == target
    for path in (library.library_of(target), target, tmp_path):
        mode = path.stat().st_mode
        path.chmod(mode | 0o020)
        with pytest.raises(library.NativeUnavailableError, match="replaced"):
            library.find()
        path.chmod(mode)


def test_a_folder_that_cannot_be_written_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setattr(library, "folders", lambda: (blocked / "builds", tmp_path / "cache"))
    assert build.writable_folder() == tmp_path / "cache"
    monkeypatch.setattr(library, "folders", lambda: (blocked / "builds",))
    with pytest.raises(build.BuildError):
        build.writable_folder()
