"""The baselines, one record per kind of machine, measured several times in fresh processes; and the check itself.

A ratio is meaningless on another kind of machine: fixed work and ours benefit differently from an instruction or a
larger cache.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import Figure
from benchmarks.regression.measure import Measured, measure
from benchmarks.reporting.compare import quotient
from benchmarks.reporting.record import Record, read, write
from benchmarks.reporting.table import align
from benchmarks.statistics import summarise

BASELINES = Path(__file__).parents[1] / "results" / "baselines"
MARGIN = 0.07
"""A part is slower when its ratio is below the baseline by more than this: half of the 15 % that must be seen, on a
scale of factors, so that a quiet run is as far from failing as a slow one from passing."""
SUSPECT = 0.045
"""Below the baseline by more than this, a part is looked at again."""
_LOOKS = 3  # processes that decide what is suspect: a neighbour's load may outlast one


class NoBaselineError(LookupError):
    """There is none for this kind of machine; the message says how to write one."""


@dataclass(frozen=True, slots=True)
class Checked:
    """Each part's ratio over the baseline's, and those parts that are `slower`.

    One process tells whether anything is suspect; if so, the middle one of three decides.
    """

    kind: str
    over: Mapping[str, Figure]
    slower: tuple[str, ...]
    processes: int


def check(planted: Mapping[str, float] | None = None, folder: Path = BASELINES) -> Checked:
    """Measure in a fresh process and hold it against this machine's baseline; what is suspect, in two more.

    Raises:
        NoBaselineError: this kind of machine has none.
    """
    runs = [fresh(planted or {})]
    baseline = stored(runs[0].kind, folder)
    first = judged(baseline, runs, SUSPECT)
    if not first.slower:
        return first
    runs += [fresh(planted or {}) for _ in range(_LOOKS - 1)]
    return judged(baseline, runs, MARGIN)


def judged(baseline: Mapping[str, Figure], runs: Sequence[Measured], margin: float) -> Checked:
    """Divide the middle one of several runs by the baseline, and tell what is slower by more than the margin."""
    over = {name: _over(baseline[name], [run.figures[name] for run in runs]) for name in runs[0].figures}
    slower = tuple(name for name, each in over.items() if each.value < 1 / (1 + margin))
    return Checked(runs[0].kind, over, slower, len(runs))


def _over(baseline: Figure, measured: Sequence[Figure]) -> Figure:
    middle = sorted(measured, key=lambda figure: figure.value)[len(measured) // 2]
    return quotient(baseline, middle) or middle


def table(checked: Checked) -> str:
    """Print a line a part: its speed over the baseline's, and the verdict."""
    head = ("part", "speed over the baseline's", "verdict")
    rows = [
        (name, f"{each.value:.3f}", "SLOWER" if name in checked.slower else "held")
        for name, each in checked.over.items()
    ]
    return f"{checked.kind}\n{align([head, *rows])}"


def fresh(planted: Mapping[str, float]) -> Measured:
    """Measure in a process of its own: where memory and threads come to lie differs from process to process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(measure, planted).result()


def stored(kind: str, folder: Path = BASELINES) -> dict[str, Figure]:
    """Read the baseline of a kind of machine.

    Raises:
        NoBaselineError: there is none.
    """
    path = _path(kind, folder)
    if not path.exists():
        raise NoBaselineError(f"no baseline for {kind}; write one with --update, on a quiet machine")
    return {name: each for name, each in read(path).readings.items() if isinstance(each, Figure)}


def update(times: int = 5, folder: Path = BASELINES) -> Path:
    """Measure several times over and write this machine's baseline: the medians, so that no lucky run sets it."""
    started = datetime.now(UTC)
    runs = [fresh({}) for _ in range(times)]
    kind, names = runs[0].kind, runs[0].figures
    figures = {name: summarise([run.figures[name].value for run in runs], "x") for name in names}
    seconds = round((datetime.now(UTC) - started).total_seconds(), 1)
    record = Record(
        "baseline", machine.describe(), machine.versions(), machine.commit(), {"kind": kind, "times": times},
        started.isoformat(timespec="seconds"), seconds, figures,
    )  # fmt: skip
    path = _path(kind, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(record, path)
    return path


def _path(kind: str, folder: Path) -> Path:
    return folder / f"{re.sub(r'[^a-z0-9]+', '-', kind.lower()).strip('-')}.json"
