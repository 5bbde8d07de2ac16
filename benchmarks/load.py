"""Many clients on one machine: goodput under overload, fairness, limits, and work wasted on callers that have left.

Open loop: calls are sent by a fixed schedule (Poisson, seeded), and latency starts at the planned arrival. Documents
have 1 to 20 segments, 8 on average, and never repeat. A call's deadline is 20 times the idle median of such documents.
Capacity is the throughput of a closed loop of 16 callers; a client's share is a tenth of it. Goodput counts the tokens
of documents answered within their deadline. The generator is a separate process on the same cores; `generator_cores` is
its peak CPU use. Nothing is answered from the cache except the warm flood.

server_over_engine: tokens per second of 16 callers, over reading and running the same texts without a server.

overload_goodput: goodput at five times the capacity, over that just before and after. overload_in_deadline: of calls
not refused meanwhile, the share answered within their deadline.

polite_p99: p99 of nine clients at 60 % of the capacity in total, while a tenth floods at fifty times its share, over
that without the flood. polite_p99_warm_flood: the same with a flood of cached documents.

interactive_p99: p99 of one-segment calls while a document of a million tokens streams as bulk, over that without it.

granted_1, granted_3: tokens charged in the worst 60 s over the rate per minute, for one server and for three sharing a
Redis.

latency_by_load, answered_by_load: results at several offered rates, of calls answered in time and of all calls.

stall_seen: a server double that normally answers immediately stalls for a second while 200 calls a second are due; 1 if
the p99 shows it. A harness that waits for slow servers before the next call would not see it. Octavo is not involved.

wasted_segments: segments finished after their caller had cancelled or timed out, per request.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import click

from benchmarks import workloads
from benchmarks.endpoint import named, reached, server_options
from benchmarks.figures import Curve, Figure, Figures, Missing, Outcome, attempt
from benchmarks.loading.abandon import abandon
from benchmarks.loading.bench import CALLERS, GUESTS, Bench, measure_capacity
from benchmarks.loading.corpus import MEAN_SEGMENTS, Corpus
from benchmarks.loading.generator import Generator
from benchmarks.loading.grants import granted
from benchmarks.loading.guests import invite, toml
from benchmarks.loading.neighbours import interactive, politeness
from benchmarks.loading.stall import stalled
from benchmarks.loading.tally import Answer, accepted, goodput
from benchmarks.statistics import percentile_ms, proportion
from server.config.schema import ModelSettings

PARTS = {
    "engine": ("server_over_engine",),
    "overload": ("overload_goodput", "overload_in_deadline"),
    "polite": ("polite_p99", "polite_p99_warm_flood"),
    "interactive": ("interactive_p99",),
    "wasted": ("wasted_segments",),
    "curve": ("latency_by_load.p50", "latency_by_load.p99", "answered_by_load.in_time"),
    "granted": ("granted_1", "granted_3"),
    "stall": ("stall_seen",),
}
_ANYWHERE = {"overload", "interactive", "curve", "stall"}  # these also measure a server that is named
_OVERLOAD = 5.0  # capacities
_ROUND_SECONDS = 4.0
_AROUND_SECONDS = 8.0  # of the closed loop before the overload, and after it
_GROUP = 8  # calls that leave together
_CURVE = (0.25, 0.5, 0.7, 0.85, 1.0, 1.5)  # capacities


@server_options
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="Only this one; repeatable.")
@click.option("--capacity-seconds", default=10.0, show_default=True, help="Of the closed loop.")
@click.option("--rounds", default=4, show_default=True, help="Of server and engine in turns.")
@click.option("--overload-seconds", default=60.0, show_default=True, help="Of five times the capacity.")
@click.option("--polite-seconds", default=30.0, show_default=True, help="With each flood, and without.")
@click.option("--interactive-seconds", default=18.0, show_default=True, help="Beside it, and without it.")
@click.option("--granted-seconds", default=65.0, show_default=True, help="Of offering more than a limit grants; > 60.")
@click.option("--curve-seconds", default=5.0, show_default=True, help="Of each offered rate.")
@click.option("--trials", default=16, show_default=True, help="Groups of calls that leave early.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(model: str, parts: Sequence[str], rounds: int, trials: int, seed: int, **others: Any) -> Figures:
    """Measure capacity first: the rest is in shares of it."""
    folder, given = ModelSettings(path=model).folder, named(others)
    corpus, draw = Corpus(folder, seed), random.Random(seed)
    left_out = {part: "left out by --part" for part in PARTS if parts and part not in parts}
    left_out |= {part: "takes a server of its own" for part in PARTS if given and part not in _ANYWHERE}
    measures: dict[str, Callable[[Bench], Figures]] = {
        "engine": lambda bench: over_engine(bench, folder, rounds),
        "overload": lambda bench: overload(bench, others["overload_seconds"]),
        "polite": lambda bench: politeness(bench, others["polite_seconds"]),
        "interactive": lambda bench: interactive(bench, others["interactive_seconds"]),
        "wasted": lambda bench: wasted(bench, trials),
        "curve": lambda bench: curve(bench, others["curve_seconds"]),
    }
    figures: dict[str, Outcome] = {name: Missing(why) for part, why in left_out.items() for name in PARTS[part]}
    if wanted := [part for part in measures if part not in left_out]:
        guests = invite(GUESTS)
        with Generator() as generator, reached(others, "--model", model, config=toml(guests)) as (endpoint, server):
            callers = [replace(endpoint, token=guest.key) for guest in guests] if server else [endpoint] * GUESTS
            bench = Bench(generator, callers, corpus, draw, server)
            figures |= measure_capacity(bench, others["capacity_seconds"])
            for part in wanted:
                figures |= attempt(PARTS[part], partial(measures[part], bench))
            figures["generator_cores"] = Figure(bench.cores, "cores")
    if "granted" not in left_out:
        figures |= attempt(PARTS["granted"], lambda: granted(corpus, model, others["granted_seconds"], draw))
    if "stall" not in left_out:
        figures |= attempt(PARTS["stall"], stalled)
    return figures


def over_engine(bench: Bench, folder: Path, rounds: int) -> Figures:
    """Time the same texts in turns; the longest first, so that no stream ends with a long one alone."""
    from benchmarks import runner  # which loads PyTorch

    count = int(_ROUND_SECONDS * bench.capacity / (MEAN_SEGMENTS * bench.corpus.segment_tokens)) + CALLERS
    documents = sorted(bench.corpus.documents(count), key=lambda document: -document.tokens)
    calls = bench.in_turn(documents)

    def through_server() -> float:
        return max(answer.ended for answer in bench.saturate(calls, CALLERS).answers)

    return {"server_over_engine": runner.over_engine(folder, [each.text for each in documents], through_server, rounds)}


def overload(bench: Bench, seconds: float) -> Figures:
    """Offer five times the capacity by ten clients; count goodput from when the queue is full until the last call.

    It is divided by the capacity of just before and just after, since a shared machine is not always as fast.
    """
    documents = int(3 * _AROUND_SECONDS * bench.capacity / (MEAN_SEGMENTS * bench.corpus.segment_tokens))
    around = [bench.throughput(_AROUND_SECONDS, documents)]
    answers = bench.offer(bench.arrivals(_OVERLOAD, seconds, bench.everybody)).answers
    around.append(bench.throughput(_AROUND_SECONDS, documents))
    good = goodput(answers, min(bench.deadline, seconds / 2), seconds, bench.deadline)
    codes = {code: sum(answer.code == code for answer in answers) for code in {answer.code for answer in answers}}
    return {
        "overload_goodput": Figure(good / mean(around), "x"),
        "overload_capacity.before": Figure(around[0], "tokens/s"),
        "overload_capacity.after": Figure(around[1], "tokens/s"),
        "overload_in_deadline": _in_time(accepted(answers), bench.deadline),
        "overload_ok_in_deadline": _in_time([each for each in answers if each.ok], bench.deadline),
        **{f"overload_calls.{code}": Figure(count, "calls") for code, count in sorted(codes.items())},
    }


def _in_time(answers: Sequence[Answer], deadline: float) -> Figure:
    return proportion([answer.in_time(deadline) for answer in answers])


def wasted(bench: Bench, trials: int) -> Figures:
    """Send groups of calls whose callers leave before the answer."""
    assert bench.server
    groups = [bench.corpus.documents(_GROUP) for _ in range(trials)]
    usual = _GROUP * MEAN_SEGMENTS * bench.corpus.segment_tokens / bench.capacity
    abandoned = asyncio.run(abandon(bench.server, groups, usual, bench.draw))
    return {
        "wasted_segments": Figure(abandoned.segments / abandoned.requests, "segments", n=abandoned.requests),
    }


def curve(bench: Bench, seconds: float) -> Figures:
    """Offer a few rates in rising order; measure latency, and tokens answered in time."""
    points: list[tuple[float, float, float, float]] = []
    for share in _CURVE:
        answers = bench.offer(bench.arrivals(share, seconds, bench.everybody)).answers
        if taken := [answer.latency for answer in answers if answer.ok]:
            good = sum(answer.tokens for answer in answers if answer.in_time(bench.deadline)) / seconds
            p50, p99 = (percentile_ms(taken, rank).value for rank in (50, 99))
            points.append((share * bench.capacity, p50, p99, good))
    if not points:
        raise RuntimeError("no call was answered")
    rates, p50s, p99s, goods = zip(*points, strict=True)
    line = partial(Curve, rates, x_label="offered / tokens/s")
    latency = partial(line, y_label="latency / ms", title="How long answers take, by offered load", log="y")
    return {
        "latency_by_load.p50": latency(y=p50s),
        "latency_by_load.p99": latency(y=p99s),
        "answered_by_load.in_time": line(
            y=goods, y_label="answered in time / tokens/s", title="What is answered in time, by offered load"
        ),
    }
