"""Memory, and a polite caller's latency, beside each attack; and the places that stalled calls still hold."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from benchmarks import histograms
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures, Missing, Outcome, reason_of
from benchmarks.hostile import clients
from benchmarks.hostile.attackers import Attack, attacking
from benchmarks.hostile.polite import Calls, polite
from benchmarks.hostile.watch import watching
from benchmarks.loading.guests import invite, toml
from benchmarks.served import serve
from benchmarks.statistics import percentile_ms

_DEADLINE_SECONDS = 5.0  # of calls that name none
_AFTER_SECONDS = 5.0
_BEGIN_SECONDS = 20.0  # in which the calls must have begun
_NO_ANONYMOUS = "[clients.anonymous]\ndisabled = true\n"
ATTACKS: Mapping[str, tuple[Attack, str]] = {
    "documents": (clients.unread_documents, ""),
    "incomplete": (clients.incomplete_requests, ""),
    "refused": (clients.incomplete_requests, _NO_ANONYMOUS),
    "replies": (clients.unread_replies, ""),
    "empty": (clients.empty_documents, ""),
    "watches": (clients.watches, ""),
}


@dataclass(frozen=True, slots=True)
class Beside:
    """The effect of an attack on the server and on the polite caller."""

    alone: Calls
    attacked: Calls
    growth_mb: float
    cores: float
    counted: Mapping[str, float]

    @property
    def latency(self) -> float:
        """P99 beside the attack over p99 before."""
        return percentile_ms(self.attacked.seconds, 99).value / percentile_ms(self.alone.seconds, 99).value


def measure(names: Sequence[str]) -> Figures:
    """Run each of the named attacks, and report the worst."""
    figures: dict[str, Outcome] = {}
    met: dict[str, Beside] = {}
    for name in names:
        try:
            found = met[name] = beside(*ATTACKS[name])
        except Exception as error:  # noqa: BLE001  one attack that fails must not hide what others did
            figures[f"hostile_memory_mb.{name}"] = Missing(reason_of(error))
            continue
        figures |= _of_attack(name, found)
        click.echo(f"  {name}: {found.growth_mb:.0f} MB, p99 {found.latency:.2f} x, {found.cores:.2f} cores", err=True)
    if len(met) < len(names):
        failed = ", ".join(name for name in names if name not in met)
        return figures | dict.fromkeys(("hostile_memory_mb", "hostile_latency"), Missing(f"not measured: {failed}"))
    return {
        "hostile_memory_mb": Figure(max(each.growth_mb for each in met.values()), "MB", n=len(met)),
        "hostile_latency": Figure(max(each.latency for each in met.values()), "x", n=len(met)),
        **figures,
    }


def beside(attack: Attack, settings: str) -> Beside:
    """Start a server, measure the polite caller alone, and again beside the attack."""
    (guest,) = invite(1)
    with serve(config=toml([guest]) + settings) as server, polite(Endpoint(server.address, guest.key)) as caller:
        alone = caller.calls()
        with watching(server.pid) as watch, attacking(attack, Endpoint(server.address)) as attacker:
            attacked = caller.calls(lambda: not attacker.is_spent())
            counted = attacker.stop()
    return Beside(alone, attacked, watch.growth_mb, watch.cores, counted)


def _of_attack(name: str, found: Beside) -> Figures:
    title = f"A polite caller, alone and beside {name}"
    return {
        f"hostile_memory_mb.{name}": Figure(found.growth_mb, "MB"),
        f"hostile_latency.{name}": Figure(found.latency, "x", n=len(found.attacked.seconds)),
        f"hostile_failed.{name}": Figure(found.attacked.failed, "calls", n=len(found.attacked.seconds)),
        f"hostile_cores.{name}": Figure(found.cores, "cores"),
        f"hostile_p99_ms.{name}": percentile_ms(found.attacked.seconds, 99),
        **{f"hostile_client.{name}.{what}": Figure(value, "") for what, value in found.counted.items()},
        f"hostile_{name}.alone": histograms.distribution(found.alone.seconds, title),
        f"hostile_{name}.beside": histograms.distribution(found.attacked.seconds, title),
    }


def places() -> Figures:
    """Stall 64 calls, and count the calls in flight 5 s after their deadline."""
    deadline = f"server.default_deadline_seconds={_DEADLINE_SECONDS:g}"
    with serve("--set", deadline) as server, attacking(clients.stalled_streams, Endpoint(server.address)) as attacker:
        end, most = time.monotonic() + _BEGIN_SECONDS, 0.0
        while not attacker.is_spent() and time.monotonic() < end:
            most = max(most, server.counted("octavo_requests_in_flight"))
            time.sleep(0.1)
        time.sleep(_DEADLINE_SECONDS + _AFTER_SECONDS)
        held = server.counted("octavo_requests_in_flight")
        size = server.metric("octavo_request_bytes_in_flight")
        counted = attacker.stop()
    return {
        "hostile_places": Figure(held, "calls") if most else Missing("no call began"),
        "hostile_places_most": Figure(most, "calls"),
        "hostile_places_bytes": Figure(size, "bytes"),
        **{f"hostile_client.places.{what}": Figure(value, "") for what, value in counted.items()},
    }
