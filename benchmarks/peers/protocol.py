"""The workers' protocol: one JSON object per line, requests on standard input, replies on standard output.

    {"op": "workload", "name", "path"}                 token ids by name; see `save_workload`
    {"op": "load", "model", "folder", "options": {…}}  loads a model under a name; replies what the engine tells of it
    {"op": "run", "model", "workload", "batch", "threads", "share": [i, of], "repeats", "vectors"}
                                                       → {"seconds": [one a repeat]}
    {"op": "read", "model", "texts", "batch", "threads"}
                                                       → {"seconds", "vectors": [[…] a text]}

The worker times itself, from token ids (or texts) to pooled vectors, excluding the pipe. `share` divides the segments
among processes. `vectors` is a path to save the vectors to, so that wrong results are detected. An engine without its
own `read` reads texts as `reading.ByFixedCuts` does. A failed request is answered with {"error": reason}, and the
worker continues.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Ids: TypeAlias = NDArray[np.int32]
Vectors: TypeAlias = NDArray[np.float32]


class Engine(Protocol):
    """A loaded model of a contender."""

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Segments' token ids, specials included → their mean-pooled vectors, float32 (segments, hidden), in order."""

    def describe(self) -> dict[str, Any]:
        """Tell what a reader of the record should know of it."""


@runtime_checkable
class Reader(Protocol):
    """What makes vectors of texts."""

    def read(self, texts: Sequence[str], batch: int, threads: int) -> Vectors:
        """Texts → their vectors, float32 (texts, hidden), in order."""


Load: TypeAlias = Callable[..., Engine]


def save_workload(path: Path, segments: Sequence[Ids]) -> None:
    """Write segments laid end to end, with their lengths."""
    np.savez(path, ids=np.concatenate(segments), lengths=np.array([len(ids) for ids in segments]))


def read_workload(path: Path) -> list[Ids]:
    """Read what `save_workload` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        return list(np.split(stored["ids"], np.cumsum(stored["lengths"])[:-1]))


def in_padded_batches(
    segments: Sequence[Ids],
    batch: int,
    forward: Callable[[NDArray[np.int64], NDArray[np.int64]], Vectors],
) -> Vectors:
    """Run `forward(ids, mask)` on batches of segments sorted by length, so that as little as possible is padding."""
    order = np.argsort([len(ids) for ids in segments], kind="stable")[::-1]
    parts = []
    for start in range(0, len(order), batch):
        chosen = [segments[i] for i in order[start : start + batch]]
        ids = np.zeros((len(chosen), len(chosen[0])), np.int64)
        mask = np.zeros_like(ids)
        for row, own in enumerate(chosen):
            ids[row, : len(own)], mask[row, : len(own)] = own, 1
        parts.append(forward(ids, mask))
    sorted_vectors = np.concatenate(parts)
    vectors = np.empty_like(sorted_vectors)
    vectors[order] = sorted_vectors
    return vectors


def serve(load: Load) -> None:
    """Answer requests until standard input ends."""
    # Libraries print; what they print must not end up among the replies.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    worker = _Worker(load)
    for line in sys.stdin:
        try:
            reply = worker.answer(json.loads(line))
        except Exception as error:  # noqa: BLE001  whatever it is, the driver reports it as the contender's failure
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")


class _Worker:
    def __init__(self, load: Load) -> None:
        self._load = load
        self._engines: dict[str, Engine] = {}
        self._folders: dict[str, str] = {}
        self._workloads: dict[str, list[Ids]] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what the request's `op` says."""
        match request.pop("op"):
            case "workload":
                self._workloads[request["name"]] = read_workload(Path(request["path"]))
                return {}
            case "load":
                engine = self._load(request["folder"], **request["options"])
                self._engines[request["model"]] = engine
                self._folders[request["model"]] = request["folder"]
                return engine.describe()
            case "run":
                return self._run(**request)
            case "read":
                return self._read(**request)
            case other:
                raise ValueError(f"unknown op {other!r}")

    def _run(
        self,
        model: str,
        workload: str,
        batch: int,
        threads: int,
        share: Sequence[int] = (0, 1),
        repeats: int = 1,
        vectors: str | None = None,
    ) -> dict[str, Any]:
        index, of = share
        by_length = sorted(self._workloads[workload], key=len)
        segments = by_length[index::of] if of > 1 else self._workloads[workload]
        engine, seconds = self._engines[model], []
        for _ in range(repeats):
            start = time.perf_counter()
            made = engine.embed(segments, batch, threads)
            seconds.append(time.perf_counter() - start)
        if vectors:
            np.save(vectors, made)
        return {"seconds": seconds}

    def _read(self, model: str, texts: Sequence[str], batch: int, threads: int) -> dict[str, Any]:
        reader = _reader(self._engines[model], self._folders[model])
        start = time.perf_counter()
        vectors = reader.read(texts, batch, threads)
        return {"seconds": time.perf_counter() - start, "vectors": vectors.tolist()}


def _reader(engine: Engine | Reader, folder: str) -> Reader:
    if isinstance(engine, Reader):
        return engine
    from benchmarks.peers.reading import ByFixedCuts  # which needs tokenizers, and this module

    return ByFixedCuts(engine, folder)
