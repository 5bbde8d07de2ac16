"""What documents cost that wait for their client's limit, in CPU and in another caller's latency."""

import time
from threading import Event

import click

from benchmarks import histograms
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures, Missing
from benchmarks.hostile.attackers import attacking
from benchmarks.hostile.clients import park
from benchmarks.hostile.polite import polite
from benchmarks.hostile.watch import cpu_seconds
from benchmarks.loading.guests import invite
from benchmarks.served import Served, serve
from benchmarks.statistics import percentile

__all__ = ["measure"]

_TOKENS_A_MINUTE = 60_000
_FROM_SECONDS = 75.0  # the first minute's tokens and the second's have been spent, and the third's are far
_WINDOW_SECONDS = 20.0
_IDLE_SECONDS = 10.0
_MILLI = 1000.0
_TITLE = "A polite caller, alone and beside documents that wait for their limit"


def measure() -> Figures:
    """Let a client's documents wait, look at the server's CPU while nobody else calls, then let the polite one call."""
    poor, other = invite(2)
    settings = (
        f"[plans.poor]\ntokens_per_minute = {_TOKENS_A_MINUTE}\n"
        f'[clients.{poor.name}]\nplan = "poor"\nkeys = ["{poor.record}"]\n'
        f'[clients.{other.name}]\nkeys = ["{other.record}"]\n'
    )
    with serve(config=settings) as server, polite(Endpoint(server.address, other.key)) as caller:
        alone = caller.calls()
        idle, _ = _busy(server, _IDLE_SECONDS)
        with attacking(park, Endpoint(server.address, poor.key)) as attacker:
            click.echo(f"  waiting for the {_FROM_SECONDS:g}th second", err=True)
            Event().wait(_FROM_SECONDS)
            waiting, granted = _busy(server, _WINDOW_SECONDS)
            beside = caller.calls()
            counted = attacker.stop()
    ratio = percentile(beside.seconds, 95, "s").value / percentile(alone.seconds, 95, "s").value
    return {
        "parked_cpu": _figure(100 * (waiting - idle), granted),
        "parked_p95": Figure(ratio, "x", n=len(beside.seconds)),
        "parked_cpu_idle": Figure(100 * idle, "%"),
        "parked_tokens_granted": Figure(granted, "tokens"),
        "parked_failed": Figure(beside.failed, "calls"),
        "parked_p95_ms": percentile([_MILLI * each for each in beside.seconds], 95, "ms"),
        **{f"hostile_client.parked.{what}": Figure(value, "") for what, value in counted.items()},
        "parked_latency.alone": histograms.distribution(alone.seconds, _TITLE),
        "parked_latency.beside": histograms.distribution(beside.seconds, _TITLE),
    }


def _busy(server: Served, seconds: float) -> tuple[float, float]:
    """Measure the server's share of a core, and the tokens that it charged meanwhile."""
    charged, cpu, began = server.metric("octavo_charged_tokens_total"), cpu_seconds(server.pid), time.monotonic()
    time.sleep(seconds)
    share = (cpu_seconds(server.pid) - cpu) / (time.monotonic() - began)
    return share, server.metric("octavo_charged_tokens_total") - charged


def _figure(share: float, granted: float) -> Figure | Missing:
    """Tell the share, unless tokens were granted meanwhile: their computing would be counted as waiting."""
    if granted:
        return Missing(f"{granted:,.0f} tokens were granted while nothing should have been")
    return Figure(share, "%")
