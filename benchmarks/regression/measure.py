"""One check's measurements: ours and fixed work in turns, on the same cores, within seconds of each other."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, workloads
from benchmarks.figures import Figure
from benchmarks.peers.worker_octavo import Octavo
from benchmarks.race import Race, Run, timed
from benchmarks.regression.reference import Products, script
from benchmarks.served import serve
from benchmarks.statistics import ratio
from encoder.threads import usable_cores
from octavo.client import Client
from server.settings import ModelSettings

__all__ = ["RATIOS", "Measured", "measure", "slowed"]

RATIOS = {
    "engine": "products",  # segments through the encoder, without a server
    "server": "products",  # a document that is computed, through gRPC
    "again": "script",  # a document that the server has in memory, through gRPC
}
"""What is checked, and the fixed work that it is held to."""

_SHORT, _LONG = 4_000, 32_000
_CALLS = 6  # in one run of `again`, the fastest of which counts


@dataclass(frozen=True, slots=True)
class Measured:
    """How many times as fast as the fixed work each was, and the machine's kind, for which alone that says anything."""

    kind: str
    figures: dict[str, Figure]


def measure(planted: Mapping[str, float], rounds: int = 9) -> Measured:
    """Measure the ratios. ``planted`` slows a part down by a share of its time, to see whether that is noticed."""
    folder = ModelSettings(path=workloads.DEFAULT_MODEL).folder
    with ThreadPoolExecutor(1) as aside:
        loading = aside.submit(Octavo, str(folder))
        with serve("--model", workloads.DEFAULT_MODEL) as server, Client(server.address) as client:
            engine = loading.result()
            race = Race({name: slowed(run, planted.get(name, 0.0)) for name, run in _runs(engine, client, folder)})
            race.warm_up(2)
            race.measure(rounds)
    for name, missing in race.missing.items():
        raise RuntimeError(f"{name}: {missing.reason}")
    figures = {name: ratio(race.seconds[fixed], race.seconds[name]) for name, fixed in RATIOS.items()}
    return Measured(_kind(engine), figures)


def _runs(engine: Octavo, client: Client, folder: Path) -> list[tuple[str, Run]]:
    cores = usable_cores()
    segments = workloads.content_segments(folder, tokens=_SHORT)
    short, long = (workloads.text_of(tokens, folder) for tokens in (_SHORT, _LONG))
    client.embed(long, timeout=120)

    def call() -> None:
        result = client.embed(long, timeout=120)
        if result.usage.computed_tokens:
            raise RuntimeError("the document was not in the cache")

    def again() -> float:
        # What else the machine does only ever adds, and of ten milliseconds it can make twenty: over fresh processes
        # the means of six calls lay within 20 % of each other, the fastest ones within 4 %.
        return min(timed(call)() for _ in range(_CALLS))

    return [
        ("products", timed(Products(cores))),
        ("engine", timed(lambda: engine.embed(segments, 0, cores))),
        ("server", timed(lambda: client.embed(short, timeout=120, cache_mode="bypass"))),
        ("script", timed(script)),
        ("again", again),
    ]


def slowed(run: Run, share: float) -> Run:
    """Busy the core after each run for a share of its time, as slower code would."""
    if not share:
        return run

    def slower() -> float:
        seconds = run()
        ended = time.perf_counter()
        while (more := time.perf_counter() - ended) < share * seconds:
            pass
        return seconds + more

    return slower


def _kind(engine: Octavo) -> str:
    """Name what decides the ratios: the processor's kind, the cores, the scheme and the kernels in force."""
    told, described = engine.describe(), machine.describe()
    processor = f"{described['cpu']} {described['cpu_family_model']}".strip()
    return f"{processor}, {described['cores']} cores, {told['scheme']}, {told['kernels']}"
