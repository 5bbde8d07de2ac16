"""Runs a server for a scenario: started as by a user, and observed from outside."""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

PROGRAM = "from octavo.cli import main; main()"
_READY = "ready "
_MIB = 1 << 20


class ServerError(RuntimeError):
    """The server did not come up, or ended; the message has its last line."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: where it answers, and what can be seen of its process."""

    address: str
    metrics_address: str
    pid: int

    def metric(self, name: str, **labels: str) -> float:
        """Scrape one sample; of several with this name and these labels, their sum.

        Raises:
            LookupError: no sample has this name. Labels that none has give 0.

        """
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=10) as reply:
            families = text_string_to_metric_families(reply.read().decode())
            samples = [sample for family in families for sample in family.samples if sample.name == name]
        if not samples:
            raise LookupError(f"the server has no metric {name}")
        return sum(sample.value for sample in samples if labels.items() <= sample.labels.items())

    def forget_peak(self) -> None:
        """Let the peak of resident memory begin anew."""
        forget_peak(self.pid)

    def peak_memory(self) -> float:
        """Read the peak of resident memory since it was forgotten, in MiB."""
        return peak_memory(self.pid)


def forget_peak(pid: int) -> None:
    """Let a process' peak of resident memory begin anew (Linux, proc(5): clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def peak_memory(pid: int) -> float:
    """Read a process' peak of resident memory since it was forgotten, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]  # none, if it has just ended
    return int(lines[0].split()[1]) * 1024 / _MIB if lines else 0.0


@contextmanager
def serve(*flags: str, config: str = "", within: float = 120.0, program: str = PROGRAM) -> Iterator[Served]:
    """Run `octavo serve` on free loopback ports until the block ends; `config` is a TOML file's text.

    `program` is what Python runs as the command `octavo`.

    Raises:
        ServerError: it was not ready `within` seconds.
    """
    metrics_address = f"127.0.0.1:{free_port()}"
    with tempfile.TemporaryDirectory(prefix="octavo-served-") as scratch:
        file, log = Path(scratch) / "octavo.toml", Path(scratch) / "log"
        if config:
            file.write_text(config, encoding="utf-8")
        command = [
            *(sys.executable, "-c", program, "serve"),
            *(("--config", str(file)) if config else ()),
            *("--listen", "127.0.0.1:0", "--set", f"metrics.listen={metrics_address}"),
            *("--cache-dir", str(Path(scratch) / "cache"), *flags),  # cold, whatever was measured before
        ]
        with log.open("wb") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=_environment())
        try:
            yield Served(_ready(process, log, within), metrics_address, process.pid)
        finally:
            stop(process)


def _environment() -> dict[str, str]:
    """Ours without its `OCTAVO_…` settings: what is measured is what the flags say."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}


def _ready(process: subprocess.Popen[bytes], log: Path, within: float) -> str:
    """Wait for the ready line; the first address in it."""
    assert process.stdout is not None
    until, said = time.monotonic() + within, b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := until - time.monotonic()) > 0 and selector.select(left):
            chunk = _read(process.stdout)
            said += chunk
            for line in said.decode(errors="replace").splitlines(keepends=True):
                if line.startswith(_READY) and line.endswith("\n"):
                    return line.split()[1]
            if not chunk:  # it closed its output: it ends
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                break
    state = f"not ready after {within:g} s" if process.poll() is None else f"ended with status {process.returncode}"
    raise ServerError(f"the server: {state}; {last_line(log)}")


def _read(pipe: IO[bytes]) -> bytes:
    return os.read(pipe.fileno(), 65536)


def last_line(log: Path) -> str:
    """Read the last line of what a process said, for a message about its end."""
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it said nothing"])[-1].strip()


def stop(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """End a process: gently first, and by force if it does not end."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout:
        process.stdout.close()


def free_port() -> int:
    """Find a port of loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
