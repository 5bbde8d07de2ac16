"""Hashes that say where a text may be cut: equal content, equal hash, wherever it stands."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_MULTIPLIER: Final = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
_HALF: Final = np.uint64(32)


def window_hashes(
    data: NDArray[np.uint8] | NDArray[np.int32], width: int, ends: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """64-bit hashes of the ``width`` items before each end.

    The window's bytes, little-endian, are read as 64-bit words; each is added, multiplied and folded. No cryptographic
    hash, on purpose: each boundary is hashed, and BLAKE2b took 13 ms of Python, with the GIL held, for 32k tokens where
    this takes 0.4. What a writer gains by choosing hashes is the cutting of his own text, within the same bounds.

    Args:
        data: uint8 or int32, one-dimensional.
        width: items a window; a multiple of eight bytes together.
        ends: indices into ``data``, none less than ``width``.

    Returns:
        uint64, one for each end.
    """
    little = data.astype(data.dtype.newbyteorder("<"), copy=False)
    windows = np.lib.stride_tricks.sliding_window_view(little, width)[ends - width]
    hashes = np.zeros(len(ends), np.uint64)
    for word in np.ascontiguousarray(windows).view("<u8").T:
        hashes = (hashes + word) * _MULTIPLIER
        hashes ^= hashes >> _HALF
    return hashes


def least(keys: NDArray[np.uint64]) -> int:
    """Index of the least key; of equals the last."""
    return len(keys) - 1 - int(np.argmin(keys[::-1]))
