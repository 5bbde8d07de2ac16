"""Servers as the engine of a job."""

from collections.abc import Sequence
from dataclasses import dataclass

from octavo.batch.drivers import probe
from octavo.batch.errors import OtherJob, Unserved
from octavo.batch.job import Job, Started
from octavo.batch.manifest import Served
from octavo.batch.progress import Progress
from octavo.batch.summary import Counts
from octavo.batch.work import Work
from octavo.client import Client, OctavoError


@dataclass(frozen=True, slots=True)
class Servers:
    """Servers that share a job's documents."""

    clients: Sequence[Client]

    def probe(self, job: Job) -> Served:
        """Probe the results of all servers, which must agree. Servers that do not answer are retried during the work.

        Raises:
            OtherJob: two servers differ.
            Unserved: no server answers, or one refuses.
        """
        found: dict[str, Served] = {}
        silent: Unserved | None = None
        patience = job.patience if len(self.clients) == 1 else 0.0
        for client in self.clients:
            try:
                found[client.address] = probe(client, job.ask, patience)
            except OctavoError as error:
                silent = Unserved(client.address, error)
                if not error.transient:
                    raise silent from error
        if silent and not found:
            raise silent
        (first, served), *others = found.items()
        for address, theirs in others:
            if theirs != served:
                raise OtherJob(
                    f"{first} and {address} would make results that cannot be compared: {served.model}, fingerprint "
                    f"{served.fingerprint[:12]}, and {theirs.model}, fingerprint {theirs.fingerprint[:12]}"
                )
        return served

    def work(self, started: Started, counts: Counts, progress: Progress) -> None:
        """Process all parts that are not completed."""
        job = started.job
        work = Work(started.output, started.done, started.layout, job.share, job.max_errors, progress, counts)
        work.do(started.placed(), self.clients, started.ask, job.patience)
