"""Drives contenders' processes, one in total or one per core."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks.peers.environment import interpreter
from benchmarks.peers.protocol import Ids, Vectors
from benchmarks.served import last_line, stop

ROOT = Path(__file__).parents[2]


class WorkerError(RuntimeError):
    """A worker could not do what it was asked; the message is the worker's."""


class Worker:
    """A contender's process."""

    def __init__(self, peer: str, command: Sequence[str], log: Path) -> None:
        self._peer, self._log = peer, log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
                cwd=ROOT,
                env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
            )

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    def send(self, **request: Any) -> None:
        """Ask, without waiting for the reply."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # receive() reports what happened
            self._process.stdin.write(json.dumps(request) + "\n")

    def receive(self) -> dict[str, Any]:
        """Wait for the reply to the oldest request that has none yet.

        Raises:
            WorkerError: the worker failed or died.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise WorkerError(f"{self._peer} ended with status {status}; its last line was: {last_line(self._log)}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerError(f"{self._peer}: {reply['error']}")
        return reply

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        stop(self._process)


class Team:
    """The processes of one contender: the first works alone on all cores, or all of them with one core each."""

    def __init__(self, peer: str, size: int, scratch: Path, *, install: bool = True) -> None:
        own = peer == "octavo"  # is what runs here; all others come from an environment of their own
        python = Path(sys.executable) if own else interpreter(peer, install=install)
        command = [str(python), "-m", f"benchmarks.peers.worker_{peer}"]
        self._workers = [Worker(peer, command, scratch / f"{peer}-{index}.log") for index in range(size)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.close()

    def give(self, name: str, segments: Sequence[Ids]) -> None:
        """Hand a workload to all."""
        self._ask_all(op="workload", name=name, segments=[ids.tolist() for ids in segments])

    def load(self, model: str, folder: Path, *, alone: bool = False, **options: Any) -> dict[str, Any]:
        """Load a model in all processes, or in the first one; return what the first reports of it."""
        request = {"op": "load", "model": model, "folder": str(folder), "options": options}
        return self._ask_all(**request, first=alone)

    def run(self, model: str, workload: str, batch: int, threads: int, repeats: int = 1) -> list[float]:
        """Run on the first process alone; the seconds of each repeat."""
        seconds: list[float] = self._ask_all(
            first=True, op="run", model=model, workload=workload, batch=batch, threads=threads, repeats=repeats
        )["seconds"]
        return seconds

    def run_a_core_each(self, model: str, workload: str, batch: int) -> float:
        """Share the work out to all processes, one thread each; the seconds of the slowest."""
        size = len(self._workers)
        for index, worker in enumerate(self._workers):
            worker.send(op="run", model=model, workload=workload, batch=batch, threads=1, share=[index, size])
        seconds: list[float] = [reply["seconds"][0] for reply in self._replies(self._workers)]
        return max(seconds)

    def vectors(self, model: str, workload: str, threads: int) -> Vectors:
        """Return what the contender makes of a workload."""
        reply = self._ask_all(
            first=True, op="run", model=model, workload=workload, batch=4, threads=threads, vectors=True
        )
        return np.asarray(reply["vectors"], np.float32)

    def read(self, model: str, texts: Sequence[str], batch: int, threads: int) -> tuple[Vectors, float]:
        """Read texts in the first process; return their vectors and the seconds."""
        reply = self._ask_all(first=True, op="read", model=model, texts=list(texts), batch=batch, threads=threads)
        return np.asarray(reply["vectors"], np.float32), reply["seconds"]

    @property
    def pid(self) -> int:
        """The id of the first process."""
        return self._workers[0].pid

    def _ask_all(self, *, first: bool = False, **request: Any) -> dict[str, Any]:
        asked = self._workers[:1] if first else self._workers
        for worker in asked:
            worker.send(**request)
        return self._replies(asked)[0]

    @staticmethod
    def _replies(workers: Sequence[Worker]) -> list[dict[str, Any]]:
        """Hear every worker before a failure is raised, or the next request would read a stale reply."""
        failures: list[WorkerError] = []
        replies = []
        for worker in workers:
            try:
                replies.append(worker.receive())
            except WorkerError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]
        return replies
