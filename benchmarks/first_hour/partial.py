"""`partial_unnoticed`: what a server's default deadline cuts, and nobody is told of.

The server's default deadline is a fraction of the time that a document takes. Vectors of all of it, an error and an
explicit partial are right; anything else was cut without a word. A cache lets a client go on after the deadline, so
each way is tried with and without one.
"""

import asyncio
import json
from collections.abc import Callable, Mapping

from benchmarks.figures import Figure, Figures
from benchmarks.first_hour.bench import Bench, bench
from octavo.client import AsyncClient, Client, Embed, OctavoError

_DEADLINE = 0.5  # seconds
_FLAGS = ("--set", f"server.default_deadline_seconds={_DEADLINE}", "--set", "cache.results=false")
_TASKS = {"embed": Embed(segment_vectors=True)}
_TIMES = 3


def measure(model: str) -> Figures:
    """Read a document of 200,000 tokens in every way that there is."""
    wrong, tried, ends = 0, 0, {"whole": 0, "error": 0, "partial": 0}
    for flags in ((), ("--set", "cache.enabled=false")):
        with bench(model, *_FLAGS, *flags) as found:
            for way in WAYS:
                for _ in range(_TIMES):
                    tried += 1
                    try:
                        end = way(found)
                    except OctavoError:
                        end = "error"
                    if end in ends:
                        ends[end] += 1
                    else:
                        wrong += 1
    cut = ends["error"] + ends["partial"] + wrong
    return {
        "partial_unnoticed": Figure(wrong, "documents", n=tried),
        "partial_cut": Figure(cut, "documents", n=tried),
        **{f"partial_ends.{name}": Figure(count, "documents") for name, count in ends.items()},
    }


def _text(found: Bench) -> str:
    return (found.folder / "long.txt").read_text()


def _client(found: Bench) -> Client:
    return Client(found.values["socket"], token=found.environment["OCTAVO_API_KEY"])


def _end(text: str, reached: int, *, partial: bool = False) -> str:
    return "partial" if partial else "whole" if reached == len(text) else "cut"


def _stream(found: Bench, *, partial: bool = False) -> str:
    text = _text(found)
    with _client(found) as client, client.stream(text, _TASKS, partial=partial) as stream:
        reached = [part.segment.char_end for part in stream][-1]
        summary = stream.summary
    return _end(text, reached, partial=summary is not None and summary.partial)


def _explicit(found: Bench) -> str:
    return _stream(found, partial=True)


def _async_stream(found: Bench) -> str:
    text = _text(found)

    async def read() -> int:
        reached = 0
        token = found.environment["OCTAVO_API_KEY"]
        async with AsyncClient(found.values["socket"], token=token) as client, client.stream(text, _TASKS) as stream:
            async for part in stream:
                reached = part.segment.char_end
        return reached

    return _end(text, asyncio.run(read()))


def _embed(found: Bench) -> str:
    text = _text(found)
    with _client(found) as client:
        return _end(text, client.embed(text, segment_vectors=True).segments[-1].char_end)


def _process(found: Bench) -> str:
    text = _text(found)
    with _client(found) as client:
        ((_, answer),) = client.process([("long", text)], segments=True)
    return _end(text, answer.segments[-1].char_end)


def _command(found: Bench) -> str:
    return _printed(found, "long.txt")


def _command_with_others(found: Bench) -> str:
    return _printed(found, "long.txt", "book.txt")


def _printed(found: Bench, *files: str) -> str:
    done = found.run("embed", "--segments", *files)
    lines: Mapping[str, list[Mapping[str, int]]] = {
        each["file"]: each["segments"] for each in map(json.loads, done.stdout.splitlines())
    }
    if "long.txt" not in lines:
        return "error" if done.returncode else "cut"
    return _end(_text(found), lines["long.txt"][-1]["char_end"])


def _job(found: Bench) -> str:
    (found.folder / "long.jsonl").write_text(json.dumps({"id": "long", "text": _text(found)}) + "\n")
    options = ("--segments", "--format", "jsonl", "--patience", "5", "--server", found.values["socket"])
    done = found.run("batch", "-i", "long.jsonl", "-o", "job", *options)
    rows = [
        json.loads(line) for part in (found.folder / "job").glob("part-*") for line in part.read_text().splitlines()
    ]
    found.shell("rm -rf job")
    if done.returncode and (not rows or any(row.get("error") for row in rows)):
        return "error"
    return _end(_text(found), max(row.get("char_end") or 0 for row in rows))


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
