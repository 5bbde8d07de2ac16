"""Half an hour of mixed load: errors, losses and memory growth.

Unary calls, streams, bulk streams, cancelled calls, short deadlines and invalid requests keep a server busy; its limits
are counted in a Redis that is killed and restarted. Every call must end, none as INTERNAL or UNKNOWN, and each document
of a bulk stream must have one final result. Memory is the server's resident memory: its median in the last fifth of the
time over that in the first fifth, after settling for a sixth of the time, at most five minutes.
"""

import asyncio
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import click

from benchmarks import redis_server, workloads
from benchmarks.figures import Figure, Figures
from benchmarks.loading.corpus import Corpus
from benchmarks.loading.guests import invite, toml
from benchmarks.loading.users import FAULTS, LOST, live
from benchmarks.served import every, resident_mb, serve
from server.config.schema import ModelSettings

_SETTLING_SECONDS = 300.0
_SAMPLE_SECONDS = 1.0
_REDIS_GONE_SECONDS = 2.0
_PLAN = "tokens_per_minute = 2_000_000\nrequests_per_second = 50"  # so that limits count, and now and then refuse
_FLAGS = ("--set", "cache.memory_bytes=67108864", "--set", "cache.size_limit_bytes=268435456")  # full within seconds


@click.option("--minutes", default=30.0, show_default=True, help="How long it goes on.")
@click.option("--restarts", default=5, show_default=True, help="Of Redis.")
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(minutes: float, restarts: int, model: str, seed: int) -> Figures:
    """Run all users, and sample the server's memory."""
    seconds = 60 * minutes
    corpus, draw, guests = Corpus(ModelSettings(path=model).folder, seed), random.Random(seed), invite(3)
    memory: list[float] = []
    restarted: list[float] = []
    with ExitStack() as stack:
        storage = stack.enter_context(_limits(seconds / (restarts + 1), restarted))
        server = stack.enter_context(serve("--model", model, *_FLAGS, *storage, config=toml(guests, _PLAN)))
        stack.enter_context(every(_SAMPLE_SECONDS, lambda: memory.append(resident_mb(server.pid))))
        report = asyncio.run(live(server.address, [guest.key for guest in guests], corpus, seconds, draw))
    settled = memory[round(len(memory) * min(1 / 6, _SETTLING_SECONDS / seconds)) :]
    return {
        "soak_internal": Figure(report.count(FAULTS), "answers"),
        "soak_lost": Figure(report.count({LOST}), "calls"),
        "soak_memory_growth": Figure(growth(settled), "%", n=len(settled)),
        "resident_mb": Figure(median(settled), "MB"),
        "redis_restarts": Figure(len(restarted), "restarts"),
        **{f"ends.{kind}.{code}": Figure(count, "") for (kind, code), count in sorted(report.ends.items()) if count},
    }


def growth(samples: Sequence[float]) -> float:
    """Return by how many per cent the median of the last fifth exceeds that of the first.

    Raises:
        ValueError: there are fewer than five samples.
    """
    fifth = len(samples) // 5
    if not fifth:
        raise ValueError("fewer than five samples of the memory")
    return 100 * (median(samples[-fifth:]) / median(samples[:fifth]) - 1)


@contextmanager
def _limits(seconds: float, restarted: list[float]) -> Iterator[Sequence[str]]:
    """Give the server's flags for a Redis that is restarted periodically; for limits in memory without Redis."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-redis-")))
        try:
            redis = stack.enter_context(redis_server.running(folder))
        except redis_server.NoRedis as reason:
            click.echo(f"limits are counted in memory: {reason}", err=True)
            yield ()
            return

        def restart() -> None:
            redis.stop()
            time.sleep(_REDIS_GONE_SECONDS)
            redis.start()
            restarted.append(time.monotonic())

        stack.enter_context(every(seconds, restart))
        yield "--set", f"limits.storage={redis.url}"
