"""Hugging Face transformers: with default settings, in bf16 with sdpa, and that compiled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from benchmarks.peers.protocol import Ids, Vectors, in_padded_batches, serve


class Transformers:
    """A model by AutoModel with mean pooling; `compiled` by torch.compile for any batch and length."""

    def __init__(self, folder: str, *, dtype: str | None = None, compiled: bool = False) -> None:
        options = {} if dtype is None else {"dtype": getattr(torch, dtype), "attn_implementation": "sdpa"}
        self._model = AutoModel.from_pretrained(folder, local_files_only=True, **options).eval()
        self._compiled = compiled
        self._forward = torch.compile(self._model, dynamic=True) if compiled else self._model

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Run the segments in sorted, padded batches."""
        torch.set_num_threads(threads)
        with torch.inference_mode():
            return in_padded_batches(segments, batch, self._pooled)

    def _pooled(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        attended = torch.from_numpy(mask)
        # Without padding no mask: sdpa is faster so. Compiled, a mask that comes and goes would mean more graphs.
        given = attended if self._compiled or not mask.all() else None
        states = self._forward(input_ids=torch.from_numpy(ids), attention_mask=given).last_hidden_state.float()
        weights = attended.unsqueeze(-1).to(states.dtype)
        pooled: Vectors = ((states * weights).sum(1) / weights.sum(1)).numpy()
        return pooled

    def describe(self) -> dict[str, Any]:
        """Tell dtype and attention, so that the record shows what ran."""
        config = self._model.config
        return {"dtype": str(self._model.dtype), "attention": config._attn_implementation}  # noqa: SLF001


if __name__ == "__main__":
    serve(Transformers)
