"""Hostile clients: memory, a polite caller's latency, places, and what dies or is forgotten.

Each attack meets a fresh server in its default settings, beside one more client with a key: the polite caller, who
sends one small call after the other, at least 300 before the attack and 300 beside it. Attackers have no key, a process
each, and nice 19. Everything stays on this machine.

hostile_memory_mb: peak resident memory, sampled ten times a second, over that of the warm server before; the worst of
60,000 documents through a stream that is never read; 200 requests of 9 MiB of which the last bytes never come, without
credentials, of a server that takes them and of one that does not; 200 unread replies of 3.9 MB; 8 MB of empty
documents, five times; 2,000 watches of its health. `hostile_memory_mb.ATTACK` is each.

hostile_latency: p99 of the polite caller's calls beside an attack over that before; the worst of the attacks. A call
that fails counts as its deadline of 10 s. `hostile_cores.ATTACK` is the server's CPU meanwhile, in cores.

hostile_places: calls in flight, as /metrics counts them, 5 s after the default deadline of 64 calls of eight kinds that
stalled without a deadline of their own. The default deadline is set to 5 s.

hostile_internal: 20,000 calls over all methods with random fields, mutated messages, and streams that break off: how
many ended as INTERNAL or UNKNOWN.

parked_cpu, parked_p95: a client with 60,000 tokens a minute spends them evenly over a minute, then sends 3,000 small
documents at once. From the 75th second on: the server's CPU beyond that of as many tokens in the first minute, when
nothing waited; and a polite caller's p95 over that before.

silent_deaths: faults in each background loop of a server after which it neither did its work nor failed /livez.

revocations_lost: of 100 keys that were revoked while their file was unreadable, half written, or could not be opened
for want of descriptors, those that still let somebody in 5 s after the fault was over.

pythons_passed: share of Python 3.11.2, 3.11.7 and 3.13 whose test suite passes; with `--suite` for each alone.
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
