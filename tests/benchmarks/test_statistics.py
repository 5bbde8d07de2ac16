"""Figures and their uncertainty."""

import math

import numpy as np
import pytest

from benchmarks.statistics import percentile, proportion, ratio, summarise


def test_summary_is_the_median_with_interval_spread_and_count() -> None:
    figure = summarise([5.0, 1.0, 2.0, 100.0, 3.0], "ms")
    assert (figure.value, figure.unit, figure.n, figure.spread) == (3.0, "ms", 5, 3.0)
    assert figure.lo is not None
    assert figure.hi is not None
    assert 1.0 <= figure.lo <= 3.0 <= figure.hi <= 100.0


def test_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    samples = generator.lognormal(mean=1.0, sigma=0.5, size=(200, 25))  # skewed, as times are
    figures = [summarise(row, "ms") for row in samples]
    covered = np.mean([(f.lo or 0) <= math.e <= (f.hi or 0) for f in figures])
    assert 0.88 <= covered <= 0.99


def test_interval_shrinks_with_more_samples() -> None:
    generator = np.random.default_rng(2)
    few, many = (summarise(generator.normal(10, 1, size), "ms") for size in (10, 1000))
    assert (many.hi or 0) - (many.lo or 0) < ((few.hi or 0) - (few.lo or 0)) / 3


def test_interval_does_not_change_from_run_to_run() -> None:
    assert summarise([1, 2, 3, 4], "s") == summarise([1, 2, 3, 4], "s")


def test_percentile_is_of_the_rank_asked_for() -> None:
    figure = percentile(np.arange(101.0), 95, "ms")
    assert figure.value == 95.0
    assert (figure.lo or 0) < 95 < (figure.hi or 0)


@pytest.mark.parametrize(
    ("hits", "trials", "lo", "hi"),
    # The exact interval of no hits ends where 400 misses in a row have 2.5 % probability: 1 - 0.025 ** (1 / 400).
    [(0, 400, 0.0, 1 - 0.025 ** (1 / 400)), (400, 400, 0.025 ** (1 / 400), 1.0), (1, 10, 0.00253, 0.44502)],
)
def test_a_proportion_has_an_exact_interval(hits: int, trials: int, lo: float, hi: float) -> None:
    figure = proportion([True] * hits + [False] * (trials - hits))
    assert (figure.value, figure.n, figure.unit) == (hits / trials, trials, "share")
    assert figure.lo == pytest.approx(lo, abs=1e-5)
    assert figure.hi == pytest.approx(hi, abs=1e-5)
    percent = proportion([True] * hits + [False] * (trials - hits), "%")
    assert percent.value == 100 * figure.value
    assert percent.hi == pytest.approx(100 * (figure.hi or 0))


def test_ratio_pairs_samples_of_one_round() -> None:
    # The machine doubles its time from round to round; the ratio within each round stays 3.
    figure = ratio([3, 6, 12, 24], [1, 2, 4, 8])
    assert (figure.value, figure.lo, figure.hi, figure.unit) == (3.0, 3.0, 3.0, "x")


def test_ratio_refuses_samples_of_other_rounds() -> None:
    with pytest.raises(ValueError, match="3 samples cannot be paired with 2"):
        ratio([1, 2, 3], [1, 2])


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_no_figure_from_nothing_or_from_what_is_not_finite(samples: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no samples|not finite"):
        summarise(samples, "ms")


def test_no_proportion_of_nothing() -> None:
    with pytest.raises(ValueError, match="no samples"):
        proportion([])
