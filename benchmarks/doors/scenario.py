"""Doors: real clients of other ecosystems, the same vectors through every dialect, their cost, and what breaks them.

clients_unchanged: share of clients (a registry's release each, in an environment of its own) that embed or rank, meet a
limit, wait as they are told, and end well. Each runs `benchmarks/doors/clients/NAME.py`, which has no line of ours.

same_vectors: share of texts of 1 to 5,000 tokens whose vectors through a dialect equal octavo.v1's over gRPC, bit for
bit where the dialect carries bits, else as the nearest float32.

http_overhead: p50 of one short text through `/v1/embeddings` over that through gRPC's Embed; one connection each, calls
in turns, nothing cached. http_throughput: tokens a second of calls with 64 texts of 300 tokens, over gRPC's.

kserve_overhead: tritonclient's p50 for one short text over that of Octavo's client; each in a process of its own, in
turns. kserve_same_vectors, kserve_truncated_silently and kserve_internal: as below, over KServe v2 and of its frames.

doors_internal: of generated requests by schemathesis over the OpenAPI document, and of 20,000 fuzzed HTTP requests:
those that ended in a 500, an INTERNAL, an UNKNOWN, or not at all.

truncated_silently: tokens of texts of 600 to 60,000 tokens that a dialect did not read and did not tell.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import click

from benchmarks.doors import clients, fuzz, speed, vectors
from benchmarks.doors.kserve import measure as kserve
from benchmarks.figures import Figures, Missing, Outcome, attempt

PARTS = {
    "clients": ("clients_unchanged",),
    "vectors": ("same_vectors", "truncated_silently"),
    "speed": ("http_overhead", "http_throughput"),
    "kserve": ("kserve_overhead", "kserve_same_vectors", "kserve_truncated_silently", "kserve_internal"),
    "fuzz": ("doors_internal",),
}


@click.option("--only", multiple=True, type=click.Choice([*PARTS]), help="This part; repeatable.")
@click.option("--rounds", default=200, show_default=True, help="Of each timed call.")
@click.option("--requests", default=20_000, show_default=True, help="Of the fuzzer.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
def run(only: Sequence[str], rounds: int, requests: int, seed: int) -> Figures:
    """Run the parts one after the other; one that fails leaves the others alone."""
    measures: Mapping[str, Callable[[], Figures]] = {
        "clients": clients.measure,
        "vectors": vectors.measure,
        "speed": partial(speed.measure, rounds),
        "kserve": partial(kserve.measure, requests, seed),
        "fuzz": partial(fuzz.measure, requests, seed),
    }
    figures: dict[str, Outcome] = {}
    for part, ids in PARTS.items():
        if not only or part in only:
            click.echo(f"doors: {part}", err=True)
            figures |= attempt(ids, measures[part])
        else:
            figures |= dict.fromkeys(ids, Missing("left out by --only"))
    return figures
