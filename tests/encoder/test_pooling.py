"""Segment vectors and sums over ranges of tokens."""

import numpy as np
import pytest
import torch

from encoder.errors import BatchError
from encoder.heads.pooling import pool, range_sums

STATES = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))


def test_means_and_first_tokens() -> None:
    lengths = (5, 1, 6)
    parts = torch.split(STATES, list(lengths))
    means = pool(STATES, lengths, "mean")
    assert means.dtype == np.float32
    assert np.allclose(means, torch.stack([part.mean(0) for part in parts]), atol=1e-6)
    assert np.array_equal(pool(STATES, lengths, "cls"), torch.stack([part[0] for part in parts]))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_vector_does_not_depend_on_its_neighbours(pooling: str, dtype: torch.dtype) -> None:
    states = torch.randn(900, 384, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = pool(states, (301, 512, 87), pooling)  # type: ignore[arg-type]
    assert np.array_equal(pool(states[301:813], (512,), pooling)[0], whole[1])  # type: ignore[arg-type]


def test_lengths_must_fit() -> None:
    with pytest.raises(BatchError, match="12 token states"):
        pool(STATES, (5, 6), "mean")


def test_sums_of_a_spans_parts_add_up() -> None:
    first, second, whole, nothing = range_sums(STATES, [(2, 5), (5, 9), (2, 9), (4, 4)])
    assert np.allclose(first + second, whole, atol=1e-6)
    assert not nothing.any()
    assert range_sums(STATES, []).shape == (0, 8)
