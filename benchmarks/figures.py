"""What a scenario hands back: figures with their uncertainty, and figures that could not be had."""

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

__all__ = ["Figure", "Figures", "Missing", "Outcome", "attempt"]


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
    """A figure that could not be measured, and why. It counts as a miss: silence must never read as success."""

    reason: str


Outcome: TypeAlias = Figure | Missing
Figures: TypeAlias = Mapping[str, Outcome]


def attempt(ids: Iterable[str], measure: Callable[[], Figures]) -> dict[str, Outcome]:
    """Measure one part of a scenario; if the part fails, each of ``ids`` is missing with the failure's reason.

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
