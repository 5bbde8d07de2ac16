"""Bulk jobs: completeness, equality with and without a server, kills, throughput relative to the engine, memory.

The documents are all state of the union addresses and all mails of spam-assassin; for kills, short parts of them.
`octavo batch` runs as a command, and its output is read from its files.

batch_complete, batch_same: one job through a server and one in process (`--local`), of 33 million characters, and
therefore with splade-tiny unless `--all-model` is given. The share of documents that have one row in both, with a
vector or with the error required for a text without words; and the share with equal vectors.

batch_kills_wrong: jobs killed by SIGKILL at random moments and restarted until they are done, some in process. The
number of rows lost, duplicated, or different from an undisturbed job; computed and cached tokens in a row's usage
depend on the cache and are not compared.

batch_over_engine: tokens per second of jobs in process, from the first document read to the last part written, over
reading and running the same texts without a server. Neither includes loading the model.

batch_memory: peak resident memory of the command and its server on 100,000 documents of a few words, over that on
1,000, with splade-tiny. The server's layer cache is off, because it always fills up to its limit.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.figures import Figure, Figures, Outcome, attempt
from benchmarks.race import Race, timed
from benchmarks.served import peak_memory, serve
from benchmarks.statistics import proportion, ratio
from benchmarks.texts import sotu, spam_assassin
from benchmarks.workloads import DEFAULT_MODEL, document_segments
from chunking import load_tokenizer
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
    """An input and how it is done."""

    input: Path
    flags: tuple[str, ...]

    def command(self, output: Path) -> list[str]:
        """The command line."""
        return [
            *(sys.executable, "-c", "from octavo.cli import main; main()", "batch"),
            *("--input", str(self.input), "--output", str(output), *self.flags),
        ]

    def start(self, output: Path) -> "subprocess.Popen[bytes]":
        """Begin, or go on."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OCTAVO_")}
        return subprocess.Popen(
            self.command(output), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )

    def do(self, output: Path) -> dict[str, Any]:
        """Do all of it; the summary.

        Raises:
            RuntimeError: it did not end well.
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
    figures: dict[str, Outcome] = {}
    for name in parts.split(","):
        ids, measure = measures[name]
        with tempfile.TemporaryDirectory(prefix="octavo-batch-") as scratch:
            figures |= attempt(ids, lambda measure=measure, scratch=scratch: measure(Path(scratch)))  # type: ignore[misc]
    return figures


def both_ways(model: str, folder: Path) -> Figures:
    """All texts through a server, and in process."""
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
        "batch_empty": Figure(len(empty), "documents"),
        "batch_tokens_per_second": Figure(summary["run"]["tokens_per_second"], "tokens/s"),
    }


def _is_right(row: dict[str, Any], empty: set[str]) -> bool:
    """A vector; or, of a mail without a word, the error that says so."""
    if row["id"] in empty:
        return bool(row["error"] and row["error"]["reason"] == "EMPTY_DOCUMENT")
    return row["vector"] is not None and row["error"] is None


def kills(model: str, trials: int, seed: int, folder: Path) -> Figures:
    """Kill jobs until there were enough kills; look at each output when its job is done."""
    draw = random.Random(seed)
    file = written(folder / "texts.jsonl", stretches(_KILL_DOCUMENTS, draw, 40, 120))
    small = ("--part-rows", str(_KILL_PART_ROWS), "--keep", "number", "--cache-mode", "bypass")
    done = wrong = jobs = 0
    with serve("--model", model) as server:
        served = Job(file, ("--server", server.address, *small))
        start = time.monotonic()
        served.do(folder / "undisturbed")
        usual = time.monotonic() - start
        truth = [_lasting(row) for row in rows_of(folder / "undisturbed")]
        while done < trials:
            jobs += 1
            output = folder / f"job-{jobs}"
            local = jobs % 10 == 1 and done + _LOCAL_KILLS <= trials
            job = Job(file, ("--local", "--model", model, *small)) if local else served
            longest = usual + 4.0 if local else usual
            done += _killed(job, output, draw, longest, min(trials - done, _LOCAL_KILLS if local else trials))
            wrong += _differences(truth, [_lasting(row) for row in rows_of(output)])
    return {
        "batch_kills_wrong": Figure(wrong, "rows", n=done),
        "batch_kills_jobs": Figure(jobs, "jobs"),
    }


def _killed(job: Job, output: Path, draw: random.Random, longest: float, most: int) -> int:
    """Do a job with up to so many kills; how many there were."""
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


def _lasting(row: dict[str, Any]) -> dict[str, Any]:
    usage = row["usage"] and {name: row["usage"][name] for name in ("tokens", "processed_tokens")}
    return {**row, "usage": usage}


def _differences(truth: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> int:
    """Rows that are lost, doubled or different: whatever is not in its place as it should be."""
    return abs(len(truth) - len(rows)) + sum(a != b for a, b in zip(truth, rows, strict=False))


def over_engine(model: str, rounds: int, seed: int, folder: Path) -> Figures:
    """The same texts in turns; the longest first, so that no stream is left alone with one at the end."""
    from benchmarks.runner import Engine

    draw, texts = random.Random(seed), all_texts()
    chosen: list[str] = []
    while sum(map(len, chosen)) < _RACE_CHARACTERS:
        chosen.append(texts.pop(draw.randrange(len(texts))))
    chosen.sort(key=len, reverse=True)
    job = Job(written(folder / "texts.jsonl", chosen), ("--local", "--model", model, "--cache-mode", "bypass"))
    source = ModelSettings(path=model).folder
    engine, tokenizer, outputs = Engine(source), load_tokenizer(source), iter(range(1_000))
    race = Race(
        {
            "batch": lambda: float(job.do(folder / f"out-{next(outputs)}")["run"]["working_seconds"]),
            "engine": timed(
                lambda: engine.embed_as_read(ids for text in chosen for ids in document_segments(text, tokenizer))
            ),
        }
    )
    race.warm_up()
    race.measure(rounds)
    for missing in race.missing.values():
        raise RuntimeError(missing.reason)
    return {"batch_over_engine": ratio(race.seconds["engine"], race.seconds["batch"])}


def memory(many: int, seed: int, folder: Path) -> Figures:
    """A fresh server for each of the two jobs."""
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
    """So many texts of so many words each, from anywhere in the addresses."""
    words = [word for text in sotu()[:60] for word in text.split()]
    for _ in range(count):
        start = draw.randrange(len(words) - longest)
        yield " ".join(words[start : start + draw.randint(shortest, longest)])


def written(path: Path, texts: Sequence[str] | Iterator[str]) -> Path:
    """The texts as lines of JSON, their numbers for ids."""
    with path.open("w", encoding="utf-8") as file:
        for number, text in enumerate(texts):
            file.write(json.dumps({"id": str(number), "number": number, "text": text}) + "\n")
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """All rows that a job wrote, in order.

    Raises:
        FileNotFoundError: it does not say that it is done.
    """
    from pyarrow import parquet

    if not (folder / "_SUCCESS").exists():
        raise FileNotFoundError(f"{folder.name} has no _SUCCESS")
    return [row for part in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(part).to_pylist()]
