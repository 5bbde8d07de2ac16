"""A fleet for a scenario: started as a user starts it, with the settings of one server."""

import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psutil

from benchmarks.served import environment, free_port, ready, stop

PROGRAM = "from server.commands.fleet import fleet; fleet(prog_name='octavo fleet')"
ENGINE, FRONT = "ray::ServeReplica:octavo:Engine", "ray::ServeReplica:octavo:Front"
NEEDS_RAY = "needs: Ray: pip install 'octavo[ray]'"
CONFIG, LOG = "octavo.toml", "log"
SOON = 120.0


def has_ray() -> bool:
    """Whether the extra is installed."""
    return find_spec("ray") is not None


@dataclass(frozen=True, slots=True)
class Fleet:
    """A running fleet."""

    address: str
    process: "subprocess.Popen[bytes]"
    _folder: Path

    def engines(self) -> list[psutil.Process]:
        """The processes of the engines."""
        return self.processes(ENGINE)

    def processes(self, name: str) -> list[psutil.Process]:
        """The processes of a deployment."""
        return _named(self.process.pid, name)

    def log(self) -> str:
        """What it has said on standard error."""
        return (self._folder / LOG).read_text(encoding="utf-8", errors="replace")

    def kill_one(self, draw: random.Random) -> None:
        """Kill an engine as the system would for want of memory."""
        draw.choice(self.engines()).kill()

    def change(self, config: str) -> None:
        """Replace the settings file's text, and have the fleet read it."""
        (self._folder / CONFIG).write_text(config, encoding="utf-8")
        self.process.send_signal(signal.SIGHUP)

    def changed(self) -> None:
        """Wait until the last change is complete."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(b"changed"):
                return
        raise RuntimeError("the fleet has ended")


@contextmanager
def fleet(*flags: str, config: str = "", within: float = SOON) -> Iterator[Fleet]:
    """Run `octavo fleet` on free loopback ports until the block ends; `config` is a TOML file's text.

    Raises:
        ServerError: it was not ready within `within` seconds.
    """
    address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="octavo-fleet-") as scratch:
        file, log = Path(scratch) / CONFIG, Path(scratch) / LOG
        file.write_text(config, encoding="utf-8")
        command = [
            *(sys.executable, "-c", PROGRAM, "--config", str(file)),
            *("--listen", address, "--set", "metrics.listen=127.0.0.1:0"),
            *("--cache-dir", str(Path(scratch) / "cache"), *flags),
        ]
        with log.open("wb") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment())
        try:
            addresses = ready(process, log, within)
            yield Fleet(addresses[0], process, Path(scratch))
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            stop(process, within=60.0)
            psutil.wait_procs(children, 20.0)
            for child in children:
                if child.is_running():
                    child.kill()


def wait_for_engines(fleet: Fleet, number: int, within: float = SOON) -> None:
    """Wait until the front knows so many."""
    end = time.monotonic() + within
    while len(fleet.engines()) < number:
        if time.monotonic() > end:
            raise TimeoutError(f"{number} engines were not there within {within:g} s")
        time.sleep(0.2)


def _named(pid: int, name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if " ".join(process.cmdline()).startswith(name):
                found.append(process)
        except psutil.Error:
            continue
    return found
