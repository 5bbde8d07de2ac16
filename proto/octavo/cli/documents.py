"""Embeds files, for `octavo embed` and `octavo cache warm`."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

from octavo.cli.connection import explained, is_unreachable
from octavo.cli.exits import Failure, complain
from octavo.cli.options import call_arguments, embed_task
from octavo.cli.progress import Advance, progress
from octavo.cli.texts import read_text
from octavo.client import Client, EmbedResult, OctavoError, Segment, ServerError, StreamSummary

TASK = "embed"
_LEAST_STEPS = 200
_IDLE = "the server may have a queue of other calls, or your limit is used up"
Outcome = tuple[str, EmbedResult | OctavoError | Failure]


def reader(files: Sequence[str], encoding: str) -> Callable[[str], str]:
    """A function that reads a file. A single file is read now, before connecting or starting a server."""
    if len(files) > 1:
        return lambda file: read_text(file, encoding)
    text = read_text(files[0], encoding)
    return lambda _: text


def outcomes(
    client: Client, files: Sequence[str], read: Callable[[str], str], in_flight: int, options: dict[str, Any]
) -> Iterator[Outcome]:
    """Yield each file with its result or error, in order, and show progress by their sizes.

    Raises:
        OctavoError: the server cannot be reached.
    """
    sizes = {file: _size(file) for file in files}
    label = f"{len(files):,} documents" if len(files) > 1 else files[0]
    with progress(sum(map(sizes.__getitem__, files)), label, _IDLE) as advance:

        def work(file: str) -> EmbedResult:
            with _share(sizes[file], advance) as report:
                return _embed(client, read(file), options, report)

        for file, future in _in_order(files, work, in_flight):
            yield file, _outcome(future)


def succeeded(results: Iterator[Outcome], failed: list[str]) -> Iterator[tuple[str, EmbedResult]]:
    """Yield files that have a result; report the others on standard error and append them to `failed`."""
    for file, outcome in results:
        if isinstance(outcome, EmbedResult):
            yield file, outcome
        else:
            failed.append(file)
            complain(str(outcome) if isinstance(outcome, Failure) else f"{file}: {explained(outcome)}")


def _outcome(future: "Future[EmbedResult]") -> EmbedResult | OctavoError | Failure:
    try:
        return future.result()
    except Failure as fault:
        return fault
    except OctavoError as fault:
        if is_unreachable(fault):
            raise
        return fault


def _size(file: str) -> int:
    """Steps of progress for a file: its bytes, or as many as a bar shows if they are unknown or few."""
    try:
        return max(Path(file).stat().st_size, _LEAST_STEPS)
    except OSError:  # standard input
        return _LEAST_STEPS


@contextlib.contextmanager
def _share(steps: int, advance: Advance) -> Iterator[Callable[[float], None]]:
    """A function that takes the part of a document that is done, from 0 to 1, and advances by that part of `steps`."""
    told = 0

    def report(part: float) -> None:
        nonlocal told
        now = round(steps * part)
        advance(now - told)
        told = now

    try:
        yield report
    finally:
        report(1)


def _in_order(
    files: Sequence[str], work: Callable[[str], EmbedResult], in_flight: int
) -> Iterator[tuple[str, "Future[EmbedResult]"]]:
    """Process up to `in_flight` files at a time, in order."""
    under_way: deque[tuple[str, Future[EmbedResult]]] = deque()
    left = iter(files)
    while True:
        under_way.extend((file, _started(work, file)) for file in islice(left, in_flight - len(under_way)))
        if not under_way:
            return
        yield under_way.popleft()


def _started(work: Callable[[str], EmbedResult], file: str) -> "Future[EmbedResult]":
    """Run in a daemon thread, which does not keep the command from exiting."""
    future: Future[EmbedResult] = Future()

    def run() -> None:
        try:
            future.set_result(work(file))
        except BaseException as fault:  # noqa: BLE001 - raised by Future.result
            future.set_exception(fault)

    Thread(target=run, name="octavo-document", daemon=True).start()
    return future


def _embed(client: Client, text: str, options: dict[str, Any], report: Callable[[float], None]) -> EmbedResult:
    """Embed a document through a stream, whose reply need not fit in one message."""
    segments = []
    tasks = {TASK: embed_task(options)}
    with client.stream(text, tasks, timeout=options["timeout"], **call_arguments(options)) as stream:
        for part in stream:
            segments.append(replace(part.segment, vector=part.results[TASK].vector))
            report(part.segment.char_end / len(text))
    return _whole(stream.summary, tuple(segments))


def _whole(summary: StreamSummary | None, segments: tuple[Segment, ...]) -> EmbedResult:
    """Convert a stream's results to the result of `Client.embed`."""
    if summary is None or (vector := summary.results[TASK].vector) is None:
        raise ServerError("the server sent no document vector")
    return EmbedResult(
        model=summary.model,
        fingerprint=summary.fingerprint,
        usage=summary.usage,
        timings=summary.timings,
        request_id=summary.request_id,
        vector=vector,
        segments=segments,
    )
