"""ONNX Runtime with dynamic int8 quantisation or in fp32, and its graph optimiser's fusions where they help."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx  # type: ignore[import-not-found]
import onnxruntime  # type: ignore[import-not-found]  # in the peer's environment alone
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic  # type: ignore[import-not-found]
from onnxruntime.transformers import optimizer  # type: ignore[import-not-found]
from transformers import AutoModel

from benchmarks.peers.protocol import Ids, Vectors, in_padded_batches, mean_pooled, serve


class OnnxRuntime:
    """The faster one of two graphs, with a session for each number of threads that is asked for."""

    def __init__(self, folder: str, *, quantised: bool = True) -> None:
        self._sessions: dict[int, onnxruntime.InferenceSession] = {}
        with tempfile.TemporaryDirectory() as scratch:
            graphs = _exported(folder, Path(scratch))
            candidates = {path.stem: path.read_bytes() for path in (map(_quantised, graphs) if quantised else graphs)}
        self._took = {name: _time_of_a_segment(graph) for name, graph in candidates.items()}
        self._chosen = min(self._took, key=self._took.__getitem__)
        self._graph = candidates[self._chosen]

    def embed(self, segments: Sequence[Ids], batch: int, threads: int) -> Vectors:
        """Run the segments in sorted, padded batches."""
        if threads not in self._sessions:
            self._sessions[threads] = _session(self._graph, threads)
        session = self._sessions[threads]
        return in_padded_batches(segments, batch, lambda ids, mask: _pooled(session, ids, mask))

    def describe(self) -> dict[str, Any]:
        """Tell which graph was the faster one."""
        return {"graph": self._chosen, "seconds_a_segment": self._took}


class _States(torch.nn.Module):
    """The model as the exporter can call it: two positional inputs, one output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return states


def _exported(folder: str, scratch: Path) -> tuple[Path, Path]:
    """Export the plain graph, and make the one with fused attention, GELU and layer norm."""
    model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32, attn_implementation="eager")
    config = model.config
    plain = scratch / "plain.onnx"
    ids = torch.ones(2, 16, dtype=torch.int64)
    torch.onnx.export(
        _States(model.eval()),
        (ids, torch.ones_like(ids)),
        plain,
        input_names=["input_ids", "attention_mask"],
        output_names=["states"],
        dynamic_axes={name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask", "states")},
        opset_version=17,
        dynamo=False,  # the optimiser's fusions know this exporter's patterns
    )
    fused = scratch / "fused.onnx"
    heads, hidden = config.num_attention_heads, config.hidden_size
    optimizer.optimize_model(str(plain), model_type="bert", num_heads=heads, hidden_size=hidden).save_model_to_file(
        str(fused)
    )
    return plain, fused


def _quantised(path: Path) -> Path:
    target = path.with_stem(f"{path.stem}-int8")
    quantize_dynamic(
        path,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        # Shapes cannot be inferred through fused operations; all that they give is float.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    return target


def _session(graph: bytes, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _time_of_a_segment(graph: bytes) -> float:
    """Measure the best of five runs of 512 tokens on one thread, in seconds."""
    session, taken = _session(graph, 1), []
    ids = np.full((1, 512), 2000, np.int64)
    for _ in range(5):
        start = time.perf_counter()
        _pooled(session, ids, np.ones_like(ids))
        taken.append(time.perf_counter() - start)
    return min(taken)


def _pooled(session: onnxruntime.InferenceSession, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
    given = {"input_ids": ids, "attention_mask": mask}
    states = session.run(["states"], {entry.name: given[entry.name] for entry in session.get_inputs()})[0]
    return mean_pooled(states, mask)


if __name__ == "__main__":
    serve(OnnxRuntime)
