"""The cost of documents that wait for their client's limit: CPU, and another client's latency."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

import click

from benchmarks import histograms
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures
from benchmarks.hostile.attackers import attacking
from benchmarks.hostile.clients import park
from benchmarks.hostile.polite import polite
from benchmarks.hostile.watch import cpu_seconds
from benchmarks.loading.guests import invite
from benchmarks.served import Served, serve
from benchmarks.statistics import percentile

__all__ = ["measure"]

_TOKENS_A_MINUTE = 60_000
_PACED_SECONDS = (10.0, 50.0)  # while the client spends what it may, and nothing of its waits
_FROM_SECONDS = 75.0  # its tokens come back as they were spent, and its other documents wait for them
_WINDOW_SECONDS = 20.0
_IDLE_SECONDS = 10.0
_REST_SECONDS = 2.0  # in which the server forgets the documents
_MILLI = 1000.0
_TITLE = "A polite caller, alone and beside documents that wait for their limit"


def measure() -> Figures:
    """Let a client's documents wait, look at the server's CPU while nobody else calls, then let the polite one call.

    It calls alone before and after, since a shared machine's speed drifts, and the mean of both p95 counts.
    """
    poor, other = invite(2)
    settings = (
        f"[plans.poor]\ntokens_per_minute = {_TOKENS_A_MINUTE}\n"
        f'[clients.{poor.name}]\nplan = "poor"\nkeys = ["{poor.record}"]\n'
        f'[clients.{other.name}]\nkeys = ["{other.record}"]\n'
    )
    with serve(config=settings) as server, polite(Endpoint(server.address, other.key)) as caller:
        before = caller.calls()
        idle = _busy(server, _IDLE_SECONDS)
        with attacking(park, Endpoint(server.address, poor.key)) as attacker:
            began = time.monotonic()
            click.echo(f"  waiting for the {_FROM_SECONDS:g}th second", err=True)
            time.sleep(_PACED_SECONDS[0])
            paced = _busy(server, _PACED_SECONDS[1] - _PACED_SECONDS[0])
            time.sleep(began + _FROM_SECONDS - time.monotonic())
            waiting = _busy(server, _WINDOW_SECONDS)
            beside = caller.calls()
            counted = attacker.stop()
        time.sleep(_REST_SECONDS)
        after = caller.calls()
    alone = fmean(percentile(calls.seconds, 95, "s").value for calls in (before, after))
    ratio = percentile(beside.seconds, 95, "s").value / alone
    granted = (paced.cores - idle.cores) * waiting.tokens / paced.tokens
    return {
        "parked_cpu": Figure(100 * (waiting.cores - idle.cores - granted), "%"),
        "parked_p95": Figure(ratio, "x", n=len(beside.seconds)),
        **{f"parked_cores.{name}": Figure(100 * each.cores, "%") for name, each in _named(idle, paced, waiting)},
        **{f"parked_tokens.{name}": Figure(each.tokens, "tokens/s") for name, each in _named(idle, paced, waiting)},
        "parked_failed": Figure(beside.failed, "calls"),
        "parked_failed.alone": Figure(before.failed + after.failed, "calls"),
        "parked_p95_ms": percentile([_MILLI * each for each in beside.seconds], 95, "ms"),
        "parked_p95_ms.alone": Figure(_MILLI * alone, "ms", n=len(before.seconds) + len(after.seconds)),
        **{f"hostile_client.parked.{what}": Figure(value, "") for what, value in counted.items()},
        "parked_latency.alone": histograms.distribution([*before.seconds, *after.seconds], _TITLE),
        "parked_latency.beside": histograms.distribution(beside.seconds, _TITLE),
    }


@dataclass(frozen=True, slots=True)
class _Busy:
    """The server's share of a core, and tokens that it charged, a second."""

    cores: float
    tokens: float


def _named(*busy: _Busy) -> Iterable[tuple[str, _Busy]]:
    return zip(("idle", "paced", "waiting"), busy, strict=True)


def _busy(server: Served, seconds: float) -> _Busy:
    charged, cpu, began = _charged(server), cpu_seconds(server.pid), time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return _Busy((cpu_seconds(server.pid) - cpu) / took, (_charged(server) - charged) / took)


def _charged(server: Served) -> float:
    return server.metric("octavo_charged_tokens_total")
