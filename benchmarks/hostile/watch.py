"""Observes the server's resident memory and CPU time from outside."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from benchmarks.served import every, resident_mb

_PERIOD_SECONDS = 0.1


@dataclass(slots=True)
class Watch:
    """What a process took while it was watched: its peak over the memory that it had before, and its cores."""

    growth_mb: float = 0.0
    cores: float = 0.0


@contextlib.contextmanager
def watching(pid: int) -> Iterator[Watch]:
    """Sample resident memory ten times a second until the block ends; the cores are known then."""
    found, before, cpu, began = Watch(), resident_mb(pid), cpu_seconds(pid), time.monotonic()

    def look() -> None:
        with contextlib.suppress(psutil.Error):  # the process is gone
            found.growth_mb = max(found.growth_mb, resident_mb(pid) - before)

    with every(_PERIOD_SECONDS, look):
        yield found
    found.cores = (cpu_seconds(pid) - cpu) / (time.monotonic() - began)


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system
