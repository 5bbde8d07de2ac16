"""The only place of the server that knows tensors: runs batches of segments through an encoder, in worker threads."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from encoder import Batch, Encoder, numpy_to_state, state_to_numpy
from encoder.heads.pooling import pool, range_sums
from encoder.heads.trained import TrainedHead
from server.telemetry.metrics import Metrics
from server.types import Computed, Head, Pool, StateArray, SumRanges, Work

CPU_BATCH_TOKENS = 512
CUDA_BATCH_TOKENS = 16_384


class Runner:
    """An encoder with its bounds. Its methods block and may be called from any thread.

    Attributes:
        layers: how many layers a segment goes through.
        warm_seconds: what a longest segment took on one thread, once it was warm.
        batch_tokens: how many tokens may share a run. 1 where a state's bits depend on its batch-mates: then every
            segment is a run of its own, on one thread (see docs/numerics.md).
    """

    def __init__(self, encoder: Encoder, batch_tokens: int, name: str, metrics: Metrics) -> None:
        self.encoder = encoder
        self.layers = encoder.layers
        self._shares = shares_runs(encoder)
        self.batch_tokens = batch_budget(encoder, batch_tokens)
        self.warm_seconds = 0.0
        self._heads: dict[str, TrainedHead] = {}
        self._batch_tokens_seen = metrics.batch_tokens
        self._seconds_seen = metrics.compute_seconds.labels(name)

    def compute(self, works: Sequence[Work], threads: int) -> list[Computed]:
        """Run segments of one window and the same layers, and their heads, on so many threads where that is exact."""
        started = time.monotonic()
        torch.set_num_threads(threads if self._shares else 1)  # of the calling thread alone
        batch = self.encoder.batch([work.ids for work in works], works[0].window, [work.second for work in works])
        layer = works[0].start
        if layer:
            kept = [numpy_to_state(work.state) for work in works if work.state is not None]
            batch = replace(batch, state=torch.cat(kept))
        states: list[dict[int, StateArray]] = [{} for _ in works]
        for cut in works[0].cuts:
            batch, layer = self.encoder.run(batch, layer, cut), cut
            for own, state in zip(states, _split(batch), strict=True):
                own[cut] = state
        layers_seconds = time.monotonic() - started
        parts = [self.apply(own[layer], work.heads) for own, work in zip(states, works, strict=True)]
        finished = time.monotonic()
        self._batch_tokens_seen.observe(sum(batch.lengths))
        self._seconds_seen.observe((finished - started) / len(works))
        return [
            Computed(own, made, queued=started, started=started, finished=finished, layers_seconds=layers_seconds)
            for own, made in zip(states, parts, strict=True)
        ]

    def apply(self, state: StateArray, heads: Sequence[Head]) -> dict[Head, NDArray[Any]]:
        """Make heads' numbers of one segment's state after the last layer."""
        return self._begin(state, heads, threads=1)() if heads else {}

    def apply_each(
        self, wanted: Iterable[tuple[int, StateArray, Sequence[Head]]], threads: int
    ) -> Iterator[tuple[int, dict[Head, NDArray[Any]]]]:
        """Apply heads to numbered states, each while the next is fetched: a state must last until the next has come."""
        behind = None
        for number, state, heads in wanted:
            begun = number, self._begin(state, heads, threads)
            if behind:
                yield behind[0], behind[1]()
            behind = begun
        if behind:
            yield behind[0], behind[1]()

    def _begin(self, state: StateArray, heads: Sequence[Head], threads: int) -> Callable[[], dict[Head, NDArray[Any]]]:
        tensor = numpy_to_state(state)
        begun = [(head, self._begin_one(tensor, head, threads)) for head in heads]
        return lambda: {head: end() for head, end in begun}

    def add_head(self, head: TrainedHead) -> None:
        """Offer a trained head, under its digest."""
        self._heads[head.digest] = head

    def _begin_one(self, state: torch.Tensor, head: Head, threads: int) -> Callable[[], NDArray[Any]]:
        match head:
            case SumRanges():
                made = range_sums(state, head.ranges)
            case Pool():
                made = pool(state, (len(state),), head.pooling)[0]
            case _:
                return self._heads[head.digest].begin(state, threads)
        return lambda: made

    def warm_up(self) -> None:
        """Run a longest segment twice: the first caller is not to pay for what is set up on first use."""
        torch.set_num_threads(1)  # of the calling thread alone
        batch = self.encoder.batch([np.full(self.encoder.max_tokens, 1, np.int32)], 0)
        for _ in range(2):
            began = time.monotonic()
            self.encoder.run(batch, 0, self.layers)
        self.warm_seconds = time.monotonic() - began


def shares_runs(encoder: Encoder) -> bool:
    """Whether segments may share a run: on a CPU bf16 and fp32 products differ with the rows beside and the threads."""
    return encoder.scheme == "int8" or encoder.device != "cpu"


def batch_budget(encoder: Encoder, batch_tokens: int) -> int:
    """The most tokens of a run, as set or by default; 1 where segments do not share runs."""
    if not shares_runs(encoder):
        return 1
    return batch_tokens or (CPU_BATCH_TOKENS if encoder.device == "cpu" else CUDA_BATCH_TOKENS)


def _split(batch: Batch) -> list[StateArray]:
    """Each segment's state.

    They are converted at once: each operation of torch's gives up the interpreter's lock, and on a busy server it takes
    a while to get it back.
    """
    assert batch.state is not None
    states = state_to_numpy(batch.state)
    return [states[first:last] for first, last in pairwise((0, *accumulate(batch.lengths)))]
