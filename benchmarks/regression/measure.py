"""The measurements of one check: ours and fixed work in turns, on the same cores, within seconds of each other."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import machine, workloads
from benchmarks.figures import Figure
from benchmarks.race import Race, Run, timed
from benchmarks.regression.answering import answering
from benchmarks.regression.reference import Products
from benchmarks.runner import Engine
from benchmarks.served import serve
from benchmarks.statistics import ratio
from encoder.threads import usable_cores
from octavo.client import Client
from server.config.schema import ModelSettings

RATIOS = {
    "engine": "products",  # segments through the encoder, without a server
    "server": "products",  # a document that is computed, through gRPC
    "again": "answering",  # a document that the server has in memory, through gRPC
}
"""What is checked, and the fixed work that it is held to."""

_SHORT, _LONG = 4_000, 32_000
_CALLS = 20  # from memory in a round: each takes ten milliseconds, where a document that is computed takes two hundred


@dataclass(frozen=True, slots=True)
class Measured:
    """How many times as fast as the fixed work each was, and the machine's kind, for which alone that says anything."""

    kind: str
    figures: dict[str, Figure]


def measure(planted: Mapping[str, float], rounds: int = 9) -> Measured:
    """Measure the ratios. `planted` slows a part down by a share of its time, to see whether that is noticed."""
    folder = ModelSettings(path=workloads.DEFAULT_MODEL).folder
    (text,) = workloads.consecutive([_LONG])
    with ThreadPoolExecutor(1) as aside:
        loading = aside.submit(Engine, folder)
        with (
            serve("--model", workloads.DEFAULT_MODEL) as server,
            Client(server.address) as client,
            answering(text) as asking,
        ):
            engine = loading.result()
            computing = _race(_computing(engine, client, folder), planted)
            remembering = _race({"answering": asking, "again": _again(client, text)}, planted)
            computing.warm_up(2)
            remembering.warm_up(_CALLS)
            for _ in range(rounds):
                computing.measure(1)
                remembering.measure(_CALLS)
    seconds = computing.seconds | remembering.seconds
    for name, missing in (computing.missing | remembering.missing).items():
        raise RuntimeError(f"{name}: {missing.reason}")
    figures = {name: ratio(seconds[fixed], seconds[name]) for name, fixed in RATIOS.items()}
    return Measured(_kind(engine), figures)


def _race(runs: Mapping[str, Run], planted: Mapping[str, float]) -> Race:
    return Race({name: slowed(run, planted.get(name, 0.0)) for name, run in runs.items()})


def _computing(engine: Engine, client: Client, folder: Path) -> dict[str, Run]:
    cores = usable_cores()
    segments, (text,) = workloads.content_segments(folder, tokens=_SHORT), workloads.consecutive([_SHORT])
    return {
        "products": timed(Products(cores)),
        "engine": timed(lambda: engine.embed(segments)),
        "server": timed(lambda: client.embed(text, timeout=120, cache_mode="bypass")),
    }


def _again(client: Client, text: str) -> Run:
    client.embed(text, timeout=120)

    def call() -> None:
        if client.embed(text, timeout=120).usage.computed_tokens:
            raise RuntimeError("the document was not in the cache")

    return timed(call)


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


def _kind(engine: Engine) -> str:
    """Name what decides the ratios: the processor's kind, the cores, the scheme and the kernels in force."""
    told, described = engine.describe(), machine.describe()
    processor = f"{described['cpu']} {described['cpu_family_model']}".strip()
    return f"{processor}, {described['cores']} cores, {told['scheme']}, {told['kernels']}"
