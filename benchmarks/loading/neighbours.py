"""How a flooding client, or a document of a million tokens, affects other clients."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from benchmarks import histograms
from benchmarks.figures import Figure, Figures, attempt
from benchmarks.loading.bench import GUESTS, Bench
from benchmarks.loading.schedule import STREAM, Call, calls_of, poisson, request_of
from benchmarks.loading.tally import Answer, latencies, of_callers
from benchmarks.statistics import percentile, proportion

_POLITE, _FLOODING = range(GUESTS - 1), GUESTS - 1
_POLITE_SHARE = 0.6  # of the capacity, by nine together
_FLOOD = 50.0 / GUESTS  # capacities, by the tenth: fifty times its share
_KNOWN_DOCUMENTS = 40
_TURNS = 2  # of the phases that are compared, so that drift of the machine meets all of them
_BULK_TOKENS = 1_000_000
_INTERACTIVE_RATE = 6.0  # calls a second
_MILLI = 1000.0


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
        **_distributions(
            {f"polite_latency.{name}": of_callers(answers, _POLITE) for name, answers in phases.items()},
            "Latency of nine polite clients, alone and beside a tenth who floods",
        ),
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
    return proportion([not answer.ok for answer in of_callers(answers, callers)])


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
        **_distributions(
            {"interactive_latency.alone": alone.answers, "interactive_latency.beside_bulk": beside.answers},
            "Latency of one-segment calls, alone and beside a document of a million tokens",
        ),
        "bulk_segments_per_second": Figure(beside.messages / seconds, "segments/s"),
    }


def _distributions(groups: Mapping[str, Sequence[Answer]], title: str) -> Figures:
    return {
        name: histograms.distribution([answer.latency for answer in answers if answer.ok], title)
        for name, answers in groups.items()
    }
