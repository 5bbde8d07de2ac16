"""The only place of the server that knows tensors: runs batches of segments through an encoder, in worker threads."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from encoder import Encoder
from encoder.heads.pooling import pool, range_sums
from server.metrics import Metrics
from server.work import Computed, Head, SumRanges, Work

State = torch.Tensor
"""A segment's hidden states after the last layer, (tokens, hidden)."""


class Runner:
    """An encoder with its bounds. Its methods block and may be called from any thread.

    Attributes:
        layers: how many layers a segment goes through.
        batch_tokens: how many tokens may share a run. 1 where a state's bits depend on its batch-mates: then every
            segment is a run of its own, on one thread (see docs/numerics.md).
    """

    def __init__(self, encoder: Encoder, batch_tokens: int, name: str, metrics: Metrics) -> None:
        self.encoder = encoder
        self.layers = encoder.layers
        # On a CPU, bf16 and fp32 products differ with the rows beside and with the number of threads.
        self._shares = encoder.scheme == "int8" or encoder.device != "cpu"
        self.batch_tokens = batch_tokens if self._shares else 1
        self._batch_tokens_seen = metrics.batch_tokens
        self._seconds_seen = metrics.compute_seconds.labels(name)

    def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
        """Run segments of one window through all layers and their heads, on so many threads where that is exact."""
        started = time.monotonic()
        torch.set_num_threads(threads if self._shares else 1)  # of the calling thread alone
        batch = self.encoder.batch([work.ids for work in works], works[0].window)
        state = self.encoder.run(batch, 0, self.layers).state
        assert state is not None
        states: tuple[State, ...] = torch.split_with_sizes(state, batch.lengths)
        parts = [self.apply(own, work.heads) for own, work in zip(states, works, strict=True)]
        finished = time.monotonic()
        self._batch_tokens_seen.observe(len(state))
        self._seconds_seen.observe((finished - started) / len(works))
        return [
            Computed(own, made, resumed_from=None, queued=started, started=started, finished=finished)
            for own, made in zip(states, parts, strict=True)
        ]

    def apply(self, state: State, heads: Sequence[Head]) -> dict[Head, NDArray[np.float32]]:
        """Make heads' numbers of one segment's state."""
        return {head: _apply(state, head) for head in heads}

    def warm_up(self) -> None:
        """Run a longest segment, so that the first caller does not pay for what is set up on first use."""
        self.encoder.run(self.encoder.batch([np.full(self.encoder.max_tokens, 1, np.int32)], 0), 0, self.layers)


def _apply(state: State, head: Head) -> NDArray[np.float32]:
    if isinstance(head, SumRanges):
        return range_sums(state, head.ranges)
    vector: NDArray[np.float32] = pool(state, (len(state),), head.pooling)[0]
    return vector
