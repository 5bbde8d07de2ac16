"""Clients of a server and their offered load, as shares of its measured capacity."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures
from benchmarks.loading.corpus import MEAN_SEGMENTS, Corpus, Document
from benchmarks.loading.generator import Generator, Sent
from benchmarks.loading.schedule import Call, calls_of, poisson, request_of
from benchmarks.loading.tally import goodput
from benchmarks.served import Served
from benchmarks.statistics import percentile

GUESTS = 10  # clients of a server of our own
CALLERS = 16  # of the closed loop
_DEADLINE = 20.0  # idle medians
_IDLE_CALLS = 30
_MILLI = 1000.0
_SETTLING_SECONDS = 1.0


@dataclass(slots=True)
class Bench:
    """A server's callers; once it was measured, its capacity in tokens a second, and the calls' deadline.

    Attributes:
        server: None: somebody's, which is seen from outside alone.
        cores: what the generator took of the machine at its busiest.
    """

    generator: Generator
    callers: list[Endpoint]
    corpus: Corpus
    draw: random.Random
    server: Served | None = None
    deadline: float = 0.0
    capacity: float = 0.0
    cores: float = 0.0

    @property
    def everybody(self) -> Sequence[int]:
        """All callers, by index."""
        return range(len(self.callers))

    def arrivals(self, share: float, seconds: float, callers: Sequence[int]) -> list[Call]:
        """Schedule a share of the capacity, offered by these callers alike."""
        rate = share * self.capacity / (MEAN_SEGMENTS * self.corpus.segment_tokens) / len(callers)
        times = {caller: poisson(rate, seconds, self.draw) for caller in callers}
        documents = {caller: self.corpus.documents(len(own)) for caller, own in times.items()}
        return [call for caller in callers for call in calls_of(times[caller], caller, documents[caller])]

    def in_turn(self, documents: Sequence[Document]) -> list[Call]:
        """Let the callers send documents one after the other, for a closed loop."""
        return [Call(0.0, i % len(self.callers), request_of(each), each.tokens) for i, each in enumerate(documents)]

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

    def throughput(self, seconds: float, documents: int) -> float:
        """Tokens a second that callers who wait for their answers get, after a tenth of the time.

        Args:
            seconds: how long they call.
            documents: more than can be answered.
        """
        calls = self.in_turn(self.corpus.documents(documents + CALLERS))
        return goodput(self.saturate(calls, CALLERS, seconds).answers, seconds / 10, seconds)


def measure_capacity(bench: Bench, seconds: float) -> Figures:
    """One call after the other, then sixteen callers, whose first tenth warms up."""
    corpus = bench.corpus
    bench.saturate(bench.in_turn(corpus.documents(CALLERS)), 2)
    idle = [answer.latency for answer in bench.saturate(bench.in_turn(corpus.documents(_IDLE_CALLS)), 1).answers]
    p50 = percentile([_MILLI * each for each in idle], 50, "ms")
    bench.deadline = _DEADLINE * p50.value / _MILLI
    # More than can be answered: a document that is alone has all cores, and is read while none computes.
    bench.capacity = bench.throughput(seconds, int(4 * seconds / min(idle)))
    return {
        "capacity": Figure(bench.capacity, "tokens/s"),
        "idle_p50_ms": p50,
        "deadline_ms": Figure(_MILLI * bench.deadline, "ms"),
    }
