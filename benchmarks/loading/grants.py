"""How many tokens a limit grants, by the counter of released segments, with one server and with three."""

import random
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import redis_server
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures
from benchmarks.loading.corpus import Corpus
from benchmarks.loading.generator import Generator
from benchmarks.loading.guests import invite, toml
from benchmarks.loading.schedule import ANALYZE, STREAM, Call, poisson, request_of
from benchmarks.loading.tally import Look, most_granted
from benchmarks.served import Served, every, serve

_RATE = 60_000  # tokens a minute
_WINDOW = 60.0  # seconds
_OFFER = 3.0  # rates: granted in 20 s, so that a tenth of a second more or less is 0.5 %
_SEGMENTS = 2  # of a document: a grant within a sample counts for two windows, so it should be small
_DEADLINE = 10.0

_CHARGED = "octavo_charged_tokens_total"
_COMPUTED = "octavo_processed_tokens_total"
_EVERY = 0.1  # seconds


class Watch:
    """Samples the charged tokens of several servers together.

    Attributes:
        looks: the total that they had charged at each time.
    """

    def __init__(self, servers: Sequence[Served]) -> None:
        self._servers = servers
        self._start = time.monotonic()
        self.looks: list[Look] = []

    def look(self) -> None:
        """Sample the total."""
        began = time.monotonic() - self._start
        count = self._sum(_CHARGED)
        self.looks.append(Look(began, time.monotonic() - self._start, count))

    def uncharged(self) -> float:
        """Tokens that were computed and not charged; valid once nothing runs."""
        return self._sum(_COMPUTED) - self._sum(_CHARGED)

    def _sum(self, name: str) -> float:
        return sum(server.counted(name) for server in self._servers)


def granted(corpus: Corpus, model: str, seconds: float, draw: random.Random) -> Figures:
    """Offer one client's calls to one server, and another's to three on one Redis, at the same time.

    Half of the calls are unary, half are streams, whose segments wait for the limit.
    """
    (guest,) = invite(1)
    config = toml([guest], f"tokens_per_minute = {_RATE}")
    flags = ("--model", model, "--set", "cache.enabled=false", "--set", "compute.threads=1")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-redis-")))
        shared = f"limits.storage={stack.enter_context(redis_server.running(folder)).url}"
        groups = {
            "granted_1": [stack.enter_context(serve(*flags, config=config))],
            "granted_3": [stack.enter_context(serve(*flags, "--set", shared, config=config)) for _ in range(3)],
        }
        watches = {name: Watch(servers) for name, servers in groups.items()}
        for watch in watches.values():
            watch.look()
            stack.enter_context(every(_EVERY, watch.look))
        under_way = []
        for servers in groups.values():
            callers = [Endpoint(server.address, guest.key) for server in servers]
            generator = stack.enter_context(Generator())
            calls = _overload(corpus, seconds, len(servers), draw)
            under_way.append(generator.offer(callers, calls, _DEADLINE))
        for sent in under_way:
            sent.result()
        return {name: _granted(watch) for name, watch in watches.items()}


def _overload(corpus: Corpus, seconds: float, servers: int, draw: random.Random) -> list[Call]:
    times = poisson(_OFFER * _RATE / _WINDOW / (_SEGMENTS * corpus.segment_tokens), seconds, draw)
    calls = []
    for i, at in enumerate(times):
        document = corpus.document(_SEGMENTS)
        method = STREAM if i % 2 else ANALYZE
        calls.append(Call(at, draw.randrange(servers), request_of(document, method=method), document.tokens, method))
    return calls


def _granted(watch: Watch) -> Figure:
    if watch.uncharged() > 0:
        raise RuntimeError(f"{watch.uncharged():,.0f} tokens were computed and never charged")
    return Figure(most_granted(watch.looks, _WINDOW) / _RATE, "x")
