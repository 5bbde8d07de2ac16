"""Many clients on one machine: goodput under overload, fairness, limits, and what is wasted on callers who have gone.

Open loop: calls are sent by a schedule that was fixed before (Poisson, by seed), and a latency begins with the planned
arrival. Documents have 1 to 20 segments, 8 on average, and never repeat; a call's deadline is 20 times the idle median
of such documents. Capacity is what a closed loop of 16 callers gets; a client's share is a tenth of it. Goodput counts
the tokens of documents that were answered inside their deadline. The generator is a process of its own, on the same
cores; `generator_cores` is what it took of them at its busiest. Nothing is answered from the cache but the warm flood.

server_over_engine: tokens a second of 16 callers, over reading and running the same texts without a server.

overload_goodput: goodput at five times the capacity, over the capacity. overload_in_deadline: of the calls that were
not refused then, the share that was answered inside its deadline.

polite_p99: nine clients at 60 % of the capacity together, their p99 with a tenth who floods at fifty times its share,
over that without. polite_p99_warm_flood: the same when the flood is of documents that the cache holds.

interactive_p99: one-segment calls' p99 while a document of a million tokens streams as bulk, over that without.

granted_1, granted_3: tokens charged in the worst 60 s over the rate a minute, of one server and of three on one Redis.

wasted_segments: segments that were finished after their caller had cancelled or run out of time, a request.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from benchmarks import workloads
from benchmarks.figures import Figure, Figures, Outcome, attempt
from benchmarks.loading.abandon import abandon
from benchmarks.loading.corpus import MEAN_SEGMENTS, Corpus, Document
from benchmarks.loading.generator import Caller, Generator, Sent
from benchmarks.loading.grants import granted
from benchmarks.loading.guests import invite, toml
from benchmarks.loading.schedule import STREAM, Call, calls_of, poisson, request_of
from benchmarks.loading.tally import Answer, deadline_share, goodput, latencies, of_callers
from benchmarks.race import Race, timed
from benchmarks.served import Served, serve
from benchmarks.statistics import percentile, ratio
from server.settings import ModelSettings

__all__ = ["run"]

_CALLERS = 16
_GUESTS = 10
_POLITE, _FLOODING = range(_GUESTS - 1), _GUESTS - 1
_DEADLINE = 20.0  # idle medians
_OVERLOAD = 5.0  # capacities
_POLITE_SHARE = 0.6  # of the capacity, by nine together
_FLOOD = 50.0 / _GUESTS  # capacities, by the tenth: fifty times its share
_IDLE_CALLS = 30
_KNOWN_DOCUMENTS = 40
_TURNS = 2  # of the phases that are compared, so that drift of the machine meets all of them
_ROUND_SECONDS = 4.0
_BULK_TOKENS = 1_000_000
_INTERACTIVE_RATE = 6.0  # calls a second
_GROUP = 8  # calls that leave together
_MILLI = 1000.0
_SETTLING_SECONDS = 1.0


@dataclass(slots=True)
class Bench:
    """A server and those who call it; once it was measured, its capacity in tokens a second, and the deadline."""

    server: Served
    generator: Generator
    callers: list[Caller]
    corpus: Corpus
    draw: random.Random
    deadline: float = 0.0
    capacity: float = 0.0
    cores: float = 0.0

    def arrivals(self, share: float, seconds: float, callers: Sequence[int]) -> list[Call]:
        """Schedule a share of the capacity, offered by these callers alike."""
        rate = share * self.capacity / (MEAN_SEGMENTS * self.corpus.segment_tokens) / len(callers)
        times = {caller: poisson(rate, seconds, self.draw) for caller in callers}
        documents = {caller: self.corpus.documents(len(own)) for caller, own in times.items()}
        return [call for caller in callers for call in calls_of(times[caller], caller, documents[caller])]

    def in_turn(self, documents: Sequence[Document]) -> list[Call]:
        """Let the callers send documents one after the other, for a closed loop."""
        return [Call(0.0, i % _GUESTS, request_of(each), each.tokens) for i, each in enumerate(documents)]

    def offer(self, calls: Sequence[Call], background: Sequence[Call] = ()) -> Sent:
        """Send a schedule, and wait until all of it has ended."""
        sent = self.generator.offer(self.callers, calls, self.deadline, background).result()
        self.cores = max(self.cores, sent.cores)
        time.sleep(_SETTLING_SECONDS)
        return sent

    def saturate(self, calls: Sequence[Call], in_flight: int, seconds: float = float("inf")) -> Sent:
        """Send calls one after the other, so many at a time.

        Raises:
            RuntimeError: one was not answered, though nobody was in a hurry.
        """
        sent = self.generator.saturate(self.callers, calls, in_flight, seconds).result()
        if codes := {answer.code for answer in sent.answers if not answer.ok}:
            raise RuntimeError(f"calls without a deadline ended as {', '.join(sorted(codes))}")
        return sent


@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--capacity-seconds", default=15.0, show_default=True, help="Of the closed loop.")
@click.option("--rounds", default=5, show_default=True, help="Of server and engine in turns.")
@click.option("--overload-seconds", default=60.0, show_default=True, help="Of five times the capacity.")
@click.option("--polite-seconds", default=36.0, show_default=True, help="With each flood, and without.")
@click.option("--interactive-seconds", default=25.0, show_default=True, help="Beside it, and without it.")
@click.option("--granted-seconds", default=75.0, show_default=True, help="Of offering more than a limit grants; > 60.")
@click.option("--trials", default=16, show_default=True, help="Groups of calls that leave early.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(model: str, rounds: int, trials: int, seed: int, **seconds: float) -> Figures:
    """Measure capacity first, for the rest is told in shares of it."""
    folder = ModelSettings(path=model).folder
    corpus, draw, guests = Corpus(folder, seed), random.Random(seed), invite(_GUESTS)
    figures: dict[str, Outcome] = {}
    with Generator() as generator, serve("--model", model, config=toml(guests)) as server:
        callers = [Caller(server.address, guest.key) for guest in guests]
        bench = Bench(server, generator, callers, corpus, draw)
        figures |= measure_capacity(bench, seconds["capacity_seconds"])
        parts: dict[tuple[str, ...], Callable[[], Figures]] = {
            ("server_over_engine",): lambda: over_engine(bench, folder, rounds),
            ("overload_goodput", "overload_in_deadline"): lambda: overload(bench, seconds["overload_seconds"]),
            ("polite_p99", "polite_p99_warm_flood"): lambda: politeness(bench, seconds["polite_seconds"]),
            ("interactive_p99",): lambda: interactive(bench, seconds["interactive_seconds"]),
            ("wasted_segments",): lambda: wasted(bench, trials),
        }
        for ids, part in parts.items():
            figures |= attempt(ids, part)
        figures["generator_cores"] = Figure(bench.cores, "cores")
    figures |= attempt(["granted_1", "granted_3"], lambda: granted(corpus, model, seconds["granted_seconds"], draw))
    return figures


def measure_capacity(bench: Bench, seconds: float) -> Figures:
    """One call after the other, then sixteen callers, whose first tenth warms up."""
    corpus = bench.corpus
    bench.saturate(bench.in_turn(corpus.documents(_CALLERS)), 2)
    idle = [answer.latency for answer in bench.saturate(bench.in_turn(corpus.documents(_IDLE_CALLS)), 1).answers]
    p50 = percentile([_MILLI * each for each in idle], 50, "ms")
    bench.deadline = _DEADLINE * p50.value / _MILLI
    # More than can be answered: a document that is alone has all cores, and is read while none computes.
    count = int(4 * seconds / min(idle)) + _CALLERS
    sent = bench.saturate(bench.in_turn(corpus.documents(count)), _CALLERS, seconds)
    bench.capacity = goodput(sent.answers, seconds / 10, seconds)
    return {
        "capacity": Figure(bench.capacity, "tokens/s"),
        "idle_p50_ms": p50,
        "deadline_ms": Figure(_MILLI * bench.deadline, "ms"),
    }


def over_engine(bench: Bench, folder: Path, rounds: int) -> Figures:
    """The same texts in turns; the longest first, so that no stream is left alone with one at the end."""
    from benchmarks.loading.engine import Engine

    count = int(_ROUND_SECONDS * bench.capacity / (MEAN_SEGMENTS * bench.corpus.segment_tokens)) + _CALLERS
    documents = sorted(bench.corpus.documents(count), key=lambda document: -document.tokens)
    calls, engine = bench.in_turn(documents), Engine(folder)
    race = Race(
        {
            "server": lambda: max(answer.ended for answer in bench.saturate(calls, _CALLERS).answers),
            "engine": timed(lambda: engine.embed([document.text for document in documents])),
        }
    )
    race.warm_up()
    race.measure(rounds)
    for missing in race.missing.values():
        raise RuntimeError(missing.reason)
    return {"server_over_engine": ratio(race.seconds["engine"], race.seconds["server"])}


def overload(bench: Bench, seconds: float) -> Figures:
    """Ten clients offer five times the capacity; what they get is counted once the queue is full, to the last call."""
    answers = bench.offer(bench.arrivals(_OVERLOAD, seconds, range(_GUESTS))).answers
    good = goodput(answers, min(bench.deadline, seconds / 2), seconds, bench.deadline)
    codes = {code: sum(answer.code == code for answer in answers) for code in {answer.code for answer in answers}}
    return {
        "overload_goodput": Figure(good / bench.capacity, "x"),
        "overload_in_deadline": Figure(deadline_share(answers, bench.deadline), "share"),
        "overload_ok_in_deadline": Figure(deadline_share([a for a in answers if a.ok], bench.deadline), "share"),
        **{f"overload_calls.{code}": Figure(count, "calls") for code, count in sorted(codes.items())},
    }


def politeness(bench: Bench, seconds: float) -> Figures:
    """Nine clients send the same calls alone, beside a flood, and beside one of known documents, in turns."""
    known = [request_of(each, cache="READ_WRITE") for each in bench.corpus.documents(_KNOWN_DOCUMENTS)]
    bench.saturate([Call(0.0, _FLOODING, request, 0) for request in known], 4)
    phases: dict[str, list[Answer]] = {"alone": [], "flood": [], "warm_flood": []}
    for _ in range(_TURNS):
        polite = bench.arrivals(_POLITE_SHARE, seconds / _TURNS, _POLITE)
        flood = bench.arrivals(_FLOOD, seconds / _TURNS, [_FLOODING])
        warm = [replace(call, request=bench.draw.choice(known)) for call in flood]
        for name, others in (("alone", []), ("flood", flood), ("warm_flood", warm)):
            phases[name] += bench.offer([*polite, *others]).answers
    return {
        **{f"polite_failed.{name}": _failed(answers, _POLITE) for name, answers in phases.items()},
        **{f"flood_failed.{name}": _failed(phases[name], [_FLOODING]) for name in ("flood", "warm_flood")},
        **attempt(["polite_p99"], lambda: _polite_p99(phases, "flood", "polite_p99")),
        **attempt(["polite_p99_warm_flood"], lambda: _polite_p99(phases, "warm_flood", "polite_p99_warm_flood")),
    }


def _polite_p99(phases: Mapping[str, list[Answer]], beside: str, name: str) -> Figures:
    p99 = {
        phase: percentile([_MILLI * each for each in latencies(of_callers(phases[phase], _POLITE))], 99, "ms")
        for phase in ("alone", beside)
    }
    return {
        name: Figure(p99[beside].value / p99["alone"].value, "x", n=p99[beside].n),
        **{f"polite_p99_ms.{phase}": figure for phase, figure in p99.items()},
    }


def _failed(answers: Sequence[Answer], callers: Iterable[int]) -> Figure:
    theirs = of_callers(answers, callers)
    return Figure(sum(not answer.ok for answer in theirs) / len(theirs), "share")


def interactive(bench: Bench, seconds: float) -> Figures:
    """The same one-segment calls alone and beside another client's bulk stream."""
    times = poisson(_INTERACTIVE_RATE, seconds, bench.draw)
    calls = calls_of(times, 0, [bench.corpus.document(1) for _ in times])
    long = [bench.corpus.text_of(_BULK_TOKENS) for _ in range(3)]  # one is enough, unless the machine is very fast
    bulk = [Call(0.0, 1, request_of(each, priority="BULK", method=STREAM), each.tokens, STREAM) for each in long]
    alone, beside = bench.offer(calls), bench.offer(calls, bulk)
    p99 = {
        name: percentile([_MILLI * each for each in latencies(sent.answers)], 99, "ms")
        for name, sent in (("alone", alone), ("beside_bulk", beside))
    }
    return {
        "interactive_p99": Figure(p99["beside_bulk"].value / p99["alone"].value, "x", n=len(calls)),
        **{f"interactive_p99_ms.{name}": figure for name, figure in p99.items()},
        "bulk_segments_per_second": Figure(beside.messages / seconds, "segments/s"),
    }


def wasted(bench: Bench, trials: int) -> Figures:
    """Groups of calls that leave at a moment before they are answered."""
    groups = [bench.corpus.documents(_GROUP) for _ in range(trials)]
    usual = _GROUP * MEAN_SEGMENTS * bench.corpus.segment_tokens / bench.capacity
    abandoned = asyncio.run(abandon(bench.server, groups, usual, bench.draw))
    return {
        "wasted_segments": Figure(abandoned.segments / abandoned.requests, "segments", n=abandoned.requests),
    }
