"""Cost against document length, from 1k to 1M tokens: time per token, first segment's latency, the server's memory.

All documents, short ones too, are streamed (StreamSegments), so that all lengths use the same call. Everything is cold:
each round has a fresh server, and texts of a round share no content; a server given by address is told to recompute.
Documents of 10k tokens come before, between and after the others: the time per token for a million is compared with
theirs, round by round.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from benchmarks import texts, workloads
from benchmarks.endpoint import reached, server_options
from benchmarks.figures import Curve, Figure, Figures, Missing, Outcome, bounds
from benchmarks.served import Served
from benchmarks.statistics import percentile_ms, ratio, summarise
from benchmarks.streaming import Streamed, stream
from octavo.client import Client
from octavo.client.arguments import CacheModeName

_YARDSTICK = 10_000
_REPEATS = {1_000: 8, 3_000: 4, 30_000: 2}
"""How often short lengths come in a round; others once."""
_WARM_UP_CHARACTERS = 250_000  # about 100k tokens of a log: the memory tier is full then and grows no more
_MICRO = 1e6
_MOST_KNOWN = 0.01  # share of a document's tokens; speeches repeat themselves now and then


@dataclass(frozen=True, slots=True)
class Target:
    """A server to send documents to, and its process if we started it."""

    client: Client
    process: Served | None
    cache_mode: CacheModeName

    def stream(self, text: str) -> Streamed:
        """Send one document and read all of its segments.

        Raises:
            ValueError: some of the text did not come back.
        """
        if self.process:
            self.process.forget_peak()
        found = stream(self.client, text, self.cache_mode)
        if found.known > _MOST_KNOWN:
            raise ValueError(f"{found.known:.1%} of the tokens were known already")
        return found._replace(peak=self.process.peak_memory() if self.process else None)


@server_options
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--longest", default=1_000_000, show_default=True, help="Tokens of the longest document.")
@click.option("--rounds", default=4, show_default=True, help="Rounds over all lengths.")
def run(model: str, longest: int, rounds: int, **where: Any) -> Figures:
    """Stream all lengths once a round."""
    sizes = order(longest)
    measured: dict[int, list[list[Streamed]]] = {}
    for number in range(rounds):
        documents = workloads.consecutive(sizes, start=number / rounds)
        click.echo(f"round {number + 1} of {rounds}: {len(documents)} documents …", err=True)
        with reached(where, "--model", model) as (endpoint, process), endpoint.client() as client:
            target = Target(client, process, "read_write" if process else "refresh")
            target.stream(texts.logs(random.Random(number), _WARM_UP_CHARACTERS))
            found: dict[int, list[Streamed]] = {}
            for size, text in zip(sizes, documents, strict=True):
                found.setdefault(size, []).append(target.stream(text))
        for size, streamed in found.items():
            measured.setdefault(size, []).append(streamed)
    return figures_of(dict(sorted(measured.items())))


def order(longest: int) -> list[int]:
    """List the lengths of a round's documents in order; documents of 10k tokens surround the longest."""
    powers = [size for power in range(3, 10) for size in (10**power, 3 * 10**power)]
    others = [size for size in powers if size < longest and size != _YARDSTICK]
    yardstick = [_YARDSTICK] * 4
    before = [size for size in others[:-1] for _ in range(_REPEATS.get(size, 1))]
    return [*yardstick, *before, *yardstick, longest, *yardstick, *others[-1:]]


def figures_of(measured: Mapping[int, list[list[Streamed]]]) -> Figures:
    """Make figures and lines of what each round gave for each length."""
    longest = max(measured)
    cost = {size: [_typical(each.total / each.tokens for each in one) for one in by] for size, by in measured.items()}
    figures: dict[str, Outcome] = {"scale_flat": ratio(cost[longest], cost[_YARDSTICK])}
    for size, by_round in measured.items():
        all_of_it = [each for one in by_round for each in one]
        peaks = [each.peak for each in all_of_it if each.peak is not None]
        figures |= {
            f"us_a_token.{size}": summarise([_MICRO * each.total / each.tokens for each in all_of_it], "µs"),
            f"first_segment_ms.{size}": percentile_ms([each.first for each in all_of_it]),
            f"total_ms.{size}": percentile_ms([each.total for each in all_of_it]),
            f"speed.{size}": summarise([each.tokens / each.total for each in all_of_it], "tokens/s"),
            f"peak_mib.{size}": summarise(peaks, "MiB") if peaks else Missing("the server's process is not ours"),
        }
    tokens = tuple(float(np.mean([each.tokens for one in by for each in one])) for by in measured.values())
    return {**figures, **_lines(figures, list(measured), tokens)}


def _lines(figures: Mapping[str, Outcome], sizes: list[int], tokens: tuple[float, ...]) -> Figures:
    """Draw each cost against the documents' length."""
    wanted = (
        ("cost", "us_a_token", "time / µs a token", "What a token costs, by the document's length", "x"),
        ("wait", "first_segment_ms", "time / ms", "What a caller waits, by the document's length", "xy"),
        ("wait", "total_ms", "time / ms", "What a caller waits, by the document's length", "xy"),
        ("memory", "peak_mib", "resident memory / MiB", "Memory at its peak, by the document's length", "x"),
    )  # fmt: skip
    names = {"us_a_token": "streamed", "first_segment_ms": "first segment", "total_ms": "all", "peak_mib": "server"}
    made: dict[str, Outcome] = {}
    for group, figure, label, title, log in wanted:
        points = [each for size in sizes if isinstance(each := figures[f"{figure}.{size}"], Figure)]
        if len(points) == len(sizes):
            made[f"scale_{group}.{names[figure]}"] = Curve(
                tokens,
                tuple(point.value for point in points),
                "document's length / tokens",
                label,
                title,
                log,
                **bounds(points),
            )
    return made


def _typical(values: Iterator[float]) -> float:
    return float(np.median(list(values)))
