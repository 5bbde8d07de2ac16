"""Durations as HDR histograms: all calls, with three digits of precision, in a few hundred bytes.

Several processes each use their own histogram and add them up, which gives the percentiles of all calls; a mean of
percentiles would not. Values are whole microseconds, from 1 to an hour; longer ones count as an hour.
"""

from collections.abc import Iterable

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray

from benchmarks.figures import Distribution

_MICRO = 1e6
_LONGEST = 3_600_000_000
_DIGITS = 3


def empty() -> HdrHistogram:
    """Make a histogram of nothing yet; `record_value` counts microseconds into it, `add` another histogram."""
    return HdrHistogram(1, _LONGEST, _DIGITS)


def histogram(seconds: Iterable[float]) -> HdrHistogram:
    """Count durations, given in seconds."""
    made = empty()
    for each in seconds:
        made.record_value(min(max(1, round(_MICRO * each)), _LONGEST))
    return made


def distribution(durations: Iterable[float] | HdrHistogram, title: str) -> Distribution:
    """Make what a scenario hands over, from seconds or from a histogram of microseconds.

    Raises:
        ValueError: there are no durations.
    """
    counted = durations if isinstance(durations, HdrHistogram) else histogram(durations)
    if not counted.get_total_count():
        raise ValueError("no durations")
    return Distribution(counted.encode().decode("ascii"), title)


def read(found: Distribution) -> HdrHistogram:
    """Give the histogram back; its values are microseconds."""
    return HdrHistogram.decode(found.histogram)


def percentiles(found: Distribution, ranks: ArrayLike) -> NDArray[np.float64]:
    """Read the durations in seconds at these ranks (0 to 100)."""
    counted = read(found)
    wanted = np.atleast_1d(np.asarray(ranks, np.float64))
    return np.array([counted.get_value_at_percentile(rank) for rank in wanted], np.float64) / _MICRO
