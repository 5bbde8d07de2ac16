"""Naive reading against Octavo, optimisation by optimisation: cold, with one sentence edited, and repeated.

`naive` is transformers with default settings (fp32, sdpa), in its own environment, one document at a time. It reads
**all** of the text, cut after every 510 tokens, one piece of 512 tokens after another on all cores, and takes the mean.
Its time is wall time from text to vector, without a network. It has no cache, so edited and repeated documents cost as
much as new ones.

The other rows are Octavo servers, timed by a client through gRPC. `server` has no optimisation: fp32, cut after every
510 tokens, no window, no cache. `segments`, `window`, `int8` and `cache` add one each: content-defined cuts; windowed
attention; 8 bits with short segments laid end to end; the cache. `default` is the default configuration, which has all
but the window. `all` also has the window: of 400 decisions a window of 256 or 240 tokens changed none, 208 two, 192
three, 64 eleven. Rows without a cache are only timed cold, which is their time in every state.

All read the same documents, disjoint parts of addresses, in turns. `ablation_flips` compares `default` with fp32 on the
same cuts, as `fidelity` does; `ablation.all.flips_same_cuts` does so with the window. `ablation.<row>.flips` compares
every row with naive reading, and so includes the effect of other cuts. `ablation_cold_x`, `ablation_edit_x` and
`ablation_again_x` are for `all`; with `.default` appended, for the default configuration.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from benchmarks import workloads
from benchmarks.cache import edited_copies
from benchmarks.figures import Bars, Figure, Figures, Missing, Outcome, attempt, bounds, reason_of
from benchmarks.histograms import distribution
from benchmarks.levers import Levers, accuracy, rows
from benchmarks.peers.driver import Team
from benchmarks.race import timed
from benchmarks.served import forget_peak, peak_memory, serve
from benchmarks.statistics import percentile_ms, ratio, summarise
from chunking import load_tokenizer
from encoder.threads import usable_cores
from octavo.client import Client
from server.config.schema import ModelSettings

_NAIVE = "naive"
_STATES = ("cold", "edited", "again")
_RANKS = (50, 95, 99)
_WARM_UP_TOKENS = 3_000
_TIMEOUT = 600.0
_RATIOS = {"ablation_cold_x": "cold", "ablation_edit_x": "edited", "ablation_again_x": "again"}


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads all of a text, and returns the seconds that its caller waited; `cached`: it remembers texts."""

    read: Callable[[str], float]
    pid: int
    cached: bool = False


@dataclass(slots=True)
class Samples:
    """Of one row: seconds by state, a list a document; MiB at the peak of each cold document."""

    seconds: dict[str, list[list[float]]] = field(default_factory=lambda: {state: [] for state in _STATES})
    peaks: list[float] = field(default_factory=list)

    def flat(self, state: str) -> list[float]:
        """All seconds of a state."""
        return [each for document in self.seconds[state] for each in document]

    def typical(self, state: str) -> list[float]:
        """The median of each document."""
        return [float(np.median(document)) for document in self.seconds[state]]


@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--tokens", default=32_000, show_default=True, help="About how long the timed documents are.")
@click.option("--documents", default=8, show_default=True, help="Documents that are timed.")
@click.option("--edits", default=5, show_default=True, help="Edited copies of each, and how often each comes again.")
@click.option("--window", default=256, show_default=True, help="Half width of the window, in tokens.")
@click.option("--judged", default=260, show_default=True, help="Most documents of each labelled corpus.")
@click.option("--install/--no-install", default=True, show_default=True, help="Make transformers' environment.")
def run(model: str, tokens: int, documents: int, edits: int, window: int, judged: int, install: bool) -> Figures:
    """Time all rows side by side; then see what each changes."""
    folder, ways = ModelSettings(path=model).folder, rows(window)
    figures = attempt(_RATIOS, lambda: _times(folder, ways, tokens, documents, edits, install))
    figures |= attempt(["ablation_flips"], lambda: _changes(folder, ways, judged))
    return figures


def _times(folder: Path, ways: Mapping[str, Levers], tokens: int, count: int, edits: int, install: bool) -> Figures:
    warm_up, *texts = workloads.consecutive([_WARM_UP_TOKENS, *[tokens] * count])
    missing: dict[str, Missing] = {}
    with ExitStack() as stack:
        readers: dict[str, Reader] = {}
        for row in (_NAIVE, *ways):
            click.echo(f"starting {row} …", err=True)
            try:
                opened = _naive(folder, install) if row == _NAIVE else _ours(folder, ways[row])
                readers[row] = stack.enter_context(opened)
            except Exception as error:  # noqa: BLE001  one row that cannot start is missing; the others are measured
                missing[row] = Missing(reason_of(error))
        for reader in readers.values():
            reader.read(warm_up)
        samples: dict[str, Samples] = {row: Samples() for row in readers}
        for number, text in enumerate(texts):
            click.echo(f"document {number + 1} of {count} …", err=True)
            _round(_turned(readers, number), samples, text, list(edited_copies(text, edits, number)))
    tokens_of = [len(encoded) for encoded in load_tokenizer(folder).encode(texts)]
    return {**_ratios(samples, missing), **_table(samples, missing, tokens_of), **_drawings(samples)}


def _round(readers: Mapping[str, Reader], samples: Mapping[str, Samples], text: str, copies: list[str]) -> None:
    """Time one document with every row: cold, its edited copies, and the same again, row by row within each state."""
    for row, reader in readers.items():
        forget_peak(reader.pid)
        seconds = [reader.read(text)]
        samples[row].peaks.append(peak_memory(reader.pid))
        for state in _STATES if not reader.cached else _STATES[:1]:
            samples[row].seconds[state].append(seconds)
    cached = {row: reader for row, reader in readers.items() if reader.cached}
    for state, each in (("edited", copies), ("again", [text] * len(copies))):
        for row, reader in cached.items():
            samples[row].seconds[state].append([reader.read(one) for one in each])


def _ratios(samples: Mapping[str, Samples], missing: Mapping[str, Missing]) -> Figures:
    """Divide naive reading's time by that of all levers and by that of the default settings, document by document."""
    figures: dict[str, Outcome] = {}
    for row, suffix in (("all", ""), ("default", ".default")):
        gone = missing.get(_NAIVE) or missing.get(row)
        for name, state in _RATIOS.items():
            figures[name + suffix] = gone or ratio(samples[_NAIVE].typical("cold"), samples[row].typical(state))
    return figures


def _table(samples: Mapping[str, Samples], missing: Mapping[str, Missing], tokens: list[int]) -> Figures:
    figures: dict[str, Outcome] = {f"ablation.{row}.cold.p50_ms": gone for row, gone in missing.items()}
    for row, mine in samples.items():
        for state in _STATES:
            name, seconds = f"ablation.{row}.{state}", mine.flat(state)
            for rank in _RANKS:
                figures[f"{name}.p{rank}_ms"] = percentile_ms(seconds, rank)
            speeds = [count / each for count, each in zip(tokens, mine.typical(state), strict=True)]
            figures[f"{name}.speed"] = summarise(speeds, "tokens/s")
        figures[f"ablation.{row}.peak_mib"] = summarise(mine.peaks, "MiB")
    return figures


def _drawings(samples: Mapping[str, Samples]) -> Figures:
    """Draw a set of bars a state, and how each row's edits are spread."""
    names = tuple(samples)
    made: dict[str, Outcome] = {}
    for state in _STATES:
        points = [percentile_ms(mine.flat(state)) for mine in samples.values()]
        made[f"ablation.{state}"] = Bars(
            names,
            tuple(point.value for point in points),
            "time / ms",
            "What a caller waits for a document, lever by lever (median)",
            log=True,
            **bounds(points),
        )
        made |= {
            f"ablation_{state}.{row}": distribution(mine.flat(state), f"What a caller waits for a document: {state}")
            for row, mine in samples.items()
        }
    return made


def _changes(folder: Path, ways: Mapping[str, Levers], judged: int) -> Figures:
    found = accuracy(folder, ways, judged)
    kept, naive = found["ablation.default.accuracy"], found["ablation.server.accuracy"]
    assert isinstance(kept, Figure)
    assert isinstance(naive, Figure)
    return {
        "ablation_flips": found["ablation.default.flips_same_cuts"],
        "ablation_accuracy_kept": Figure(100 * kept.value / naive.value, "%", n=kept.n),
        **found,
    }


def _turned(readers: Mapping[str, Reader], by: int) -> dict[str, Reader]:
    """Rotate the rows, so that a row does not always follow the same one, which may still write to disk."""
    names = list(readers)
    by %= len(names)
    return {name: readers[name] for name in names[by:] + names[:by]}


@contextmanager
def _naive(folder: Path, install: bool) -> Iterator[Reader]:
    """Start transformers, which reads one piece of 512 tokens after the other."""
    with (
        tempfile.TemporaryDirectory(prefix="octavo-ablation-") as scratch,
        Team("transformers", 1, Path(scratch), install=install) as team,
    ):
        team.load(_NAIVE, folder)
        yield Reader(lambda text: team.read(_NAIVE, [text], 1, usable_cores())[1], team.pid)


@contextmanager
def _ours(folder: Path, levers: Levers) -> Iterator[Reader]:
    """Start a server, and ask it for each document's vector."""
    with serve(config=levers.config(folder)) as server, Client(server.address) as client:

        def read(text: str) -> float:
            return timed(lambda: client.embed(text, timeout=_TIMEOUT))()

        yield Reader(read, server.pid, levers.cache)
