"""Bulk jobs on Ray against those of one local server, on the same cores."""

import random
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.batch import Job, all_texts, lasting, rows_of, written
from benchmarks.figures import Figure, Figures
from benchmarks.statistics import proportion
from benchmarks.workloads import DEFAULT_MODEL
from encoder.threads import usable_cores

_REPLICAS = 2
_CHARACTERS = 1_000_000
_PART_ROWS = 5  # some 40 parts, since these are what replicas share
_CORES = max(1, usable_cores() // _REPLICAS)
_FLAGS = ("--model", DEFAULT_MODEL, "--cache-mode", "bypass", "--part-rows", str(_PART_ROWS))
_ENGINES = {
    "local": ("--local",),
    "ray": ("--engine", "ray", "--replicas", str(_REPLICAS), "--replica-cpus", str(_CORES)),
}


def measure(rounds: int, seed: int, characters: int = _CHARACTERS) -> Figures:
    """Run both kinds of job in turns, with one document and with many."""
    draw, texts = random.Random(seed), all_texts()
    chosen: list[str] = []
    while sum(map(len, chosen)) < characters:
        chosen.append(texts.pop(draw.randrange(len(texts))))
    with tempfile.TemporaryDirectory(prefix="octavo-ray-batch-") as scratch:
        folder = Path(scratch)
        files = {"one": written(folder / "one.jsonl", chosen[:1]), "all": written(folder / "all.jsonl", chosen)}
        seconds: dict[tuple[str, str], list[float]] = {(engine, name): [] for engine in _ENGINES for name in files}
        for number in range(rounds):
            for (engine, name), taken in seconds.items():
                start = time.perf_counter()
                Job(files[name], (*_FLAGS, *_ENGINES[engine])).do(folder / f"{engine}-{name}-{number}")
                taken.append(time.perf_counter() - start)
        ours, theirs = (rows_of(folder / f"{engine}-all-0") for engine in _ENGINES)
    same = [lasting(a) == lasting(b) for a, b in zip(ours, theirs, strict=True)]
    starts = {engine: statistics.median(seconds[engine, "one"]) for engine in _ENGINES}
    local, ray = ([each - starts[engine] for each in seconds[engine, "all"]] for engine in _ENGINES)
    return {
        "ray_batch_same": proportion(same),
        "ray_batch_x": Figure(statistics.median(a / b for a, b in zip(local, ray, strict=True)), "x", n=rounds),
        "ray_batch_start_s": Figure(starts["ray"] - starts["local"], "s", n=rounds),
        "ray_batch_seconds.local": Figure(statistics.median(local), "s", n=rounds),
        "ray_batch_seconds.ray": Figure(statistics.median(ray), "s", n=rounds),
    }
