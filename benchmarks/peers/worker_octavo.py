"""Octavo's engine used as its server uses it: a stream a core while segments wait, all cores for one that is alone."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import encoder
from benchmarks.peers.protocol import Ids, Vectors, serve
from encoder.heads.pooling import pool
from server.config.schema import ComputeSettings
from server.inference.runner import batch_budget, shares_runs


class Octavo:
    """An encoder with streams; `scheme` and `window` are the serving settings, `auto` and 0 the defaults."""

    def __init__(self, folder: str, *, scheme: str = "auto", window: int = 0) -> None:
        self._encoder = encoder.load(Path(folder), scheme=scheme, device="cpu")
        self._window = window
        self._shares = shares_runs(self._encoder)
        self._budget = batch_budget(self._encoder, ComputeSettings().batch_tokens)
        self._streams: dict[int, ThreadPoolExecutor] = {}

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Run the segments: one alone on all ``threads``, several on as many streams; what shares a run we decide."""
        del batch
        if len(segments) == 1:
            return self._run(segments, threads if self._shares else 1)
        if threads not in self._streams:
            self._streams[threads] = ThreadPoolExecutor(threads)
        runs = runs_of(segments, self._budget, threads)
        return np.concatenate(list(self._streams[threads].map(lambda run: self._run(run, 1), runs)))

    def describe(self) -> dict[str, Any]:
        """Tell scheme, kernels, and the bytes held for weights."""
        own = self._encoder
        return {
            "scheme": own.scheme,
            "kernels": own.kernels,
            "kernels_reason": own.kernels_reason,
            "layer_bytes": own.layer_bytes,
            "embedding_bytes": own.embedding_bytes,
        }

    def _run(self, segments: Sequence[Ids], threads: int) -> Vectors:
        torch.set_num_threads(threads)  # of the calling thread alone
        done = self._encoder.run(self._encoder.batch(segments, self._window), 0, self._encoder.layers)
        assert done.state is not None
        return pool(done.state, done.lengths, "mean")


def runs_of(segments: Sequence[Ids], budget: int, streams: int) -> list[list[Ids]]:
    """Cut segments, in their order, into runs of at most ``budget`` tokens (or one segment), even ones for all streams.

    A server under load never sees the end of the work, where an odd run would leave a stream idle; the peers' work is
    dealt out evenly too.
    """
    tokens = sum(map(len, segments))
    rounds = -(-tokens // (budget * streams))
    budget = min(budget, -(-tokens // (rounds * streams)))
    runs: list[list[Ids]] = []
    room = 0
    for ids in segments:
        if not runs or len(ids) > room:
            runs.append([])
            room = budget
        room -= len(ids)
        runs[-1].append(ids)
    return runs


if __name__ == "__main__":
    serve(Octavo)
