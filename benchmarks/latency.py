"""One caller's latency for documents of several lengths, through gRPC and the public client.

Calls are sequential (closed loop, one in flight): this is the latency of a single user, not of a loaded server. Every
call sends a different text, so that nothing is answered from the cache.
"""

import time
from typing import Any

import click

from benchmarks import workloads
from benchmarks.endpoint import reached, server_options
from benchmarks.figures import Figures, Outcome
from benchmarks.histograms import distribution
from benchmarks.race import Race, Run
from benchmarks.statistics import percentile_ms
from octavo.client import Client

_RANKS = (50, 95, 99)


@server_options
@click.option("--model", default=workloads.DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option(
    "--lengths", default="16,128,510,2048,8192", show_default=True, help="Tokens of the documents, by commas."
)
@click.option("--calls", default=100, show_default=True, help="Calls of each length.")
def run(model: str, lengths: str, calls: int, **where: Any) -> Figures:
    """Measure p50, p95 and p99 for each length, in turns."""
    sizes = [int(size) for size in lengths.split(",")]
    texts = workloads.consecutive(sizes * (calls + 1))
    with reached(where, "--model", model) as (endpoint, _), endpoint.client() as client:
        race = Race({str(size): _embed(client, texts[place :: len(sizes)]) for place, size in enumerate(sizes)})
        race.warm_up()
        race.measure(calls)
    figures: dict[str, Outcome] = {f"p{_RANKS[0]}_ms.{name}": missing for name, missing in race.missing.items()}
    for size, seconds in race.seconds.items():
        for rank in _RANKS:
            figures[f"p{rank}_ms.{size}"] = percentile_ms(seconds, rank)
        figures[f"latency.{size} tokens"] = distribution(seconds, "What one caller waits, by the document's length")
    return figures


def _embed(client: Client, texts: list[str]) -> Run:
    left = iter(texts)

    def call() -> float:
        text = next(left)
        start = time.perf_counter()
        client.embed(text, timeout=120)
        return time.perf_counter() - start

    return call
