"""The server's wheel: its tag, the native core in it, and what it is without a compiler."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from encoder.native import build, library

ROOT = Path(__file__).parents[2]
COMPILER = """#!/bin/sh
[ "$1" = --version ] && echo "pretended 1.0" && exit
echo "$@" >> {log}
for last; do :; done
echo compiled > "$last"
"""


def wheel(folder: Path, compiler: str) -> Path:
    """Build with a compiler that writes files without content: that of the real core takes minutes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"CXX": compiler}
    command = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("octavo-*.whl")
    return built


@pytest.mark.skipif(not library.forms(), reason="there is no native core for this architecture")
def test_the_wheel_has_the_served_forms_for_any_python_and_the_sources_that_name_their_build(tmp_path: Path) -> None:
    compiler, log = tmp_path / "c++", tmp_path / "log"
    compiler.write_text(COMPILER.format(log=log))
    compiler.chmod(0o755)
    built = wheel(tmp_path / "wheels", str(compiler))
    assert built.stem.split("-")[2:] == ["py3", "none", build.platform_tag()]
    with zipfile.ZipFile(built) as archive:
        inside = {Path(name): archive.getinfo(name) for name in archive.namelist()}
    made = library.build_of(library.folders()[0]).relative_to(ROOT)
    assert [path for path in inside if "_build" in path.parts and path.parent != made] == []
    assert {made / "compiler.txt", library.library_of(made)} <= set(inside)
    assert inside[library.library_of(made)].external_attr >> 16 & 0o777 == 0o755
    assert {path.relative_to(ROOT) for path in library.sources()} <= set(inside)
    commands = log.read_text()
    assert all(f"-DOCTAVO_FORM={form} " in commands for form in library.forms())
    assert not any(f"-DOCTAVO_FORM={form} " in commands for form in library.EMULATED)
    assert "OCTAVO_WITH_EMULATED" not in commands


def test_without_a_compiler_the_wheel_is_for_any_platform_and_has_no_core(tmp_path: Path) -> None:
    built = wheel(tmp_path, "no-such-compiler")
    assert built.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(built) as archive:
        assert not any("_build" in name for name in archive.namelist())


def test_the_wheel_is_for_an_old_glibc_if_zig_compiles_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert build.platform_tag() == sysconfig.get_platform().replace("-", "_").replace(".", "_")
    (tmp_path / "ziglang.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert build.platform_tag() == f"manylinux_2_17_{library.architecture()}"
    assert f"-target {library.architecture()}-linux-gnu.2.17" in str(build.portable_compiler())
