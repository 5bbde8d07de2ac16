"""The same work without a server: read, run, pool, on one stream a core."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import torch

import encoder
from chunking import Cutting, Segment, budget, load_tokenizer, read
from encoder.folder import describe
from encoder.heads.pooling import pool
from encoder.threads import usable_cores
from server.config.schema import ComputeSettings, cache_home

__all__ = ["Engine"]


class Engine:
    """A model as the server has it in its default settings, and as many threads."""

    def __init__(self, folder: Path) -> None:
        self._encoder = encoder.load(folder, keep=cache_home() / "int8")  # the weights that the server reads too
        self._tokenizer = load_tokenizer(folder)
        self._cutting = Cutting(max_tokens=budget(self._tokenizer, self._encoder.max_tokens))
        self._pooling = describe(folder).pooling
        self._batch_tokens = ComputeSettings().batch_tokens
        self._streams = usable_cores()

    def embed(self, texts: Sequence[str]) -> float:
        """Make all segments' vectors of all texts, a text a stream at a time; the seconds that it took."""
        left, lock = iter(texts), Lock()

        def stream() -> None:
            torch.set_num_threads(1)  # of this thread alone
            while True:
                with lock:
                    text = next(left, None)
                if text is None:
                    return
                for batch in self._batches(text):
                    self._run(batch)

        start = time.perf_counter()
        with ThreadPoolExecutor(self._streams) as streams:
            for done in [streams.submit(stream) for _ in range(self._streams)]:
                done.result()
        return time.perf_counter() - start

    def _batches(self, text: str) -> Iterator[list[Segment]]:
        """A document's segments, as many as may share a run."""
        batch: list[Segment] = []
        tokens = 0
        for segment in (each for group in read(text, self._tokenizer, self._cutting) for each in group):
            if batch and tokens + segment.processed_tokens > self._batch_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(segment)
            tokens += segment.processed_tokens
        if batch:
            yield batch

    def _run(self, segments: Sequence[Segment]) -> None:
        batch = self._encoder.run(self._encoder.batch([each.ids for each in segments], 0), 0, self._encoder.layers)
        assert batch.state is not None
        pool(batch.state, batch.lengths, self._pooling)
