"""Bulk jobs: complete, identical both ways, resumable after kills, as fast as the engine, in bounded memory.

The documents are all addresses on the state of the union and all mails of spam-assassin; the kills' are short stretches
of them. `octavo batch` runs as a command of its own, as a user runs it, and what it wrote is read from its files.

batch_complete, batch_same: a job through a server and one in process (`--local`), of 33 million characters, and
therefore with splade-tiny unless `--all-model` says otherwise; the share of documents that have one row in both, with a
vector or with the error that a text without a word has to have, and of those whose vectors are equal.

batch_kills_wrong: jobs killed by SIGKILL at random moments and resumed until they are done, some of them local.
Counts rows that are lost, doubled, or different from those of an undisturbed job; a row's computed and cached tokens
depend on the cache and are not compared.

batch_over_engine: tokens a second of jobs in process, from the first document read to the last part written, over
reading and running the same texts without a server. Loading the model counts on neither side.

batch_memory: peak resident memory of the command and its server together on 100,000 documents of a few words, over
that on 1,000, with splade-tiny. The server's layer cache is off: it fills up to its own bound, whoever calls.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import Figure, Figures, attempt_each
from benchmarks.served import PROGRAM, environment, peak_memory, serve
from benchmarks.statistics import proportion
from benchmarks.texts import sotu, spam_assassin
from benchmarks.workloads import DEFAULT_MODEL
from server.config.schema import ModelSettings

_QUICK_MODEL = "splade-tiny"
_OK, _SOME_FAILED = 0, 1
_KILL_DOCUMENTS, _KILL_PART_ROWS = 250, 10
_LOCAL_KILLS = 5  # of a job in process, which loads the model each time; one job in ten is one
_RACE_CHARACTERS = 1_000_000
_POLL_SECONDS = 0.05
_FEW, _MANY = 1_000, 100_000


@dataclass(frozen=True, slots=True)
class Job:
    """A bulk job: its input and its flags."""

    input: Path
    flags: tuple[str, ...]

    def command(self, output: Path) -> list[str]:
        """The command line."""
        return [
            *(sys.executable, "-c", PROGRAM, "batch"),
            *("--input", str(self.input), "--output", str(output), *self.flags),
        ]

    def start(self, output: Path) -> "subprocess.Popen[bytes]":
        """Start or resume it."""
        return subprocess.Popen(
            self.command(output), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()
        )

    def do(self, output: Path) -> dict[str, Any]:
        """Run it to its end; return the summary.

        Raises:
            RuntimeError: it failed.
        """
        process = self.start(output)
        said, _ = process.communicate()
        if process.returncode not in {_OK, _SOME_FAILED}:
            raise RuntimeError(f"octavo batch ended with status {process.returncode}")
        summary: dict[str, Any] = json.loads(said)
        return summary


@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="The model's name or folder.")
@click.option("--all-model", default=_QUICK_MODEL, show_default=True, help="The model that reads all texts.")
@click.option("--kill-trials", default=50, show_default=True, help="Kills at random moments.")
@click.option("--rounds", default=4, show_default=True, help="Of a job in process and the engine, in turns.")
@click.option("--many", default=_MANY, show_default=True, help="Documents whose peak of memory is compared.")
@click.option("--seed", default=8**3, show_default=True, help="Of every random choice.")
@click.option("--parts", default="all,kills,engine,memory", show_default=True, help="Which to measure.")
def run(model: str, all_model: str, kill_trials: int, rounds: int, many: int, seed: int, parts: str) -> Figures:
    """Measure each part with files of its own."""
    measures: dict[str, tuple[tuple[str, ...], Callable[[Path], Figures]]] = {
        "all": (("batch_complete", "batch_same"), lambda folder: both_ways(all_model, folder)),
        "kills": (("batch_kills_wrong",), lambda folder: kills(model, kill_trials, seed, folder)),
        "engine": (("batch_over_engine",), lambda folder: over_engine(model, rounds, seed, folder)),
        "memory": (("batch_memory",), lambda folder: memory(many, seed, folder)),
    }
    return attempt_each(dict(measures[name] for name in parts.split(",")))


def both_ways(model: str, folder: Path) -> Figures:
    """Send all texts through a server, and process them locally."""
    texts = all_texts()
    file = written(folder / "texts.jsonl", texts)
    with serve("--model", model) as server:
        Job(file, ("--server", server.address)).do(folder / "served")
    cache = ("--cache-mode", "bypass")  # else it would be answered from what an earlier run has left
    summary = Job(file, ("--local", "--model", model, *cache)).do(folder / "local")
    served, local = rows_of(folder / "served"), rows_of(folder / "local")
    wanted = [str(number) for number in range(len(texts))]
    empty = {str(number) for number, text in enumerate(texts) if not text.strip()}
    right = [
        [[row["id"] for row in rows] == wanted and _is_right(row, empty) for row in rows] for rows in (served, local)
    ]
    same = [a["vector"] == b["vector"] for a, b in zip(served, local, strict=True)]
    return {
        "batch_complete": proportion(min(right, key=sum)),
        "batch_same": proportion(same),
        "batch_tokens": Figure(summary["tokens"], "tokens"),
    }


def _is_right(row: dict[str, Any], empty: set[str]) -> bool:
    """A vector; or, for a mail without a word, the right error."""
    if row["id"] in empty:
        return bool(row["error"] and row["error"]["reason"] == "EMPTY_DOCUMENT")
    return row["vector"] is not None and row["error"] is None


def kills(model: str, trials: int, seed: int, folder: Path) -> Figures:
    """Kill jobs until there are enough kills; check each output when its job is done."""
    draw = random.Random(seed)
    file = written(folder / "texts.jsonl", stretches(_KILL_DOCUMENTS, draw, 40, 120))
    small = ("--part-rows", str(_KILL_PART_ROWS), "--keep", "number", "--cache-mode", "bypass")
    done = wrong = jobs = 0
    with serve("--model", model) as server:
        served = Job(file, ("--server", server.address, *small))
        start = time.monotonic()
        served.do(folder / "undisturbed")
        usual = time.monotonic() - start
        truth = [lasting(row) for row in rows_of(folder / "undisturbed")]
        while done < trials:
            jobs += 1
            output = folder / f"job-{jobs}"
            local = jobs % 10 == 1 and done + _LOCAL_KILLS <= trials
            job = Job(file, ("--local", "--model", model, *small)) if local else served
            longest = usual + 4.0 if local else usual
            done += _killed(job, output, draw, longest, min(trials - done, _LOCAL_KILLS if local else trials))
            wrong += _differences(truth, [lasting(row) for row in rows_of(output)])
    return {
        "batch_kills_wrong": Figure(wrong, "rows", n=done),
        "batch_kills_jobs": Figure(jobs, "jobs"),
    }


def _killed(job: Job, output: Path, draw: random.Random, longest: float, most: int) -> int:
    """Run a job with at most ``most`` kills; return how many there were."""
    for kill in range(most):
        process = job.start(output)
        try:
            process.wait(draw.uniform(0, longest))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            continue
        process.communicate()
        if process.returncode != _OK:
            raise RuntimeError(f"octavo batch, gone on with, ended with status {process.returncode}")
        return kill
    job.do(output)
    return most


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the tokens that depend on what else was computed before or at the same time."""
    usage = row["usage"] and {name: row["usage"][name] for name in ("tokens", "processed_tokens")}
    return {**row, "usage": usage}


def _differences(truth: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> int:
    """Count the rows that are lost, doubled or different."""
    return abs(len(truth) - len(rows)) + sum(a != b for a, b in zip(truth, rows, strict=False))


def over_engine(model: str, rounds: int, seed: int, folder: Path) -> Figures:
    """Time the same texts in turns; the longest first, so that no stream ends with a long one alone."""
    from benchmarks import runner  # which loads PyTorch

    draw, texts = random.Random(seed), all_texts()
    chosen: list[str] = []
    while sum(map(len, chosen)) < _RACE_CHARACTERS:
        chosen.append(texts.pop(draw.randrange(len(texts))))
    chosen.sort(key=len, reverse=True)
    job = Job(written(folder / "texts.jsonl", chosen), ("--local", "--model", model, "--cache-mode", "bypass"))
    outputs = iter(range(1_000))

    def in_process() -> float:
        return float(job.do(folder / f"out-{next(outputs)}")["run"]["working_seconds"])

    return {"batch_over_engine": runner.over_engine(ModelSettings(path=model).folder, chosen, in_process, rounds)}


def memory(many: int, seed: int, folder: Path) -> Figures:
    """Run both jobs, each against a fresh server."""
    draw = random.Random(seed)
    peaks = {}
    for count in (_FEW, many):
        file = written(folder / f"{count}.jsonl", stretches(count, draw, 8, 20))
        with serve("--model", _QUICK_MODEL, "--set", "cache.enabled=false") as server:
            peaks[count] = (
                _peak(Job(file, ("--server", server.address)), folder / f"out-{count}"),
                server.peak_memory(),
            )
    few, lot = peaks[_FEW], peaks[many]
    return {
        "batch_memory": Figure(sum(lot) / sum(few), "x"),
        "batch_memory_mb.command": Figure(lot[0], "MiB"),
        "batch_memory_mb.server": Figure(lot[1], "MiB"),
        "batch_memory.command": Figure(lot[0] / few[0], "x"),
        "batch_memory.server": Figure(lot[1] / few[1], "x"),
    }


def _peak(job: Job, output: Path) -> float:
    """Peak resident memory of the command, in MiB."""
    process, peak = job.start(output), 0.0
    while process.poll() is None:
        peak = max(peak, peak_memory(process.pid))
        time.sleep(_POLL_SECONDS)
    process.communicate()
    if process.returncode != _OK:
        raise RuntimeError(f"octavo batch ended with status {process.returncode}")
    return peak


def all_texts() -> list[str]:
    """The addresses and the mails."""
    return [*sotu(), *(mail.text for mail in spam_assassin())]


def stretches(count: int, draw: random.Random, shortest: int, longest: int) -> Iterator[str]:
    """Draw texts of ``shortest`` to ``longest`` words from the addresses."""
    words = [word for text in sotu()[:60] for word in text.split()]
    for _ in range(count):
        start = draw.randrange(len(words) - longest)
        yield " ".join(words[start : start + draw.randint(shortest, longest)])


def written(path: Path, texts: Sequence[str] | Iterator[str]) -> Path:
    """Write the texts as lines of JSON, with their numbers as ids."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": str(number), "number": number, "text": text}) + "\n")
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Read all rows that a job wrote, in order.

    Raises:
        FileNotFoundError: the job has not finished.
    """
    from pyarrow import parquet

    if not (folder / "_SUCCESS").exists():
        raise FileNotFoundError(f"{folder.name} has no _SUCCESS")
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]
