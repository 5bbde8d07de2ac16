"""Compares two records figure by figure, with a verdict by confidence interval.

The interval of a ratio is derived from the intervals of both figures (MOVER, Zou and Donner 2008, on logarithms), which
are bootstraps of the figure's statistic (a median, a 99th percentile or a mean) and may be skewed. So records need
neither samples nor the name of the statistic.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.figures import Figure, Missing, Reading
from benchmarks.reporting.record import Record
from benchmarks.reporting.table import align, number
from benchmarks.targets import Target, Verdict, judge, of_scenario

_LESS_IS_BETTER = {"s", "ms", "µs", "MB", "MiB", "GB"}
_MORE_IS_BETTER = {"tokens/s", "segments/s", "documents/s"}


class Change(StrEnum):
    """What became of a figure. Where no direction is better, it went up or down."""

    BETTER = "better"
    WORSE = "WORSE"
    SAME = "same"
    UNSURE = "unsure"
    UP = "up"
    DOWN = "down"
    GONE = "MISSING"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A figure before and after; `ratio` is after over before, None where there is none."""

    figure: str
    before: Reading
    after: Reading
    ratio: Figure | None
    change: Change


def compare(before: Record, after: Record, margin: float) -> list[Comparison]:
    """Compare the figures of two records of one scenario; a change within `margin` (0.05 is 5 %) is none."""
    targets, old, new = of_scenario(after.scenario), before.readings, after.readings
    absent = Missing("not in this record")
    return [
        _compare(name, old.get(name, absent), new.get(name, absent), targets.get(name), margin)
        for name in dict.fromkeys((*old, *new))
    ]


def quotient(before: Figure, after: Figure) -> Figure | None:
    """Divide after by before. The ratio has an interval if both have one; zero and what is below have no ratio."""
    if before.value <= 0 or after.value <= 0:
        return Figure(1.0, "x") if before.value == after.value else None
    ratio = after.value / before.value
    if before.lo is None or before.hi is None or after.lo is None or after.hi is None:
        return Figure(ratio, "x")
    if min(before.lo, after.lo) <= 0:
        return Figure(ratio, "x")
    down = math.hypot(math.log(after.value / after.lo), math.log(before.hi / before.value))
    up = math.hypot(math.log(after.hi / after.value), math.log(before.value / before.lo))
    return Figure(ratio, "x", ratio * math.exp(-down), ratio * math.exp(up))


def table(comparisons: Iterable[Comparison]) -> str:
    """Print a line a figure."""
    head = ("figure", "before", "after", "after / before", "95 % interval", "verdict")
    return align([head, *map(_row, comparisons)])


def warnings(before: Record, after: Record) -> list[str]:
    """Tell what makes two records poor to compare."""
    found = []
    if any(before.machine.get(key) != after.machine.get(key) for key in ("cpu", "cpu_family_model", "cores", "isa")):
        found.append(f"{after.scenario}: measured on other machines: only ratios within a run can be compared")
    if odd := sorted(
        name
        for name in before.settings.keys() | after.settings.keys()
        if str(before.settings.get(name)) != str(after.settings.get(name))
    ):
        found.append(f"{after.scenario}: measured with other settings: {', '.join(odd)}")
    return found


def _compare(name: str, before: Reading, after: Reading, target: Target | None, margin: float) -> Comparison:
    if isinstance(after, Missing):
        return Comparison(name, before, after, None, Change.GONE)
    if isinstance(before, Missing):
        return Comparison(name, before, after, None, Change.NEW)
    ratio = quotient(before, after)
    return Comparison(name, before, after, ratio, _change(before, after, ratio, target, margin))


def _change(before: Figure, after: Figure, ratio: Figure | None, target: Target | None, margin: float) -> Change:
    stood, stands = (judge(each, target) is not Verdict.MISS for each in (before, after))
    if ratio is None or ratio.lo is None or ratio.hi is None:  # one measurement each: only a promise can tell
        if stood is not stands:
            return Change.BETTER if stands else Change.WORSE
        near = ratio is not None and 1 / (1 + margin) <= ratio.value <= 1 + margin
        return Change.SAME if near else Change.UNSURE
    if ratio.lo > 1 + margin:
        return _moved(after.unit, target, up=True)
    if ratio.hi < 1 / (1 + margin):
        return _moved(after.unit, target, up=False)
    return Change.SAME if 1 / (1 + margin) <= ratio.lo and ratio.hi <= 1 + margin else Change.UNSURE


def _moved(unit: str, target: Target | None, *, up: bool) -> Change:
    if target is not None:
        less = target.lower
    elif unit in _LESS_IS_BETTER | _MORE_IS_BETTER:
        less = unit in _LESS_IS_BETTER
    else:
        return Change.UP if up else Change.DOWN
    return Change.WORSE if up is less else Change.BETTER


def _row(each: Comparison) -> tuple[str, ...]:
    ratio = each.ratio
    interval = "" if ratio is None or ratio.lo is None or ratio.hi is None else f"{ratio.lo:.3f} … {ratio.hi:.3f}"
    return (
        each.figure, _value(each.before), _value(each.after), "" if ratio is None else f"{ratio.value:.3f}",
        interval, each.change.value,
    )  # fmt: skip


def _value(reading: Reading) -> str:
    return "–" if isinstance(reading, Missing) else f"{number(reading.value)} {reading.unit}".strip()
