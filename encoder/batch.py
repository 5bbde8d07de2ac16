"""Segments laid end to end, and their states as arrays for a store."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.errors import BatchError


@dataclass(frozen=True, slots=True)
class Batch:
    """Segments laid end to end, without padding.

    Attributes:
        ids: (tokens,) int32.
        lengths: tokens of each segment.
        window: half width of attention in tokens, or 0 for full attention. A segment's first and last tokens attend
            to, and are attended by, all of it.
        state: (tokens, hidden) at the layer where the next `run` starts; None: no layer has run.
        seconds: of each segment, the position from which tokens are of type 1, or 0 for none. Empty: 0 for all.
    """

    ids: Tensor
    lengths: tuple[int, ...]
    window: int
    state: Tensor | None = None
    seconds: tuple[int, ...] = ()


def lay_end_to_end(
    segments: Sequence[NDArray[Any]], window: int, seconds: Sequence[int] = (), *, vocabulary: int, max_tokens: int
) -> Batch:
    """Build a batch from each segment's token ids, special tokens included.

    Raises:
        BatchError: no segments, an empty or too long segment, an id outside the vocabulary, or a negative window.
    """
    if not segments:
        raise BatchError("a batch needs at least one segment")
    if window < 0:
        raise BatchError(f"window must not be negative: {window}")
    lengths = tuple(len(segment) for segment in segments)
    for index, length in enumerate(lengths):
        if not 0 < length <= max_tokens:
            raise BatchError(f"segment {index} has {length} tokens; the model takes 1 to {max_tokens}")
    ids = np.concatenate(segments)
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise BatchError(f"token ids must lie in 0 to {vocabulary - 1}")
    return Batch(torch.from_numpy(ids.astype(np.int32)), lengths, window, seconds=tuple(seconds))


def state_to_numpy(state: Tensor) -> NDArray[Any]:
    """A state's bits: float32 as float32, bfloat16 as uint16, since numpy lacks bfloat16. A view on the CPU."""
    bits = state.contiguous().cpu()
    array: NDArray[Any] = (bits.view(torch.uint16) if bits.dtype == torch.bfloat16 else bits).numpy()
    return array


def numpy_to_state(array: NDArray[Any]) -> Tensor:
    """The inverse of `state_to_numpy`: a view that keeps the array alive. The array may be read-only.

    Raises:
        BatchError: the array is neither float32 nor uint16.
    """
    if array.dtype not in (np.float32, np.uint16):
        raise BatchError(f"a state is stored as float32 or uint16, not {array.dtype}")
    _accept_read_only()
    bits = torch.from_numpy(np.ascontiguousarray(array))
    return bits.view(torch.bfloat16) if array.dtype == np.uint16 else bits


_WARNING = Lock()  # warning filters are global to the process


@cache
def _accept_read_only() -> None:
    """Trigger and suppress torch's one-time warning that a tensor over read-only memory is writable. We never write."""
    array = np.zeros(1, np.uint16)
    array.flags.writeable = False
    with _WARNING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.from_numpy(array)
