"""The generic form's fused multiply-adds are libm's, on random numbers and where rounding twice would differ."""

import shlex
import subprocess
from pathlib import Path

import pytest

from encoder.native import build, library


def test_multiply_adds_are_rounded_once(tmp_path: Path) -> None:
    compiler = build.find_compiler()
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path / "fma"
    flags = (*library.BASE_FLAGS, "-DOCTAVO_FORM=generic", f"-I{library.FOLDER}")
    source = Path(__file__).with_name("fma.cpp")
    subprocess.run((*shlex.split(compiler), *flags, str(source), "-o", str(program)), check=True)
    done = subprocess.run((program, "2000000"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
