"""What every room speaks of: the classes of service, and a segment on its way through the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


class Priority(Enum):
    """In the order of service; the values are names on the wire and in settings."""

    INTERACTIVE = "interactive"
    BULK = "bulk"


BULK_SHARE = 0.1
"""Of what interactive calls get, while both wait: bulk is slowed, never starved."""


StateArray = NDArray[Any]
"""Hidden states of one segment at one layer, (tokens, hidden), as the encoder keeps their bits in an array."""

PoolingName = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class Pool:
    """The segment's vector, float32 (hidden,), as the pooling makes it of all states, specials included."""

    pooling: PoolingName


@dataclass(frozen=True, slots=True)
class SumRanges:
    """Sums of states over ranges of token positions, float64 (ranges, hidden)."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained head's scores, float32; see `encoder.heads.trained`.

    Attributes:
        digest: names the head.
    """

    digest: str


Head = Pool | SumRanges | Trained


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One segment to compute.

    Attributes:
        key: names the state after the last layer: equal keys, equal states bit for bit.
        start: the layer to start from; 0 are the embeddings.
        state: the state there, unless the start is 0.
        cuts: layers after which the state is wanted, ascending; the last one ends the run.
        second: the position from which tokens are of type 1; 0 if all are of type 0.
    """

    key: bytes
    runner: "Machine"
    ids: NDArray[np.int32]
    window: int
    start: int
    state: StateArray | None
    cuts: tuple[int, ...]
    heads: tuple[Head, ...]
    second: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A segment's states at the cuts and what the heads made of the last one.

    `queued`, `started` and `finished` are times of the monotonic clock in seconds; `layers_seconds` is what the layers
    of the whole run took, without the heads.
    """

    states: dict[int, StateArray]
    parts: dict[Head, NDArray[Any]]
    queued: float
    started: float
    finished: float
    layers_seconds: float = 0.0


class Machine(Protocol):
    """What computes segments; `server.inference.runner.Runner` is it, and knows tensors. Its methods block."""

    layers: int
    batch_tokens: int

    def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
        """Run segments that may share a run, and their heads."""
        ...

    def apply(self, state: StateArray, heads: Sequence[Head]) -> dict[Head, NDArray[Any]]:
        """Make heads' numbers of one segment's state after the last layer."""
        ...
