"""A run's record: JSON for machines, a table for people."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Missing, Outcome
from benchmarks.targets import Target, Verdict, judge, of_scenario

__all__ = ["Record", "table", "write"]

_NEAR_ONE, _THOUSAND = 0.9, 1000


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that a later reader needs to believe a figure, or to doubt it."""

    scenario: str
    machine: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    settings: dict[str, Any]
    started: str
    seconds: float
    figures: Figures

    @property
    def misses(self) -> list[str]:
        """Ids of figures that are missing or do not hold what they must."""
        targets = of_scenario(self.scenario)
        verdicts = {name: judge(outcome, targets.get(name)) for name, outcome in self.figures.items()}
        return [name for name, verdict in verdicts.items() if verdict in {Verdict.MISS, Verdict.MISSING}]

    def as_json(self) -> dict[str, Any]:
        """Give the documented form. A missing figure has ``value`` null and a ``missing`` that says why."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return fields | {"figures": {name: _figure_json(outcome) for name, outcome in self.figures.items()}}


def write(record: Record, path: Path) -> None:
    """Write the record whole or not at all."""
    text = json.dumps(record.as_json(), indent=2, ensure_ascii=False, allow_nan=False, default=str) + "\n"
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def table(record: Record) -> str:
    """Print a line a figure: those with a target first, in the targets' order, then the others as they came."""
    targets = of_scenario(record.scenario)
    promised = [name for name in targets if name in record.figures]
    others = [name for name in record.figures if name not in targets]
    head = ("figure", "value", "95 % interval", "n", "must", "reach", "verdict")
    rows = [_row(name, record.figures[name], targets.get(name)) for name in promised + others]
    return _align([head, *rows])


def _figure_json(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, Missing):
        return {"value": None, "unit": None, "missing": outcome.reason}
    if not math.isfinite(outcome.value):
        return {"value": None, "unit": outcome.unit, "missing": f"not a finite number: {outcome.value}"}
    return {name: value for name, value in asdict(outcome).items() if value is not None}


def _row(name: str, outcome: Outcome, target: Target | None) -> tuple[str, ...]:
    must, reach = _threshold(target, "must"), _threshold(target, "reach")
    verdict = judge(outcome, target).value
    if isinstance(outcome, Missing):
        return name, "–", "", "", must, reach, f"{verdict}: {outcome.reason}"
    interval = "" if outcome.lo is None or outcome.hi is None else f"{_number(outcome.lo)} … {_number(outcome.hi)}"
    count = "" if outcome.n is None else str(outcome.n)
    return name, f"{_number(outcome.value)} {outcome.unit}", interval, count, must, reach, verdict


def _threshold(target: Target | None, name: str) -> str:
    value = getattr(target, name, None)
    return "" if value is None or target is None else f"{'≤' if target.lower else '≥'} {value:g}"


def _number(value: float) -> str:
    size = abs(value)
    if _NEAR_ONE < size < 1:  # cosines: the nines say nothing
        return f"{value:.5f}"
    return f"{value:,.0f}" if size >= _THOUSAND else f"{value:.4g}"


def _align(rows: Iterable[tuple[str, ...]]) -> str:
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
