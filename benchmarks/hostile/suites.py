"""The test suite on each supported Python version."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks.figures import Figure, Figures, Missing

_PROMISED = ("3.11.2", "3.11.7", "3.13")
_SECONDS = 3600.0
_ROOT = Path(__file__).parents[2]


def passed(pythons: Sequence[Path]) -> Figures:
    """Run the suite with each of these Pythons; their environments need the test dependencies."""
    versions = {python: _version(python) for python in pythons}
    promised = {wanted: python for wanted in _PROMISED for python, found in versions.items() if _is(found, wanted)}
    if missing := [wanted for wanted in _PROMISED if wanted not in promised]:
        return {"pythons_passed": Missing(f"not run on {', '.join(missing)}; --suite PYTHON runs it, for each")}
    passes = {wanted: _passes(python) for wanted, python in promised.items()}
    return {
        "pythons_passed": Figure(sum(passes.values()) / len(passes), "share", n=len(passes)),
        **{f"python_passed.{wanted}": Figure(float(told), "") for wanted, told in passes.items()},
    }


def _version(python: Path) -> str:
    told = subprocess.run([python, "-c", "import platform; print(platform.python_version())"], capture_output=True)  # noqa: PLW1510
    return told.stdout.decode().strip()


def _is(found: str, wanted: str) -> bool:
    return found == wanted or found.startswith(f"{wanted}.")


def _passes(python: Path) -> bool:
    click.echo(f"  the suite on {python}", err=True)
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"], cwd=_ROOT, timeout=_SECONDS, check=False
    )
    return done.returncode == 0
