"""A job from its options to its summary."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from octavo.batch import manifest as manifests
from octavo.batch.documents import Document, documents
from octavo.batch.drivers import Ask, probe
from octavo.batch.errors import InputError, OtherJob, Unserved
from octavo.batch.manifest import Manifest, Options, Vectors
from octavo.batch.output import MANIFEST, Output
from octavo.batch.parts import Place, Share, Size, placed
from octavo.batch.progress import Progress
from octavo.batch.records import Layout
from octavo.batch.rows import Reading
from octavo.batch.sources import Source, find, shown
from octavo.batch.summary import Tally
from octavo.batch.survey import Digest, digest, sample, survey
from octavo.batch.work import Work
from octavo.client import Client, OctavoError


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done.

    Attributes:
        inputs: paths and URIs.
        output: the folder, as a path or URI.
        options: what decides the output.
        ask: the same, as the client takes it.
        reading: the same, as the readers of files take it.
        size: of parts.
        sample: how many documents to take, None for all.
        input_format: what all files hold; None goes by their names.
        share: which parts this machine does.
        max_errors: how many rows may fail, None for any number.
        patience: seconds for which a server is sought.
    """

    inputs: tuple[str, ...]
    output: str
    options: Options
    ask: Ask
    reading: Reading
    size: Size
    sample: int | None
    input_format: str | None
    output_format: str
    share: Share
    max_errors: int | None
    patience: float

    def sources(self, output: Output | None = None) -> list[list[Source]]:
        """The files of each input.

        Raises:
            InputError: there are none, or the output lies among them.
        """
        found = find(self.inputs, self.input_format)
        for given in self.inputs:
            if output and output.touches(given):
                raise InputError(f"{shown(given)} and the output {output.uri} lie in one another")
        return found

    def documents(self, sources: list[list[Source]], rows: int) -> Iterator[Document]:
        """All documents of the input, or the sample of them, in order."""
        return (document for _, document in self.placed(sources, rows))

    def placed(self, sources: list[list[Source]], rows: int) -> Iterator[tuple[Place, Document]]:
        """The same with the places of their rows."""
        flat = [source for files in sources for source in files]
        chosen = None if self.sample is None else sample(rows, self.sample)
        return placed(documents(flat, self.options.columns, self.reading), self.size, chosen)

    def rows(self, rows: int) -> int:
        """How many of so many documents are taken."""
        return rows if self.sample is None else min(rows, self.sample)


def run(job: Job, connect: AbstractContextManager[Sequence[Client]]) -> dict[str, Any]:
    """Do a job, or the rest of it; the summary.

    Raises:
        BatchError: it cannot be done, or not be finished.
    """
    start = time.monotonic()
    output = Output(job.output, job.output_format)
    output.prepare()
    sources = job.sources(output)
    before = output.read(MANIFEST)
    begun = Manifest.load(before) if before else None
    if begun:
        manifests.check_options(begun, job.options)
    key = begun.key if begun else manifests.new_key()
    inputs = tuple(digest(*each, bytes.fromhex(key)) for each in zip(job.inputs, sources, strict=True))
    if begun:
        manifests.check_inputs(begun, inputs)
    with connect as clients:
        manifest = _begin(job, output, begun, key, inputs, sources, clients)
        ask = Ask(job.ask.task, {**job.ask.arguments, "expected_fingerprint": manifest.vectors.fingerprint})
        with Progress(job.rows(manifest.survey.rows)) as progress:
            work = Work(output, Layout.of(manifest), job.share, job.max_errors, progress)
            ready = time.monotonic()
            try:
                work.do(job.placed(sources, manifest.survey.rows), clients, ask, job.patience)
            except (KeyboardInterrupt, SystemExit):
                progress.say(f"interrupted: {work.run.documents:,} documents in this run; the same command goes on")
                raise
        return _finish(job, output, manifest, work, ready - start, time.monotonic() - ready)


def _begin(
    job: Job,
    output: Output,
    begun: Manifest | None,
    key: str,
    inputs: tuple[Digest, ...],
    sources: list[list[Source]],
    clients: Sequence[Client],
) -> Manifest:
    """The manifest: that of the job which is gone on with, or a new one, written before all else."""
    vectors = _vectors(job, clients)
    if begun:
        manifests.check_vectors(begun, vectors)
        return begun
    flat = [source for files in sources for source in files]
    found = survey(flat, job.options.columns, job.reading)
    manifest = Manifest(key, job.options.named(), inputs, found, vectors)
    output.write(MANIFEST, manifest.dump())
    return manifest


def _vectors(job: Job, clients: Sequence[Client]) -> Vectors:
    """What the servers make, which has to be the same; who does not answer is sought during the work.

    Raises:
        OtherJob: two of them differ.
        Unserved: none answers, or one refuses.
    """
    found: dict[str, Vectors] = {}
    silent: Unserved | None = None
    for client in clients:
        try:
            found[client.address] = probe(client, job.ask, job.patience if len(clients) == 1 else 0.0)
        except OctavoError as error:
            silent = Unserved(client.address, error)
            if not error.transient:
                raise silent from error
    if silent and not found:
        raise silent
    (first, vectors), *others = found.items()
    for address, theirs in others:
        if theirs != vectors:
            raise OtherJob(
                f"{first} and {address} would make vectors that cannot share an index: {vectors.model}, fingerprint "
                f"{vectors.fingerprint[:12]}, and {theirs.model}, fingerprint {theirs.fingerprint[:12]}"
            )
    return vectors


def _finish(
    job: Job, output: Output, manifest: Manifest, work: Work, preparing: float, working: float
) -> dict[str, Any]:
    """The summary; where all parts of the job are there, it is written beside them too."""
    total = Tally()
    total.merge([work.before, work.run])
    done = output.parts()
    complete = done >= set(range(work.parts))
    if complete and work.others:
        total.merge(output.tally(part) for part in work.others)
    run = work.run
    summary = {
        "output": output.uri,
        "complete": complete,
        "parts": work.parts,
        **total.values(),
        "run": {
            "documents": run.documents,
            "tokens": run.tokens["tokens"],
            "preparing_seconds": round(preparing, 3),
            "working_seconds": round(working, 3),
            "tokens_per_second": round(run.tokens["tokens"] / working, 1) if working else 0.0,
        },
        "model": manifest.vectors.model,
        "fingerprint": manifest.vectors.fingerprint,
        "share": f"{job.share.index + 1}/{job.share.count}",
    }
    if complete:
        output.finish(json.dumps(summary, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
    return summary
