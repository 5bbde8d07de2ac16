"""sentence-transformers with default settings, which truncate a text as its configuration says."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sentence_transformers
import torch

from benchmarks.peers.protocol import Ids, Vectors, serve


class SentenceTransformers:
    """A model by its folder's own configuration; it takes texts, not token ids."""

    def __init__(self, folder: str) -> None:
        self._model = sentence_transformers.SentenceTransformer(folder, device="cpu", local_files_only=True)

    def read(self, texts: Sequence[str], batch: int, threads: int) -> Vectors:
        """Texts → their vectors, float32 (texts, hidden)."""
        torch.set_num_threads(threads)
        made = self._model.encode(list(texts), batch_size=batch, show_progress_bar=False)
        return np.asarray(made, np.float32)

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Refuse: its own tokenizer is what it is measured with."""
        raise NotImplementedError("sentence-transformers reads texts")

    def describe(self) -> dict[str, Any]:
        """Tell how far it reads by its own account."""
        return {"version": sentence_transformers.__version__, "max_seq_length": self._model.max_seq_length}


if __name__ == "__main__":
    serve(SentenceTransformers)
