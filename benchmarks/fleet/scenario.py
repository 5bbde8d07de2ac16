"""A fleet: two replicas of one thread each on Ray, against one server of two threads; and simulated fleets.

fleet_same: answers that equal those of one server, by all methods of octavo.v1, through stock stubs; times, prices and
what the cache had are left out.

fleet_over_one_long, fleet_over_one_short: throughput over that of one server, by turns; documents of about 8,000
tokens, and lines of about 25.

fleet_hop_ms: what the front adds to a call for a cached document of about 2,000 tokens, median.

affinity_hits: documents that are edited again and again; segments that the fleet did not compute over those that one
server did not. Replicas have a cache folder each.

fleet_kills_lost, fleet_kills_wrong: unary calls, streams and bulk by the client library, each with a deadline of 30 s,
while replicas are killed at random moments.

rolling_failed: the same while the model changes, there and back: failed calls, and answers of neither model.

scale_up_s: ever more is asked of one replica, until 24 calls wait, and as much for another minute; seconds from there
until the number of waiting calls is at its largest, a second replica being there.

ray_batch_same: rows of `octavo batch --engine ray` that equal those of `octavo batch --local`, vectors bit for bit; a
row's computed and cached tokens depend on what else was computed at the same time, and are left out.

ray_batch_x: throughput over that, two replicas with half of the cores each. A job's time is its command's less that of
a job of one document, which starts all the same; in turns. ray_batch_start_s: what starting costs more.

The others: `benchmarks/fleet/simulated.py`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import click

from benchmarks.figures import Figures, Missing, Outcome, attempt
from benchmarks.fleet import bulk, failing, measured
from benchmarks.fleet.served import NEEDS_RAY, has_ray
from benchmarks.fleet.simulated import simulate

PARTS: Final = {
    "simulated": ("affinity_simulated", "affinity_imbalance"),
    "same": ("fleet_same",),
    "speed": ("fleet_over_one_long", "fleet_over_one_short", "fleet_hop_ms"),
    "affinity": ("affinity_hits",),
    "kills": ("fleet_kills_lost", "fleet_kills_wrong"),
    "rolling": ("rolling_failed",),
    "scaling": ("scale_up_s",),
    "bulk": ("ray_batch_same", "ray_batch_x"),
}
"""The figures that each part promises."""


@click.option("--simulate", "only_simulated", is_flag=True, help="Only replay traffic on simulated replicas.")
@click.option("--only", "parts", type=click.Choice([*PARTS]), multiple=True, help="Only this part. Repeatable.")
@click.option("--replicas", default=1_000, show_default=True, help="Of affinity_simulated and affinity_imbalance.")
@click.option("--requests", default=500, show_default=True, help="For each simulated replica.")
@click.option("--edits", default=400, show_default=True, help="Of real texts, for simulated replicas.")
@click.option("--rounds", default=5, show_default=True, help="Of throughput.")
@click.option("--documents", default=400, show_default=True, help="Edited documents.")
@click.option("--kills", default=50, show_default=True, help="Of replicas.")
@click.option("--seed", default=8**3, show_default=True, help="Makes documents, traffic and edits.")
def run(only_simulated: bool, parts: Sequence[str], rounds: int, documents: int, kills: int, **others: int) -> Figures:
    """Measure the parts one after the other."""
    seed = others["seed"]
    wanted = ("simulated",) if only_simulated else parts or tuple(PARTS)
    measures: dict[str, Callable[[], Figures]] = {
        "simulated": partial(simulate, others["replicas"], others["requests"], others["edits"], seed),
        "same": partial(measured.same, 12, seed),
        "speed": partial(measured.speed, rounds, seed),
        "affinity": partial(measured.affinity, documents, 5, seed),
        "kills": partial(failing.kills, kills, seed),
        "rolling": partial(failing.rolling, seed),
        "scaling": partial(failing.scaling, seed),
        "bulk": partial(bulk.measure, rounds, seed),
    }
    figures: dict[str, Outcome] = {}
    for part, ids in PARTS.items():
        if part not in wanted:
            figures |= dict.fromkeys(ids, Missing(f"needs: the part {part}"))
        elif part != "simulated" and not has_ray():
            figures |= dict.fromkeys(ids, Missing(NEEDS_RAY))
        else:
            figures |= attempt(ids, measures[part])
    return figures
