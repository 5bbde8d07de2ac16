"""Computes figures from samples, including their uncertainty.

Intervals are percentile bootstraps (Efron 1979) with a fixed seed: times are skewed, so normality is not assumed.
Proportions have exact binomial intervals (Clopper and Pearson 1934): a bootstrap of 0 hits in 400 would be [0, 0].
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]

from benchmarks.figures import Figure

Array = NDArray[np.float64]
Statistic = Callable[..., Any]

RESAMPLES = 4_000
CONFIDENCE = 0.95


def summarise(samples: Sequence[float] | Array, unit: str, statistic: Statistic = np.median) -> Figure:
    """Take the `statistic` (any function with an `axis`, as NumPy has) of `samples`, with its interval.

    Raises:
        ValueError: there are no samples, or one is not finite.
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no samples")
    if not np.isfinite(values).all():
        raise ValueError("a sample is not finite")
    generator = np.random.default_rng(8**3)
    # By chunks: thousands of latencies times thousands of resamples would not fit into memory politely.
    chunk = max(1, 2_000_000 // values.size)
    resampled = np.concatenate(
        [
            statistic(generator.choice(values, (min(chunk, RESAMPLES - start), values.size)), axis=1)
            for start in range(0, RESAMPLES, chunk)
        ]
    )
    tail = 100 * (1 - CONFIDENCE) / 2
    lo, hi = np.percentile(resampled, [tail, 100 - tail])
    upper, lower = np.percentile(values, [75, 25])
    return Figure(float(statistic(values, axis=0)), unit, float(lo), float(hi), int(values.size), float(upper - lower))


def proportion(hits: Sequence[bool] | NDArray[np.bool_], unit: str = "share") -> Figure:
    """Return the share of hits, or their percentage where `unit` is "%", with its exact interval.

    Raises:
        ValueError: there are no trials.
    """
    trials = len(hits)
    if not trials:
        raise ValueError("no samples")
    scale = 100.0 if unit == "%" else 1.0
    found = int(np.count_nonzero(hits))
    interval = binomtest(found, trials).proportion_ci(CONFIDENCE, method="exact")
    return Figure(scale * found / trials, unit, scale * float(interval.low), scale * float(interval.high), trials)


def percentile(samples: Sequence[float] | Array, rank: float, unit: str) -> Figure:
    """Take the `rank`-th percentile (0 to 100) of `samples`."""
    return summarise(samples, unit, partial(np.percentile, q=rank))


def percentile_ms(seconds: Sequence[float], rank: float = 50) -> Figure:
    """Take a percentile (0 to 100) of durations, in milliseconds; by default the median."""
    return percentile([1000.0 * each for each in seconds], rank, "ms")


def ratio(above: Sequence[float], below: Sequence[float]) -> Figure:
    """Take the median of the ratios of samples that were taken in the same round.

    Pairing removes what drifts from round to round: a neighbour's load, the clock's frequency, the room's temperature.

    Raises:
        ValueError: the two did not run in the same rounds.
    """
    if len(above) != len(below):
        raise ValueError(f"{len(above)} samples cannot be paired with {len(below)}")
    return summarise(np.asarray(above, dtype=np.float64) / np.asarray(below, dtype=np.float64), "x")
