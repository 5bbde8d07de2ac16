"""Whether the wheel serves 8 bits where there is neither a compiler nor the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks import golden

ROOT = Path(__file__).parents[1]
_MOST = 16
"""Segments of the largest cases that are run."""
_SERVED = """
from encoder.native import library
from encoder.native.core import runs_here
from encoder.ops.select import choose

if choose("auto", "cpu").scheme == "int8":
    print(*filter(runs_here, library.forms()))
"""


def wheel_serves(work: Path) -> float:
    """Build the wheel, install it into an empty environment, and return the share of forms with the golden digests.

    Forms that this processor cannot run do not count. 0 if the environment would not serve 8 bits.

    Args:
        work: an empty folder outside the checkout.

    Raises:
        subprocess.CalledProcessError: the wheel could not be built or installed.
    """
    subprocess.run(("make", "wheel", f"PYTHON={sys.executable}", f"DIST={work / 'dist'}"), cwd=ROOT, check=True)
    python = installed(next((work / "dist").glob("octavo-*.whl")), work / "environment")
    copy = Path(shutil.copy(golden.__file__, work))
    forms = _output(python, "-c", _SERVED).split()
    same = sum(_is_golden(json.loads(_output(python, str(copy), form, str(_MOST)))) for form in forms)
    return same / len(forms) if forms else 0.0


def installed(wheel: Path, environment: Path) -> Path:
    """Install a wheel with pinned dependencies into a new environment, and return its Python."""
    subprocess.run((sys.executable, "-m", "venv", environment), check=True)
    python = environment / "bin" / "python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run((*pip, "-c", ROOT / "constraints.txt", wheel), check=True, env=variables)
    return python


def _output(python: Path, *arguments: str) -> str:
    """What Python prints where PATH has no programs: no compiler, among others."""
    folder = python.parents[1]  # also for a home, so that no build in the user's cache is found
    environment = {"PATH": str(python.parent), "HOME": str(folder)}
    command = (str(python), *arguments)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _is_golden(found: dict[str, str]) -> bool:
    expected = golden.golden()
    return bool(found) and all(digest == expected[case] for case, digest in found.items())
