"""A server for a scenario: started as a user starts it, observed from outside."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread, Timer
from types import MappingProxyType

import psutil
from prometheus_client.parser import text_string_to_metric_families

PROGRAM = "from octavo.cli import main; main()"
_READY = b"ready "
_MIB = 1 << 20


class ServerError(RuntimeError):
    """The server did not start, or ended; the message has its last line."""


@dataclass(frozen=True, slots=True)
class Served:
    """A running server: its addresses, metrics and memory.

    Attributes:
        http: URL of HTTP; empty unless `server.http_listen` is set.
    """

    address: str
    metrics_address: str
    pid: int
    http: str = ""

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

    def counted(self, name: str) -> float:
        """Scrape a metric that does not exist before something was counted; 0 until then."""
        try:
            return self.metric(name)
        except LookupError:
            return 0.0

    def forget_peak(self) -> None:
        """Reset the peak of resident memory."""
        forget_peak(self.pid)

    def peak_memory(self) -> float:
        """Read the peak of resident memory since it was reset, in MiB."""
        return peak_memory(self.pid)


def forget_peak(pid: int) -> None:
    """Reset a process' peak of resident memory (Linux, proc(5): clear_refs)."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def peak_memory(pid: int) -> float:
    """Read a process' peak of resident memory since it was reset, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    lines = [line for line in status.splitlines() if line.startswith("VmHWM:")]  # none, if it has just ended
    return int(lines[0].split()[1]) * 1024 / _MIB if lines else 0.0


def resident_mb(pid: int) -> float:
    """Read a process' resident memory in MiB."""
    return float(psutil.Process(pid).memory_info().rss) / _MIB


@contextmanager
def every(seconds: float, act: Callable[[], object]) -> Iterator[None]:
    """Call ``act`` periodically, in a thread, until the block ends."""
    over = Event()

    def go_on() -> None:
        while not over.wait(seconds):
            act()

    thread = Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def serve(
    *flags: str,
    config: str = "",
    within: float = 120.0,
    program: str = PROGRAM,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Served]:
    """Run `octavo serve` on free loopback ports until the block ends; ``config`` is a TOML file's text.

    ``program`` is what Python runs as the command `octavo`; ``variables`` are added to its environment.

    Raises:
        ServerError: it was not ready within ``within`` seconds.
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
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, env={**environment(), **variables}
            )
        try:
            addresses = ready(process, log, within)
            http = next((each for each in addresses if each.startswith("http")), "")
            yield Served(addresses[0], metrics_address, process.pid, http)
        finally:
            stop(process)


def environment() -> dict[str, str]:
    """Our environment without `OCTAVO_…` settings: only the flags decide what is measured."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}


def ready(process: "subprocess.Popen[bytes]", log: Path, within: float) -> list[str]:
    """Wait for the ready line; the addresses in it.

    Raises:
        ServerError: it did not come in time.
    """
    assert process.stdout is not None
    too_late = Timer(within, process.kill)
    too_late.start()
    try:
        for line in process.stdout:
            if line.startswith(_READY):
                return line.decode().split()[1:]
        state = f"ended with status {process.wait()}" if too_late.is_alive() else f"not ready after {within:g} s"
    finally:
        too_late.cancel()
    raise ServerError(f"the server: {state}; {last_line(log)}")


def last_line(log: Path) -> str:
    """Read the last line of a process' log, for an error message."""
    return (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["its log is empty"])[-1].strip()


def stop(process: "subprocess.Popen[bytes] | subprocess.Popen[str]", within: float = 20.0) -> None:
    """Terminate a process, and kill it if it does not end."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(within)
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
