"""Hostile clients: memory, a polite client's latency, places, background loops and revocations.

Each attack runs against a fresh server with default settings. Beside it, a polite client with its own key sends one
small call after another, at least 300 before the attack and 300 during it. Attackers have no key, a process each, and
nice 19. Everything runs on this machine.

hostile_memory_mb: peak resident memory, sampled ten times a second, above that of the warm server before; the worst of
60,000 documents through a stream that is never read; 200 requests of 9 MiB without credentials whose last bytes never
arrive, to a server that accepts them and to one that does not; 200 unread replies of 3.9 MB; 8 MB of empty documents,
five times; 2,000 health watches. `hostile_memory_mb.ATTACK` is that of each attack.

hostile_latency: p99 of the polite client's calls during an attack over that before; the worst of the attacks. A failed
call counts as its deadline of 10 s. `hostile_cores.ATTACK` is the server's CPU use meanwhile, in cores.

hostile_places: calls in flight, according to /metrics, 5 s after the default deadline of 64 stalled calls of eight
kinds that have no deadline of their own. The default deadline is set to 5 s. `hostile_places_bytes` are the bytes of
requests in flight then.

hostile_internal: of 20,000 calls to all methods with random fields, mutated messages and aborted streams, the number
that ended as INTERNAL or UNKNOWN, by the client's count or the server's, whichever is more.
`hostile_internal_by_protocol` are those among them that gRPC must end so, below the server: a compressed frame in a
call without an encoding.

parked_cpu, parked_p95: a client with 60,000 tokens per minute spends them evenly over a minute, then sends 3,000 small
documents at once. From the 75th second on: the server's CPU beyond that of as many tokens in the first minute, when
nothing waited; and a polite client's p95 over that before.

silent_deaths: faults in a background loop after which it neither did its work nor made /livez fail.

revocations_lost: of 100 keys revoked while their file was unreadable, partly written, or could not be opened for lack
of descriptors, those still accepted 5 s after the fault had ended.

pythons_passed: share of Python 3.11.2, 3.11.7 and 3.13 whose test suite passes; only measured with `--suite` for each.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import click

from benchmarks.figures import Figures, Missing, Outcome, attempt
from benchmarks.hostile import attacks, fuzz, parked, revoked, silent
from benchmarks.hostile.attacks import ATTACKS
from benchmarks.hostile.suites import passed

PARTS = {
    "attacks": ("hostile_memory_mb", "hostile_latency"),
    "places": ("hostile_places",),
    "fuzz": ("hostile_internal",),
    "parked": ("parked_cpu", "parked_p95"),
    "silent": ("silent_deaths",),
    "revoked": ("revocations_lost",),
    "suites": ("pythons_passed",),
}


@click.option("--only", multiple=True, type=click.Choice([*PARTS, *ATTACKS]), help="This part or attack; repeatable.")
@click.option("--calls", default=20_000, show_default=True, help="Of the fuzzer.")
@click.option("--revocations", default=100, show_default=True, help="Of keys.")
@click.option("--suite", "suites", multiple=True, type=click.Path(path_type=Path), help="A Python to test with.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(only: Sequence[str], calls: int, revocations: int, suites: Sequence[Path], seed: int) -> Figures:
    """Run the parts one after the other; one that fails leaves the others alone."""
    chosen = tuple(name for name in ATTACKS if name in only)
    measures: Mapping[str, Callable[[], Figures]] = {
        "attacks": partial(attacks.measure, chosen or tuple(ATTACKS)),
        "places": attacks.places,
        "fuzz": partial(fuzz.measure, calls, seed),
        "parked": parked.measure,
        "silent": silent.measure,
        "revoked": partial(revoked.measure, revocations, seed),
        "suites": partial(passed, suites),
    }
    figures: dict[str, Outcome] = {}
    for part, ids in PARTS.items():
        if not only or part in only or (part == "attacks" and chosen):
            click.echo(f"hostile: {part}", err=True)
            figures |= attempt(ids, measures[part])
        else:
            figures |= dict.fromkeys(ids, Missing("left out by --only"))
    return figures
