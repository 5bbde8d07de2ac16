"""Durations as HDR histograms: every call counted, to three digits, in a few hundred bytes.

Values are whole microseconds, from 1 to an hour; longer ones count as an hour.
"""

from collections.abc import Iterable

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray

from benchmarks.figures import Distribution

_MICRO = 1e6
_LONGEST = 3_600_000_000
_DIGITS = 3


def distribution(seconds: Iterable[float], title: str) -> Distribution:
    """Make the distribution that a scenario returns.

    Raises:
        ValueError: there are no durations.
    """
    counted = HdrHistogram(1, _LONGEST, _DIGITS)
    for each in seconds:
        counted.record_value(min(max(1, round(_MICRO * each)), _LONGEST))
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
