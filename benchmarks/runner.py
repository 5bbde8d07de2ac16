"""Octavo's engine without its server: the server's own runner, fed as the server's scheduler feeds it."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

import encoder
from benchmarks.figures import Figure
from benchmarks.peers.protocol import Ids, Vectors
from benchmarks.race import Run, raced, timed
from benchmarks.statistics import ratio
from benchmarks.workloads import document_segments
from chunking import load_tokenizer
from encoder.threads import usable_cores
from server.config.folders import cache_home
from server.config.schema import ComputeSettings
from server.inference.runner import Runner
from server.telemetry.metrics import Metrics
from server.types import Pool, Work

_MEAN = Pool("mean")


class Engine:
    """A model with the server's default settings: one stream per core, or all cores for a segment that is alone."""

    def __init__(self, folder: Path, scheme: str = "auto", window: int = 0, isa: str = "auto") -> None:
        self.encoder = encoder.load(folder, scheme=scheme, device="cpu", isa=isa, keep=cache_home() / "int8")
        self._runner = Runner(self.encoder, ComputeSettings().batch_tokens, folder.name, Metrics(CollectorRegistry()))
        self._window = window
        self._cores = usable_cores()
        self._streams = ThreadPoolExecutor(self._cores)

    def embed(self, segments: Sequence[Ids]) -> Vectors:
        """Compute segments that are all known beforehand; runs are of even size, so that no stream idles at the end.

        A server under load never reaches the end of its work. Peers get their work dealt out evenly too.
        """
        if len(segments) == 1:
            return self._compute(segments, self._cores)
        return self._compute_all(packed(segments, even_budget(segments, self._runner.batch_tokens, self._cores)))

    def embed_as_read(self, segments: Iterable[Ids]) -> Vectors:
        """Compute segments as they arrive: the caller's thread reads the next ones while the streams compute.

        Runs are packed as the scheduler packs them, across texts.
        """
        return self._compute_all(packed(segments, self._runner.batch_tokens))

    def describe(self) -> dict[str, Any]:
        """Return the scheme, the kernels, and the bytes held for weights."""
        own = self.encoder
        return {
            "scheme": own.scheme,
            "kernels": own.kernels,
            "kernels_reason": own.kernels_reason,
            "layer_bytes": own.layer_bytes,
            "embedding_bytes": own.embedding_bytes,
        }

    def _compute_all(self, runs: Iterable[Sequence[Ids]]) -> Vectors:
        return np.concatenate(list(self._streams.map(lambda run: self._compute(run, 1), runs)))

    def _compute(self, run: Sequence[Ids], threads: int) -> Vectors:
        cuts = (self._runner.layers,)
        works = [Work(b"", self._runner, ids, self._window, 0, None, cuts, (_MEAN,)) for ids in run]
        return np.stack([computed.parts[_MEAN] for computed in self._runner.compute(works, threads)])


def packed(segments: Iterable[Ids], budget: int) -> Iterator[list[Ids]]:
    """Pack segments, in order, into runs of at most `budget` tokens; a longer segment is a run of its own."""
    run: list[Ids] = []
    room = budget
    for ids in segments:
        if run and len(ids) > room:
            yield run
            run, room = [], budget
        run.append(ids)
        room -= len(ids)
    if run:
        yield run


def even_budget(segments: Sequence[Ids], budget: int, streams: int) -> int:
    """Lower the budget until every stream gets as many runs as the others."""
    tokens = sum(map(len, segments))
    rounds = -(-tokens // (budget * streams))
    return min(budget, -(-tokens // (rounds * streams)))


def over_engine(folder: Path, texts: Sequence[str], work: Run, rounds: int) -> Figure:
    """Divide the time that the engine takes to read and run texts by that of ``work`` on the same texts, in turns."""
    engine, tokenizer = Engine(folder), load_tokenizer(folder)
    reading = timed(lambda: engine.embed_as_read(ids for text in texts for ids in document_segments(text, tokenizer)))
    seconds = raced({"work": work, "engine": reading}, rounds)
    return ratio(seconds["engine"], seconds["work"])
