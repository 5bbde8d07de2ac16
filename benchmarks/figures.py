"""A scenario's results: figures with their uncertainty, drawings for the report, and missing figures.

They are in one mapping by id, so that the parts of a scenario can be joined with `|`. A drawing's id is `group.line`:
the report draws one chart per group and one line, or one set of bars, per member.
"""

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    `lo` and `hi` bound the value's 95 % confidence interval, `spread` is the samples' interquartile range (in
    `unit` like the value), `n` counts the samples. A count or a maximum has none of them.
    """

    value: float
    unit: str
    lo: float | None = None
    hi: float | None = None
    n: int | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that could not be measured, and why. It counts as a miss: silence must never read as success."""

    reason: str


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations, whole: the report draws their percentiles. `histograms.distribution` makes it.

    `histogram` is HdrHistogram's base64 V2 payload, its values in microseconds; `title` is its chart's.
    """

    histogram: str
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points in the order given. Labels name the unit: "documents' length / tokens".

    `log` names the axes that are logarithmic: "", "x", "y" or "xy". `lo` and `hi` bound each y, if given.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    x_label: str
    y_label: str
    title: str
    log: str = ""
    lo: tuple[float, ...] | None = None
    hi: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [len(each) for each in (self.x, self.y, self.lo, self.hi) if each is not None]
        if len(set(given)) != 1:
            raise ValueError(f"a curve of unequal lengths: {given}")


@dataclass(frozen=True, slots=True)
class Bars:
    """One value for each of some names; the members of a group should have the same names.

    `label` is what the values are, with their unit. `lo` and `hi` bound each value, if given.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    label: str
    title: str
    log: bool = False
    lo: tuple[float, ...] | None = None
    hi: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [len(each) for each in (self.names, self.values, self.lo, self.hi) if each is not None]
        if len(set(given)) != 1:
            raise ValueError(f"bars of unequal lengths: {given}")


Reading: TypeAlias = Figure | Missing
Drawing: TypeAlias = Distribution | Curve | Bars
Outcome: TypeAlias = Reading | Drawing
Figures: TypeAlias = Mapping[str, Outcome]


def attempt(ids: Iterable[str], measure: Callable[[], Figures]) -> dict[str, Outcome]:
    """Measure one part of a scenario; if the part fails, each of `ids` is missing with the failure's reason.

    So the parts that did work are reported, whatever happened to the others.
    """
    expected = tuple(ids)
    try:
        found = measure()
    except Exception as error:  # noqa: BLE001  a benchmark's part may fail in any way; the reason is reported
        return dict.fromkeys(expected, Missing(reason_of(error)))
    return {name: Missing("the measurement did not give it") for name in expected if name not in found} | dict(found)


def reason_of(error: BaseException) -> str:
    """Tell in one line the exception, and the innermost line of code where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
