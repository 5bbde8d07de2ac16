"""Naive reading of a text of any length with a model that reads 512 tokens: all of it, cut after every 510."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from benchmarks.peers.protocol import Engine, Ids, Vectors

_POSITIONS = 512


class ByFixedCuts:
    """An engine for token ids as a reader of texts.

    A text is tokenised whole and cut after every 510 tokens, [CLS] and [SEP] are put around each piece, and a
    document's vector is the mean of its pieces' vectors, weighted by their tokens and normalised. Nothing is left out.
    """

    def __init__(self, engine: Engine, folder: str) -> None:
        self._engine = engine
        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self._tokenizer.no_truncation()  # both are baked into the file
        self._tokenizer.no_padding()
        self._first, self._last = self._tokenizer.encode("").ids

    def read(self, texts: Sequence[str], batch: int, threads: int) -> Vectors:
        """Texts → their vectors, float32 (texts, hidden)."""
        pieces, counts = [], []
        for text in texts:
            own = self._pieces(text)
            pieces += own
            counts.append(len(own))
        vectors = self._engine.embed(pieces, batch, threads)
        weights = np.array([len(ids) - 2 for ids in pieces], np.float64)
        sums: NDArray[np.float64] = np.add.reduceat(vectors * weights[:, None], np.cumsum([0, *counts[:-1]]), axis=0)
        unit: Vectors = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _pieces(self, text: str) -> list[Ids]:
        ids = np.array(self._tokenizer.encode(text, add_special_tokens=False).ids, np.int32)
        size = _POSITIONS - 2
        return [
            np.concatenate([[self._first], ids[start : start + size], [self._last]]).astype(np.int32)
            for start in range(0, max(1, len(ids)), size)
        ]
