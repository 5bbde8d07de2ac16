"""Bulk jobs on Ray against those of one local server on the same cores, for `fleet`; needs the extra `ray`.

ray_batch_same: rows of both that are equal, all columns, vectors bit for bit.

ray_batch_x: throughput of `octavo batch --engine ray`, two replicas with half of the cores each, over that of
`octavo batch --local`, as the commands' times, each less the time of a job of one document. A command's time over a
whole minute or more, in turns.

ray_batch_start_s: what starting costs more: the time of the job of one document on Ray less the same locally.
"""

import random
import statistics
import time
from pathlib import Path

from benchmarks.batch import Job, all_texts, rows_of, written
from benchmarks.figures import Figure, Figures
from benchmarks.statistics import proportion
from benchmarks.workloads import DEFAULT_MODEL
from encoder.threads import usable_cores

_REPLICAS = 2
_PART_ROWS = 5  # some 40 parts of a million characters: work is shared by parts


def figures(characters: int, rounds: int, seed: int, folder: Path) -> Figures:
    """Run both kinds of job in turns, with one document and with many."""
    draw, texts = random.Random(seed), all_texts()
    draw.shuffle(texts)
    chosen: list[str] = []
    while sum(map(len, chosen)) < characters:
        chosen.append(texts.pop())
    files = {"one": written(folder / "one.jsonl", chosen[:1]), "all": written(folder / "all.jsonl", chosen)}
    flags = ("--model", DEFAULT_MODEL, "--cache-mode", "bypass", "--part-rows", str(_PART_ROWS))
    cores = max(1, usable_cores() // _REPLICAS)
    on_ray = ("--engine", "ray", "--replicas", str(_REPLICAS), "--replica-cpus", str(cores))
    engines = {"local": ("--local",), "ray": on_ray}
    seconds: dict[tuple[str, str], list[float]] = {(engine, name): [] for engine in engines for name in files}
    for number in range(rounds):
        for (engine, name), taken in seconds.items():
            start = time.perf_counter()
            Job(files[name], (*flags, *engines[engine])).do(folder / f"{engine}-{name}-{number}")
            taken.append(time.perf_counter() - start)
    ours, theirs = (rows_of(folder / f"{engine}-all-0") for engine in ("ray", "local"))
    same = [a == b for a, b in zip(ours, theirs, strict=True)]
    starts = {engine: statistics.median(seconds[engine, "one"]) for engine in engines}
    local, ray = ([each - starts[engine] for each in seconds[engine, "all"]] for engine in ("local", "ray"))
    ratios = [a / b for a, b in zip(local, ray, strict=True)]
    return {
        "ray_batch_same": proportion(same),
        "ray_batch_x": Figure(statistics.median(ratios), "x", n=rounds),
        "ray_batch_start_s": Figure(starts["ray"] - starts["local"], "s", n=rounds),
        "ray_batch_seconds.local": Figure(statistics.median(local), "s", n=rounds),
        "ray_batch_seconds.ray": Figure(statistics.median(ray), "s", n=rounds),
    }
