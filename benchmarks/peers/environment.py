"""A virtual environment for each peer, created once from its pinned requirements."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import click

from server.config.folders import cache_home

_MADE = "requirements.blake2b"


class PeerError(RuntimeError):
    """A peer cannot run here; the message says why."""


def interpreter(peer: str, *, install: bool) -> Path:
    """Find the Python of a peer's environment under `$XDG_CACHE_HOME/octavo/peers`; make it if it is not there.

    Raises:
        PeerError: it is not installed and must not be, or it would not install.
    """
    requirements = Path(__file__).with_name(f"{peer}.txt")
    home = cache_home() / "peers" / peer
    python = home / "bin" / "python"
    digest = hashlib.blake2b(requirements.read_bytes(), digest_size=16).hexdigest()
    made = home / _MADE
    if python.exists() and made.exists() and made.read_text(encoding="ascii") == digest:
        return python
    if not install:
        raise PeerError(f"{peer} is not installed, and --no-install forbids it")
    click.echo(f"installing {peer} into {home} (once) …", err=True)
    shutil.rmtree(home, ignore_errors=True)
    _call(peer, sys.executable, "-m", "venv", str(home))
    _call(peer, str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements))
    made.write_text(digest, encoding="ascii")
    return python


def _call(peer: str, *command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PeerError(f"{peer} would not install: {last}")
