"""Token states to vectors: segment pooling, and sums over token ranges (late chunking)."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.errors import BatchError
from encoder.folder import Pooling

Vectors = NDArray[np.float32]


def pool(states: Tensor, lengths: Sequence[int], pooling: Pooling) -> Vectors:
    """One vector per segment, pooled as in sentence-transformers: special tokens included, not normalised.

    Args:
        states: (tokens, hidden), segments laid end to end.
        lengths: tokens of each segment.
        pooling: 'mean' of all tokens, or 'cls', the first token's state.

    Returns:
        (segments, hidden) float32. A segment's vector depends only on its own states, bit for bit.
    """
    bounds = [0, *accumulate(lengths)]
    if bounds[-1] != states.shape[0]:
        raise BatchError(f"lengths sum to {bounds[-1]}, but there are {states.shape[0]} token states")
    if pooling == "cls":
        return _rows(states[:1] if len(lengths) == 1 else states[bounds[:-1]]).copy()
    # In float64, one segment at a time: rounding does not depend on other segments.
    parts = [states] if len(lengths) == 1 else [states[first:last] for first, last in pairwise(bounds)]
    sums = np.stack(list(map(_sum, parts)))
    means: Vectors = sums.astype(np.float32) / np.asarray(lengths, np.float32)[:, None]
    return means


def _sum(states: Tensor) -> NDArray[np.float64]:
    # Sums of bfloat16 numbers are exact in any order, unless they spread over 2 ** 36. PyTorch takes 84 µs for 330 x
    # 384, NumPy with the conversion 119.
    if states.dtype == torch.bfloat16:
        exact: NDArray[np.float64] = states.sum(0, dtype=torch.float64).numpy(force=True)
        return exact
    rows: NDArray[np.float64] = _rows(states).sum(axis=0, dtype=np.float64)
    return rows


def range_sums(states: Tensor, ranges: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
    """Sum token states over each range [first, last): (ranges, hidden) float64; 0 for an empty range.

    Uses differences of running sums, so thousands of ranges cost little more than one. Returns sums, not means, so the
    mean over several segments is the sum of the parts over the sum of their counts (late chunking; Günther et al.).
    """
    rows = _rows(states)
    running = np.zeros((len(rows) + 1, rows.shape[1]))
    np.cumsum(rows, axis=0, dtype=np.float64, out=running[1:])
    bounds = np.asarray(ranges, np.int64).reshape(-1, 2)
    sums: NDArray[np.float64] = running[bounds[:, 1]] - running[bounds[:, 0]]
    return sums


def _rows(states: Tensor) -> Vectors:
    rows: Vectors = states.float().numpy(force=True)
    return rows
