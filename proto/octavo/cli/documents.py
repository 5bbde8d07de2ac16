"""Embeds files, for `octavo embed` and `octavo cache warm`."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import islice
from threading import Thread
from typing import Any

from octavo.cli.connection import explained, is_unreachable
from octavo.cli.exits import Failure, complain
from octavo.cli.options import call_arguments, embed_task
from octavo.cli.progress import progress
from octavo.cli.texts import read_text
from octavo.client import Client, EmbedResult, OctavoError, Segment, ServerError, StreamSummary

TASK = "embed"
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
    """Yield each file with its result or error, in order.

    Raises:
        OctavoError: the server cannot be reached.
    """
    if len(files) == 1:
        yield files[0], _outcome(lambda: _document(client, files[0], read(files[0]), options))
        return
    with progress(len(files), "documents") as advance:
        for file, future in _in_order(files, lambda file: _embed(client, read(file), options), in_flight):
            yield file, _outcome(future.result)
            advance(1)


def succeeded(results: Iterator[Outcome], failed: list[str]) -> Iterator[tuple[str, EmbedResult]]:
    """Yield files that have a result; report the others on standard error and append them to `failed`."""
    for file, outcome in results:
        if isinstance(outcome, EmbedResult):
            yield file, outcome
        else:
            failed.append(file)
            complain(str(outcome) if isinstance(outcome, Failure) else f"{file}: {explained(outcome)}")


def _outcome(work: Callable[[], EmbedResult]) -> EmbedResult | OctavoError | Failure:
    try:
        return work()
    except Failure as fault:
        return fault
    except OctavoError as fault:
        if is_unreachable(fault):
            raise
        return fault


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


def _document(client: Client, file: str, text: str, options: dict[str, Any]) -> EmbedResult:
    """Embed a single document and show progress."""
    with progress(len(text), file) as advance:
        return _embed(client, text, options, advance)


def _embed(
    client: Client, text: str, options: dict[str, Any], advance: Callable[[int], None] = lambda _: None
) -> EmbedResult:
    """Embed a document through a stream, whose reply need not fit in one message."""
    segments = []
    tasks = {TASK: embed_task(options)}
    with client.stream(text, tasks, timeout=options["timeout"], **call_arguments(options)) as stream:
        for part in stream:
            segments.append(replace(part.segment, vector=part.results[TASK].vector))
            advance(part.segment.char_end - part.segment.char_start)
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
