"""OpenVINO, by default with bf16 as the precision hint."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]  # in the peer's environment alone
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from benchmarks.peers.protocol import Ids, Vectors, in_padded_batches, mean_pooled, serve


class OpenVino:
    """A converted model, compiled once for each number of threads that is asked for."""

    def __init__(self, folder: str, *, precision: str = "bf16") -> None:
        self._core = openvino.Core()
        self._precision = precision
        self._model = _convert(folder)
        self._compiled: dict[int, openvino.CompiledModel] = {}

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Run the segments in sorted, padded batches."""
        if threads not in self._compiled:
            self._compiled[threads] = self._core.compile_model(
                self._model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": self._precision,
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads,
                },
            )
        compiled = self._compiled[threads]
        return in_padded_batches(segments, batch, lambda ids, mask: _pooled(compiled, ids, mask))

    def describe(self) -> dict[str, Any]:
        """Tell the version of the runtime and the precision."""
        return {"runtime": openvino.get_version(), "precision": self._precision}


def _convert(folder: str) -> openvino.Model:
    """Convert from PyTorch: so attention stays one operation, which OpenVINO runs faster than its parts."""
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, attn_implementation="sdpa")
    example = {name: torch.ones(2, 16, dtype=torch.int64) for name in ("input_ids", "attention_mask")}
    any_shape = openvino.PartialShape([-1, -1])
    return openvino.convert_model(
        model.eval(),
        example_input=example,
        input=[(name, any_shape, openvino.Type.i64) for name in example],
    )


def _pooled(compiled: openvino.CompiledModel, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
    states = compiled({"input_ids": ids, "attention_mask": mask}, share_inputs=True)[0]
    return mean_pooled(states, mask)


if __name__ == "__main__":
    serve(OpenVino)
