"""Runs a job, from its options to its summary."""

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from octavo.batch import manifest as manifests
from octavo.batch.documents import Document, documents
from octavo.batch.drivers import Ask
from octavo.batch.errors import InputError
from octavo.batch.manifest import Manifest, Options, Served
from octavo.batch.output import MANIFEST, Output
from octavo.batch.parts import Place, Share, Size, placed
from octavo.batch.progress import Progress
from octavo.batch.records import Layout
from octavo.batch.rows import Reading
from octavo.batch.sources import Source, find, shown
from octavo.batch.summary import Counts, Tally
from octavo.batch.survey import Digest, digest, sample, survey


@dataclass(frozen=True, slots=True)
class Job:
    """The description of a job.

    Attributes:
        inputs: paths and URIs.
        output: the folder, as a path or URI.
        options: the options that determine the output.
        ask: these options, for the client.
        reading: these options, for the readers of files.
        size: size limits of parts.
        sample: size of the sample of documents, None for all.
        input_format: format of all files; None: by file name.
        output_format: format of parts.
        share: which parts this machine processes.
        max_errors: maximum rows that may fail, None for any number.
        patience: seconds to keep trying a server.
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
            InputError: there are none, or the output overlaps with them.
        """
        found = find(self.inputs, self.input_format)
        for given in self.inputs:
            if output and output.touches(given):
                raise InputError(f"{shown(given)} and the output {output.uri} overlap")
        return found

    def documents(self, sources: list[list[Source]], rows: int) -> Iterator[Document]:
        """Read all documents, or the sample, in order."""
        return (document for _, document in self.placed(sources, rows))

    def placed(self, sources: list[list[Source]], rows: int) -> Iterator[tuple[Place, Document]]:
        """Like `documents`, with the place of each."""
        flat = [source for files in sources for source in files]
        chosen = None if self.sample is None else sample(rows, self.sample)
        return placed(documents(flat, self.options.columns, self.reading), self.size, chosen)

    def rows(self, rows: int) -> int:
        """How many documents are processed if the input has `rows`."""
        return rows if self.sample is None else min(rows, self.sample)


@dataclass(frozen=True, slots=True)
class Started:
    """A job that is being run.

    Attributes:
        done: numbers of the parts that earlier runs completed.
        sources: the files of each input.
    """

    job: Job
    output: Output
    done: frozenset[int]
    sources: list[list[Source]]
    manifest: Manifest

    @property
    def ask(self) -> Ask:
        """What to ask of the servers, which must give the results that the manifest describes."""
        ask = self.job.ask
        return Ask(ask.tasks, {**ask.arguments, "expected_fingerprint": self.manifest.served.fingerprint})

    @property
    def layout(self) -> Layout:
        """The columns of the output."""
        return Layout.of(self.manifest, self.job.ask.tasks)

    def placed(self) -> Iterator[tuple[Place, Document]]:
        """Read all documents, with the place of each."""
        return self.job.placed(self.sources, self.manifest.survey.rows)


class Engine(Protocol):
    """What computes a job."""

    def probe(self, job: Job) -> Served:
        """Learn about the results."""

    def work(self, started: Started, counts: Counts, progress: Progress) -> None:
        """Process all parts that are not completed, and count them."""


def run(job: Job, connect: AbstractContextManager[Engine]) -> dict[str, Any]:
    """Run or resume a job and return its summary.

    Raises:
        BatchError: it cannot be started or finished.
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
    with connect as engine:
        served = engine.probe(job)
        manifest = begun or _begin(job, output, key, inputs, sources, served)
        manifests.check_served(manifest, served)
        counts = Counts()
        with Progress(job.rows(manifest.survey.rows)) as progress:
            ready = time.monotonic()
            try:
                engine.work(Started(job, output, frozenset(output.parts()), sources, manifest), counts, progress)
            except (KeyboardInterrupt, SystemExit):
                progress.say(
                    f"interrupted: {counts.run.documents:,} documents in this run; run the same command to resume"
                )
                raise
        return _finish(job, output, manifest, counts, ready - start, time.monotonic() - ready)


def _begin(
    job: Job,
    output: Output,
    key: str,
    inputs: tuple[Digest, ...],
    sources: list[list[Source]],
    served: Served,
) -> Manifest:
    """Write the manifest of a new job, before anything else."""
    flat = [source for files in sources for source in files]
    found = survey(flat, job.options.columns, job.reading)
    manifest = Manifest(key, job.options.named(), inputs, found, served)
    output.write(MANIFEST, manifest.dump())
    return manifest


def _finish(
    job: Job, output: Output, manifest: Manifest, counts: Counts, preparing: float, working: float
) -> dict[str, Any]:
    """Build the summary; if all parts are done, also write it to the output."""
    total = Tally()
    total.merge([counts.before, counts.run])
    done = output.parts()
    complete = done >= set(range(counts.parts))
    if complete and counts.others:
        total.merge(output.tally(part) for part in counts.others)
    run = counts.run
    summary = {
        "output": output.uri,
        "complete": complete,
        "parts": counts.parts,
        **total.values(),
        "run": {
            "documents": run.documents,
            "tokens": run.tokens["tokens"],
            "preparing_seconds": round(preparing, 3),
            "working_seconds": round(working, 3),
            "tokens_per_second": round(run.tokens["tokens"] / working, 1) if working else 0.0,
        },
        "model": manifest.served.model,
        "fingerprint": manifest.served.fingerprint,
        "share": f"{job.share.index + 1}/{job.share.count}",
    }
    if complete:
        output.finish(json.dumps(summary, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n")
    return summary
