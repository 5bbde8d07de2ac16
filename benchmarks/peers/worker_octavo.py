"""Octavo's engine as the server runs it, without the server: one stream a core while segments wait."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

import encoder
from benchmarks.peers.protocol import Ids, Vectors, serve
from server.metrics import Metrics
from server.runner import Runner
from server.settings import ComputeSettings
from server.work import Pool, Work

_HEADS = (Pool("mean"),)


class Octavo:
    """An encoder behind the server's own runner, which sets threads and lays segments end to end."""

    def __init__(self, folder: str, *, scheme: str = "auto", window: int = 0) -> None:
        self._encoder = encoder.load(Path(folder), scheme=scheme, device="cpu")
        self._runner = Runner(self._encoder, ComputeSettings().batch_tokens, "octavo", Metrics(CollectorRegistry()))
        self._window = window
        self._streams: ThreadPoolExecutor | None = None

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Run the segments as they come, on ``threads`` streams; the server's token budget bounds what shares a run."""
        del batch
        works = [Work(index.to_bytes(8), self._runner, ids, self._window, _HEADS) for index, ids in enumerate(segments)]
        if len(works) == 1:
            return self._compute(works, threads)
        if self._streams is None:
            self._streams = ThreadPoolExecutor(threads)
        runs = self._runs(works, threads)
        return np.concatenate(list(self._streams.map(lambda run: self._compute(run, 1), runs)))

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

    def _runs(self, works: Sequence[Work], streams: int) -> list[list[Work]]:
        """Cut the works into runs within the token budget, about as large as each other and as many for each stream.

        A stream takes the next run when it is free. A server under load never sees the end of the work, where an odd
        run would leave a stream idle; the peers' work is dealt out evenly too.
        """
        tokens = sum(len(work.ids) for work in works)
        rounds = -(-tokens // (self._runner.batch_tokens * streams))
        budget = min(self._runner.batch_tokens, -(-tokens // (rounds * streams)))
        runs: list[list[Work]] = []
        waiting, room = deque(works), 0
        while waiting:
            work = waiting.popleft()
            if not runs or len(work.ids) > room:
                runs.append([])
                room = budget
            room -= len(work.ids)
            runs[-1].append(work)
        return runs

    def _compute(self, works: Sequence[Work], threads: int) -> Vectors:
        return np.stack([done.parts[_HEADS[0]] for done in self._runner.compute(works, threads)])


if __name__ == "__main__":
    serve(Octavo)
