"""A Ray cluster as the engine of a job.

    inputs ──▶ reader ──▶ parts ──▶ actors ──▶ output
               a task     blocks    a server and a writer each

An actor does with a part what `octavo batch --local` does with all of them, by the same code. Ray restarts actors that
die and computes their parts again. Errors travel as values, since Ray's own wrap them.
"""

import contextlib
import logging
import os
import pickle
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from octavo.batch.errors import BatchError
from octavo.batch.job import Job, Started
from octavo.batch.manifest import Served
from octavo.batch.progress import Progress
from octavo.batch.replicas import Actor, Replicas
from octavo.batch.sources import first_line
from octavo.batch.summary import Counts
from octavo.batch.work import Work
from octavo.cli.exits import Unreachable


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster that this process is connected to."""

    replicas: Replicas

    def probe(self, job: Job) -> Served:
        """Probe the results of one server; all have to have its fingerprint."""
        return self.replicas.probe(job.ask)

    def work(self, started: Started, counts: Counts, progress: Progress) -> None:
        """Process all parts that are not completed."""
        import ray  # noqa: PLC0415 - an extra

        start = ray.data.from_items([None])
        parts = start.map_batches(_read, fn_args=(started,), batch_format="pyarrow", num_cpus=0)  # actors have them all
        try:
            for row in self.replicas.map(parts, _Writer, started, batch_size=1).iter_rows():
                some: Counts = _unpacked(row["packed"])
                counts.merge(some)
                progress.done_before(some.before.documents + sum(some.others.values()))
                progress.advance(counts.run)
                counts.check(started.job.max_errors)
        except ray.exceptions.RayError as fault:
            raise BatchError(f"Ray: {str(fault).strip().splitlines()[-1]}") from fault


@contextlib.contextmanager
def cluster(
    number: int | None, cpus: int | None, gpus: float, model: str | None, max_document_bytes: int
) -> Iterator[Cluster]:
    """Connect to the cluster that RAY_ADDRESS or Ray's configuration names, or start one on this machine.

    Raises:
        BatchError: it has too few cores.
        Unreachable: there is none.
    """
    import ray.data  # noqa: PLC0415

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it warns of does not concern a job
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as fault:
        raise Unreachable(f"no Ray cluster can be reached or started: {first_line(fault)}") from fault
    signal.signal(signal.SIGTERM, handler)  # in place of Ray's
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where Ray reports what died
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.target_max_block_size = 1  # so that each part is a block
        nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
        replicas, cores = sizes(nodes, number, cpus)
        yield Cluster(Replicas(replicas, replicas, cores, gpus, model, max_document_bytes))


def sizes(nodes: Sequence[int], number: int | None, cpus: int | None) -> tuple[int, int]:
    """The number of replicas, by default one for each node that has cores, and the cores of each, by default the most.

    Raises:
        BatchError: there are too few cores.
    """
    number = number or (sum(node // cpus for node in nodes) if cpus else sum(node > 0 for node in nodes)) or 1
    fitting = (each for each in range(max(nodes, default=0), 0, -1) if sum(node // each for node in nodes) >= number)
    most = next(fitting, 0)
    if most < (cpus or 1):
        raise BatchError(
            f"{number} replicas of {cpus or 1} CPUs do not fit the cluster's nodes, which have {nodes} CPUs"
        )
    return number, cpus or most


class _Writer(Actor):
    """Computes parts and writes them to the output."""

    def __init__(self, replicas: Replicas, started: Started) -> None:
        super().__init__(replicas)
        self._started = started

    def __call__(self, batch: Any) -> Any:
        job, output, done = self._started.job, self._started.output, self._started.done
        work = Work(output, done, self._started.layout, job.share, None, Progress(0, shown=False))
        try:
            self.do(work, _unpacked(batch["packed"][0].as_py()), self._started.ask)
        except BatchError as fault:
            return _packed(fault)
        return _packed(work.counts)


def _read(_: Any, started: Started) -> Iterator[Any]:
    """Read the job's parts, one by one."""
    try:
        for _, part in groupby(started.placed(), key=lambda found: found[0].part):
            yield _packed(list(part))
    except BatchError as fault:
        yield _packed(fault)


def _packed(value: object) -> Any:
    """A block of one row, which holds any value."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.table({"packed": pa.array([pickle.dumps(value)], pa.large_binary())})


def _unpacked(data: bytes) -> Any:
    """The value of a row. If it is an error, raise it."""
    value = pickle.loads(data)  # noqa: S301 - from another process of this job
    if isinstance(value, Exception):
        raise value
    return value
