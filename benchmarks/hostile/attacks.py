"""Memory and a polite client's latency during each attack."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import click

from benchmarks import histograms
from benchmarks.endpoint import Endpoint
from benchmarks.figures import Figure, Figures, Missing, Outcome, reason_of
from benchmarks.hostile import clients
from benchmarks.hostile.attackers import Attack, attacking
from benchmarks.hostile.polite import Calls, polite
from benchmarks.hostile.watch import Watch
from benchmarks.loading.guests import invite, toml
from benchmarks.served import serve
from benchmarks.statistics import percentile

__all__ = ["Beside", "beside", "measure"]

_MILLI = 1000.0
_NO_ANONYMOUS = "[clients.anonymous]\ndisabled = true\n"
_ATTACKS: Mapping[str, tuple[Attack, str]] = {
    "documents": (clients.unread_documents, ""),
    "incomplete": (clients.incomplete_requests, ""),
    "refused": (clients.incomplete_requests, _NO_ANONYMOUS),
    "replies": (clients.unread_replies, ""),
    "empty": (clients.empty_documents, ""),
    "watches": (clients.watches, ""),
}


@dataclass(frozen=True, slots=True)
class Beside:
    """What an attack did to the server and to the polite caller."""

    alone: Calls
    attacked: Calls
    growth_mb: float
    cores: float
    counted: Mapping[str, float]

    @property
    def latency(self) -> float:
        """P99 beside the attack over p99 before."""
        return percentile(self.attacked.seconds, 99, "s").value / percentile(self.alone.seconds, 99, "s").value


def measure(names: Sequence[str]) -> Figures:
    """Meet each of the named attacks, and take the worst of all."""
    figures: dict[str, Outcome] = {}
    met: dict[str, Beside] = {}
    for name in names:
        try:
            found = met[name] = beside(*_ATTACKS[name])
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
    """Start a server, let the polite caller call, and attack."""
    (guest,) = invite(1)
    with serve(config=toml([guest]) + settings) as server, polite(Endpoint(server.address, guest.key)) as caller:
        alone = caller.calls()
        with Watch(server.pid) as watch, attacking(attack, Endpoint(server.address)) as attacker:
            attacked = caller.calls(lambda: not attacker.is_spent())
            counted = attacker.stop()
        return Beside(alone, attacked, watch.growth_mb, watch.cores, counted)


def _of_attack(name: str, found: Beside) -> Figures:
    return {
        f"hostile_memory_mb.{name}": Figure(found.growth_mb, "MB"),
        f"hostile_latency.{name}": Figure(found.latency, "x", n=len(found.attacked.seconds)),
        f"hostile_failed.{name}": Figure(found.attacked.failed, "calls", n=len(found.attacked.seconds)),
        f"hostile_cores.{name}": Figure(found.cores, "cores"),
        f"hostile_p99_ms.{name}": percentile([_MILLI * each for each in found.attacked.seconds], 99, "ms"),
        **{f"hostile_client.{name}.{what}": Figure(value, "") for what, value in found.counted.items()},
        f"hostile_{name}.alone": histograms.distribution(
            found.alone.seconds, f"A polite caller, alone and beside {name}"
        ),
        f"hostile_{name}.beside": histograms.distribution(
            found.attacked.seconds, f"A polite caller, alone and beside {name}"
        ),
    }
