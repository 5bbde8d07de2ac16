"""Estimates a job without computing it: documents, tokens, time and disk."""

import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from octavo.batch.documents import Document
from octavo.batch.errors import Unserved
from octavo.batch.job import Job
from octavo.batch.survey import survey
from octavo.client import Client, Embed, OctavoError, Redact, SegmentationResult

AT_ONCE = 8  # documents segmented at a time, per server
_ROW_BYTES = 60  # of id, usage and file; without vector and kept columns
_PROBE_WORDS, _PROBES = 4_000, 3  # about 5,000 tokens
_TYPE_BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}


@dataclass(slots=True)
class _Counted:
    documents: int = 0
    failed: int = 0
    segments: int = 0
    tokens: int = 0
    processed_tokens: int = 0
    uncached_tokens: int = 0
    would_charge_tokens: int = 0
    kept_bytes: int = 0
    text_bytes: int = 0

    def add(self, document: Document, result: SegmentationResult | None) -> None:
        self.documents += 1
        self.kept_bytes += sum(len(str(value)) for value in document.kept)
        if result is None:
            self.failed += 1
            return
        self.text_bytes += len(document.text.encode())
        self.segments += len(result.segments)
        self.tokens += result.usage.tokens
        self.processed_tokens += result.usage.processed_tokens
        self.uncached_tokens += result.uncached_tokens
        self.would_charge_tokens += result.would_charge_tokens


def plan(job: Job, clients: Sequence[Client]) -> dict[str, Any]:
    """Read all rows, let the servers segment the documents, and measure their speed on random words.

    With a sample, the totals are extrapolated from it. Tokens and segments are those of the call's model. Sizes are
    those of vectors, redacted texts and kept columns; other results are small.

    Raises:
        InputError: the input cannot be read.
        Unserved: no server answers.
    """
    sources = job.sources()
    rows = survey([each for files in sources for each in files], job.options.columns, job.reading).rows
    counted = _Counted()
    try:
        for document, result in _cut(job, job.documents(sources, rows), clients):
            counted.add(document, result)
        speed = sum(_speed(client, job) for client in clients)
        vector = sum(_vector_bytes(clients[0], job, task) for task in job.ask.tasks.values() if isinstance(task, Embed))
    except OctavoError as error:
        raise Unserved(clients[0].address, error) from error
    scale = rows / counted.documents if counted.documents else 1.0
    redacted = counted.text_bytes if any(isinstance(task, Redact) for task in job.ask.tasks.values()) else 0
    rows_written = counted.documents + (counted.segments if job.options.values["segments"] else 0)
    return {
        "plan": True,
        "documents": rows,
        "looked_at": counted.documents,
        "failing": round(counted.failed * scale),
        "segments": round(counted.segments * scale),
        "tokens": round(counted.tokens * scale),
        "processed_tokens": round(counted.processed_tokens * scale),
        "uncached_tokens": round(counted.uncached_tokens * scale),
        "would_charge_tokens": round(counted.would_charge_tokens * scale),
        "tokens_per_second": round(speed),
        "seconds": round(counted.uncached_tokens * scale / speed, 3),
        "bytes": round((rows_written * (vector + _ROW_BYTES) + redacted + counted.kept_bytes) * scale),
    }


def _cut(job: Job, documents: Any, clients: Sequence[Client]) -> Iterator[tuple[Document, SegmentationResult | None]]:
    """Segment documents, a few at a time; yields None for a document that would fail."""
    under_way: deque[tuple[Document, Future[SegmentationResult] | None]] = deque()
    most = AT_ONCE * len(clients)
    with ThreadPoolExecutor(most) as threads:
        for number, document in enumerate(documents):
            client = clients[number % len(clients)]
            future = None if document.problem else threads.submit(client.segment, document.text, **job.ask.arguments)
            under_way.append((document, future))
            if len(under_way) == most:
                yield _result(*under_way.popleft())
        while under_way:
            yield _result(*under_way.popleft())


def _result(
    document: Document, future: Future[SegmentationResult] | None
) -> tuple[Document, SegmentationResult | None]:
    try:
        return document, future.result() if future else None
    except ValueError:  # InvalidArgument: the document is invalid
        return document, None


def _speed(client: Client, job: Job) -> float:
    """Processed tokens per second, on a text long enough to use all cores; the best of a few runs."""
    best = 0.0
    for seed in range(_PROBES):
        draw = random.Random(seed)  # noqa: S311
        text = " ".join("".join(draw.choices("aeinrst", k=draw.randint(2, 4))) for _ in range(_PROBE_WORDS))
        start = time.perf_counter()
        client.analyze(text, job.ask.tasks, **job.ask.afresh)
        seconds = time.perf_counter() - start
        best = max(best, client.segment(text, **job.ask.arguments).usage.processed_tokens / seconds)
    return best


def _vector_bytes(client: Client, job: Job, task: Embed) -> float:
    dimensions = task.dimensions or client.model(task.model or job.ask.arguments.get("model") or "").dimensions
    return dimensions * _TYPE_BYTES[task.data_type or "float32"]
