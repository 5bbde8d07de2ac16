"""Observes the server's resident memory and CPU time from outside."""

import os
import time
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import Self

import psutil

__all__ = ["Watch", "cpu_seconds", "resident_mb"]

_PERIOD_SECONDS = 0.1
_MIB = 1 << 20


def resident_mb(pid: int) -> float:
    """Resident memory in MiB (Linux, proc(5): statm)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads so far."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


class Watch:
    """Samples resident memory ten times a second while its block runs."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = resident_mb(pid)
        self._peak = self._before
        self._cpu = cpu_seconds(pid)
        self._began = time.monotonic()
        self._over = Event()
        self._thread = Thread(target=self._sample, daemon=True)
        self.cores = 0.0

    @property
    def growth_mb(self) -> float:
        """Peak over what it was before."""
        return self._peak - self._before

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.cores = (cpu_seconds(self._pid) - self._cpu) / (time.monotonic() - self._began)

    def _sample(self) -> None:
        while not self._over.wait(_PERIOD_SECONDS):
            try:
                self._peak = max(self._peak, resident_mb(self._pid))
            except OSError:  # the process is gone
                return
