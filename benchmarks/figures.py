"""What a scenario returns: figures with their uncertainty, drawings for the report, and what could not be measured.

All are in one mapping by id, so that the parts of a scenario are joined with ``|``. A drawing's id is `group.line`:
each group becomes a chart, each member a line or a set of bars.
"""

import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    ``lo`` and ``hi`` bound the value's 95 % confidence interval, ``spread`` is the samples' interquartile range (in
    ``unit`` like the value), ``n`` counts the samples. A count or a maximum has none of them.
    """

    value: float
    unit: str
    lo: float | None = None
    hi: float | None = None
    n: int | None = None
    spread: float | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A figure that could not be measured, and why. It counts as a miss: silence must never read as success.

    Only a reason that begins with `needs: ` names another machine, and is no miss.
    """

    reason: str

    @property
    def is_miss(self) -> bool:
        """Whether this machine should have given it."""
        return not self.reason.startswith("needs: ")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Durations, whole: the report draws their percentiles. `histograms.distribution` makes it.

    ``histogram`` is HdrHistogram's base64 V2 payload, its values in microseconds; ``title`` is its chart's.
    """

    histogram: str
    title: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line through points in the order given. Labels name the unit: "documents' length / tokens".

    ``log`` names the axes that are logarithmic: "", "x", "y" or "xy". ``lo`` and ``hi`` bound each y, if given.
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
        _check_lengths(self.x, self.y, self.lo, self.hi)


@dataclass(frozen=True, slots=True)
class Bars:
    """One value for each of some names; the members of a group should have the same names.

    ``label`` is what the values are, with their unit. ``lo`` and ``hi`` bound each value, if given.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    label: str
    title: str
    log: bool = False
    lo: tuple[float, ...] | None = None
    hi: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_lengths(self.names, self.values, self.lo, self.hi)


def bounds(figures: Iterable[Figure]) -> dict[str, tuple[float, ...]]:
    """Give ``lo`` and ``hi`` as drawings take them; a figure without an interval is its own bound."""
    ends = [(each.value, each.value) if each.lo is None or each.hi is None else (each.lo, each.hi) for each in figures]
    return {"lo": tuple(lo for lo, _ in ends), "hi": tuple(hi for _, hi in ends)}


def _check_lengths(*columns: Sequence[object] | None) -> None:
    lengths = [len(each) for each in columns if each is not None]
    if len(set(lengths)) != 1:
        raise ValueError(f"a drawing of unequal lengths: {lengths}")


Reading: TypeAlias = Figure | Missing
Drawing: TypeAlias = Distribution | Curve | Bars
Outcome: TypeAlias = Reading | Drawing
Figures: TypeAlias = Mapping[str, Outcome]


def attempt(ids: Iterable[str], measure: Callable[[], Figures]) -> dict[str, Outcome]:
    """Measure one part of a scenario; if the part fails, each of ``ids`` is missing with the failure's reason.

    The parts that worked are still reported.
    """
    expected = tuple(ids)
    try:
        found = measure()
    except Exception as error:  # noqa: BLE001  any failure is reported as the reason
        return dict.fromkeys(expected, Missing(reason_of(error)))
    return {name: Missing("the measurement did not give it") for name in expected if name not in found} | dict(found)


def attempt_each(parts: Mapping[tuple[str, ...], Callable[[Path], Figures]]) -> dict[str, Outcome]:
    """Measure parts, by the ids that they promise, one after the other, each with an empty folder of its own.

    Folders stay until the end: within minutes of the deletion of thousands, ext4 takes 0.2 ms to make a file, not 0.02.
    """
    figures: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory(prefix="octavo-bench-") as root:
        for number, (ids, measure) in enumerate(parts.items()):
            folder = Path(root) / str(number)
            folder.mkdir()
            figures |= attempt(ids, partial(measure, folder))
    return figures


def reason_of(error: BaseException) -> str:
    """Describe in one line the exception, and the innermost line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"
