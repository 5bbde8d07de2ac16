"""`partial_unnoticed`: what a server's default deadline cuts, and nobody is told of.

The server's default deadline is a fraction of the time that a document takes. Segments that tile all of it, an error
that names the deadline and an explicit partial are right; everything else is wrong. A cache lets a client go on after
the deadline, so each way is tried with and without one.
"""

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from benchmarks.figures import Figure, Figures, Missing
from benchmarks.first_hour.bench import Bench, bench
from octavo.client import AsyncClient, Client, DeadlineExceeded, DocumentsFailed, Embed, OctavoError, Segment

_DEADLINE = 0.5  # seconds
_FLAGS = ("--set", f"server.default_deadline_seconds={_DEADLINE}", "--set", "cache.results=false")
_TASKS = {"embed": Embed(segment_vectors=True)}
_TIMES = 3


def measure(model: str) -> Figures:
    """Read a document of 200,000 tokens in every way that there is."""
    ends = dict.fromkeys(("whole", "error", "partial", "wrong"), 0)
    for flags in ((), ("--set", "cache.enabled=false")):
        with bench(model, *_FLAGS, *flags) as found:
            for way in _TIMES * WAYS:
                end = _tried(way, found)
                ends[end if end in ends else "wrong"] += 1
                if end not in ends:
                    click.echo(f"first-hour: {way.__name__[1:]}: {end}", err=True)
    tried = sum(ends.values())
    cut = tried - ends["whole"]
    return {
        "partial_unnoticed": Figure(ends["wrong"], "documents", n=tried)
        if cut
        else Missing("the deadline cut nothing"),
        "partial_cut": Figure(cut, "documents", n=tried),
        **{f"partial_ends.{name}": Figure(count, "documents") for name, count in ends.items()},
    }


def _tried(way: Callable[[Bench], str], found: Bench) -> str:
    """How a way ended: "whole", "error", "partial", or what is wrong."""
    try:
        return way(found)
    except OctavoError as error:
        errors = [each for _, each in error.errors] if isinstance(error, DocumentsFailed) else [error]
        return "error" if all(map(is_late, errors)) else f"{type(error).__name__}: {error}"


def is_late(error: OctavoError) -> bool:
    """Whether the deadline has passed, or the call is refused at once because it would."""
    refused = error.reason == "QUEUE_FULL" and "deadline" in str(error)
    return refused or isinstance(error, DeadlineExceeded)


def _text(found: Bench) -> str:
    return (found.folder / "long.txt").read_text()


def _client(found: Bench) -> Client:
    return Client(found.values["socket"], token=found.environment["OCTAVO_API_KEY"])


def end_of(text: str, spans: Iterable[tuple[int, int]], *, partial: bool = False) -> str:
    """How a document ended whose segments have these spans: they must tile it, or with `partial` its beginning."""
    reached = 0
    for start, end in spans:
        if start != reached or end <= start:
            return f"a segment [{start}, {end}) after {reached}"
        reached = end
    if partial:
        return "partial"
    return "whole" if reached == len(text) else f"cut at {reached} of {len(text)}"


def _spans(segments: Iterable[Segment]) -> list[tuple[int, int]]:
    return [(each.char_start, each.char_end) for each in segments]


def _stream(found: Bench, *, partial: bool = False) -> str:
    text = _text(found)
    with _client(found) as client, client.stream(text, _TASKS, partial=partial) as stream:
        spans = _spans(part.segment for part in stream)
        summary = stream.summary
    return end_of(text, spans, partial=partial and summary is not None and summary.partial)


def _explicit(found: Bench) -> str:
    return _stream(found, partial=True)


def _async_stream(found: Bench) -> str:
    text = _text(found)

    async def read() -> list[tuple[int, int]]:
        token = found.environment["OCTAVO_API_KEY"]
        async with AsyncClient(found.values["socket"], token=token) as client, client.stream(text, _TASKS) as stream:
            return _spans([part.segment async for part in stream])

    return end_of(text, asyncio.run(read()))


def _embed(found: Bench) -> str:
    text = _text(found)
    with _client(found) as client:
        return end_of(text, _spans(client.embed(text, segment_vectors=True).segments))


def _process(found: Bench) -> str:
    text = _text(found)
    with _client(found) as client:
        ((_, answer),) = client.process([("long", text)], segments=True)
    return end_of(text, _spans(answer.segments))


def _command(found: Bench) -> str:
    return _printed(found, "long.txt")


def _command_with_others(found: Bench) -> str:
    return _printed(found, "long.txt", "book.txt")


def _printed(found: Bench, *files: str) -> str:
    done = found.run("embed", "--segments", *files)
    lines = {each["file"]: each["segments"] for each in map(json.loads, done.stdout.splitlines())}
    if "long.txt" not in lines:
        return _refused(done.returncode, done.stderr)
    return end_of(_text(found), _columns(lines["long.txt"]))


def _job(found: Bench) -> str:
    (found.folder / "long.jsonl").write_text(json.dumps({"id": "long", "text": _text(found)}) + "\n")
    options = ("--segments", "--format", "jsonl", "--patience", "5", "--server", found.values["socket"])
    done = found.run("batch", "-i", "long.jsonl", "-o", "job", *options)
    rows = [
        json.loads(line) for part in (found.folder / "job").glob("part-*") for line in part.read_text().splitlines()
    ]
    found.shell("rm -rf job")
    errors = [row["error"] for row in rows if row.get("error")]
    if errors or not rows:
        return _refused(done.returncode, str(errors) if errors else done.stderr)
    return end_of(_text(found), _columns(row for row in rows if row["segment"] is not None))


def _columns(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, int]]:
    return [(row["char_start"], row["char_end"]) for row in rows]


def _refused(code: int, said: str) -> str:
    """How a command ended that gave no vectors: its words must name the deadline."""
    return "error" if code == 1 and "deadline" in said.lower() else f"exit code {code}: {said.strip()[-300:]}"


WAYS: tuple[Callable[[Bench], str], ...] = (
    _stream,
    _explicit,
    _async_stream,
    _embed,
    _process,
    _command,
    _command_with_others,
    _job,
)
