"""Runs tasks on files, for all commands that do so."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any, BinaryIO, TypeVar

import click

from octavo.cli.connection import connected, explained, is_unreachable
from octavo.cli.exits import FAILED, Failure, complain
from octavo.cli.options import call_arguments, check_call_options
from octavo.cli.output import destination
from octavo.cli.progress import Advance, progress
from octavo.cli.texts import read_text, refuse_stdin_twice
from octavo.client import Client, OctavoError, SegmentResult, ServerError, StreamSummary
from octavo.client.arguments import Task

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_STEPS = 200
_WAIT_SECONDS = 0.5  # a Ctrl-C whose signal another thread takes does not end a wait
_IDLE = "the server may have a queue of other calls, or your limit is used up"


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A document's results."""

    text: str
    segments: Sequence[SegmentResult]
    summary: StreamSummary


Outcome = tuple[str, Answer | OctavoError | Failure]
Write = Callable[[Iterator[Outcome], BinaryIO], bool]
"""Writes the results and returns whether any file failed."""


def run_tasks(
    ctx: click.Context, files: Sequence[str], tasks: Mapping[str, Task], write: Write, options: dict[str, Any]
) -> None:
    """Run tasks on files and write the results, as a command does."""
    refuse_stdin_twice(files)
    check_call_options(ctx)
    read = reader(files, options["encoding"])
    with destination(options["output"]) as out, connected(options) as client:
        failed = write(outcomes(client, files, read, tasks, options), out)
    if failed:
        ctx.exit(FAILED)


def each_written(shown: Callable[[str, Answer], bytes]) -> Write:
    """A function that writes what `shown` makes of each file and its results, as soon as it is there."""

    def write(results: Iterator[Outcome], out: BinaryIO) -> bool:
        failed: list[str] = []
        for file, answer in succeeded(results, failed):
            out.write(shown(file, answer))
            out.flush()
        return bool(failed)

    return write


def reader(files: Sequence[str], encoding: str) -> Callable[[str], str]:
    """A function that reads a file. A single file is read now, before connecting or starting a server."""
    if len(files) > 1:
        return lambda file: read_text(file, encoding)
    text = read_text(files[0], encoding)
    return lambda _: text


def outcomes(
    client: Client,
    files: Sequence[str],
    read: Callable[[str], str],
    tasks: Mapping[str, Task],
    options: dict[str, Any],
) -> Iterator[Outcome]:
    """Yield each file with its results or error, in order, and show progress by their sizes.

    Raises:
        OctavoError: the server cannot be reached.
    """
    sizes = {file: _size(file) for file in files}
    label = f"{len(files):,} documents" if len(files) > 1 else files[0]
    with progress(sum(map(sizes.__getitem__, files)), label, _IDLE) as advance:

        def work(file: str) -> Answer:
            with _share(sizes[file], advance) as report:
                return _answer(client, read(file), tasks, options, report)

        for file, future in in_order(files, work, options["in_flight"]):
            yield file, _outcome(future)


def succeeded(results: Iterator[Outcome], failed: list[str]) -> Iterator[tuple[str, Answer]]:
    """Yield files that have results; report the others on standard error and append them to `failed`."""
    for file, outcome in results:
        if isinstance(outcome, Answer):
            yield file, outcome
        else:
            failed.append(file)
            complain(str(outcome) if isinstance(outcome, Failure) else f"{file}: {explained(outcome)}")


def _outcome(future: "Future[Answer]") -> Answer | OctavoError | Failure:
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


def in_order(
    files: Iterable[Item], work: Callable[[Item], Result], in_flight: int
) -> Iterator[tuple[Item, "Future[Result]"]]:
    """Process up to `in_flight` files at a time, in order."""
    under_way: deque[tuple[Item, Future[Result]]] = deque()
    left = iter(files)
    while True:
        under_way.extend((file, _started(work, file)) for file in islice(left, in_flight - len(under_way)))
        if not under_way:
            return
        file, future = under_way.popleft()
        while not wait([future], _WAIT_SECONDS).done:
            pass
        yield file, future


def _started(work: Callable[[Item], Result], file: Item) -> "Future[Result]":
    """Run in a daemon thread, which does not keep the command from exiting."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(work(file))
        except BaseException as fault:  # noqa: BLE001 - raised by Future.result
            future.set_exception(fault)

    Thread(target=run, name="octavo-document", daemon=True).start()
    return future


def _answer(
    client: Client,
    text: str,
    tasks: Mapping[str, Task],
    options: dict[str, Any],
    report: Callable[[float], None],
) -> Answer:
    """Run tasks through a stream, whose reply need not fit in one message."""
    segments = []
    with client.stream(text, tasks, timeout=options["timeout"], **call_arguments(options)) as stream:
        for part in stream:
            segments.append(part)
            report(part.segment.char_end / len(text))
    if stream.summary is None or stream.summary.results.keys() != tasks.keys():
        raise ServerError("the server did not send the results of all tasks")
    return Answer(text, segments, stream.summary)
