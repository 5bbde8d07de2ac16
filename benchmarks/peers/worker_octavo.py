"""Octavo's own engine as a contender."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.protocol import Ids, Vectors, serve
from benchmarks.runner import Engine


class Octavo:
    """The server's runner; it decides by itself on batches and threads, as the server does."""

    def __init__(self, folder: str, *, scheme: str = "auto", window: int = 0, isa: str = "auto") -> None:
        self._engine = Engine(Path(folder), scheme, window, isa)

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Compute the segments' vectors."""
        del batch, threads
        return self._engine.embed(segments)

    def describe(self) -> dict[str, Any]:
        """Return the scheme, the kernels, and the bytes held for weights."""
        return self._engine.describe()


if __name__ == "__main__":
    serve(Octavo)
