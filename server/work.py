"""A segment on its way through the machine: what is asked of the model, and what comes back."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from server.runner import Runner, State

PoolingName = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The segment's vector, float32 (hidden,), as the pooling makes it of all states, specials included."""

    pooling: PoolingName


@dataclass(frozen=True, slots=True)
class SumRanges:
    """Sums of states over ranges of token positions, float32 (ranges, hidden)."""

    ranges: tuple[tuple[int, int], ...]


Head = Pool | SumRanges


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One segment to compute. `key` names its state: equal keys, equal states bit for bit."""

    key: bytes
    runner: "Runner"
    ids: NDArray[np.int32]
    window: int
    heads: tuple[Head, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A segment's state after the last layer and what the heads made of it.

    `queued`, `started` and `finished` are times of the monotonic clock in seconds; `resumed_from` is the number of
    layers that did not run.
    """

    state: "State"
    parts: dict[Head, NDArray[np.float32]]
    resumed_from: int | None
    queued: float
    started: float
    finished: float
