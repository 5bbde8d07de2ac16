"""Durations through an HDR histogram and back."""

import numpy as np
import pytest

from benchmarks.histograms import distribution, percentiles, read


def test_percentiles_survive_to_three_digits() -> None:
    seconds = np.random.default_rng(1).lognormal(-4, 0.8, 5_000)
    found = percentiles(distribution(seconds, "waits"), [50, 95, 99, 100])
    np.testing.assert_allclose(found, np.percentile(seconds, [50, 95, 99, 100]), rtol=3e-3)


def test_what_is_beyond_the_scale_is_counted_at_its_ends() -> None:
    assert read(distribution([0.0, 1e-9, 7200.0], "waits")).get_total_count() == 3


def test_nothing_has_no_distribution() -> None:
    with pytest.raises(ValueError, match="no durations"):
        distribution([], "waits")
