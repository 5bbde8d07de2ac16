"""Formats a record as a table, and numbers."""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.figures import Missing, Reading
from benchmarks.reporting.record import Record
from benchmarks.targets import Target, judge, of_scenario

_NEAR_ONE, _THOUSAND = 0.99, 1000


class Row(NamedTuple):
    """A figure as text."""

    figure: str
    value: str
    interval: str
    samples: str
    must: str
    reach: str
    verdict: str


HEAD = Row("figure", "value", "95 % interval", "n", "must", "reach", "verdict")


def table(record: Record) -> str:
    """Print a line a figure."""
    return align([HEAD, *rows(record)])


def rows(record: Record) -> list[Row]:
    """Tell the figures: those with a target first, in the targets' order, then the others as they came."""
    targets, readings = of_scenario(record.scenario), record.readings
    promised = [name for name in targets if name in readings]
    others = [name for name in readings if name not in targets]
    return [_row(name, readings[name], targets.get(name)) for name in promised + others]


def number(value: float) -> str:
    """Write a number with the digits that say something."""
    size = abs(value)
    if _NEAR_ONE < size < 1:  # cosines: the nines say nothing
        return f"{value:.5f}"
    return f"{value:,.0f}" if size >= _THOUSAND else f"{value:.4g}"


def align(lines: Iterable[tuple[str, ...]]) -> str:
    """Lay rows out in columns."""
    lines = list(lines)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[-1] = 0
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _row(name: str, reading: Reading, target: Target | None) -> Row:
    must, reach = _threshold(target, "must"), _threshold(target, "reach")
    verdict = judge(reading, target).value
    if isinstance(reading, Missing):
        return Row(name, "–", "", "", must, reach, f"{verdict}: {reading.reason}")
    interval = "" if reading.lo is None or reading.hi is None else f"{number(reading.lo)} … {number(reading.hi)}"
    count = "" if reading.n is None else str(reading.n)
    return Row(name, f"{number(reading.value)} {reading.unit}", interval, count, must, reach, verdict)


def _threshold(target: Target | None, name: str) -> str:
    value = getattr(target, name, None)
    return "" if value is None or target is None else f"{'≤' if target.lower else '≥'} {value:g}"
