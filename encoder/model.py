"""A loaded model that can run any range of layers."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.batch import Batch, lay_end_to_end
from encoder.errors import BatchError
from encoder.families import Architecture
from encoder.ops.select import Choice, machine
from encoder.stacks import Stack
from encoder.tensors import as_bytes

_PROBES = (((77,), 0), ((130, 3, 1), 16))
"""Lengths of probe segments, and their window."""


class Encoder:
    """Runs segments through any range of layers. Thread-safe; built by `load`.

    A segment's result is the same, bit for bit, whatever it is batched with, however the run is split by layers, and
    (on a CPU) whatever the number of threads.

    Attributes:
        operations: what the 8-bit layers run on; None in other schemes.
        arithmetic: names how numbers are computed: the same name, the same bits, if it is the native core's.
        kernels: which kernels serve, on which hardware.
        kernels_reason: why no faster kernels serve; empty if these are the fastest.
        layer_digests: hex digests at each layer boundary (layers + 1), chained over the tensors as executed, so
            checkpoints with equal lower layers share these digests.
    """

    def __init__(self, shape: Architecture, stack: Stack, choice: Choice) -> None:
        self._stack = stack
        self.architecture = shape
        self.layers = shape.layers
        self.hidden = shape.hidden
        self.max_tokens = shape.max_tokens
        self.scheme = choice.scheme
        self.state_type = torch.float32 if choice.scheme == "fp32" else torch.bfloat16
        self.device = str(choice.device)
        self.kernels = choice.kernels
        self.operations = choice.operations
        self._arithmetic = _arithmetic(choice, portable=stack.portable)
        self.arithmetic = choice.operations.name if choice.operations else "PyTorch"
        self.kernels_reason = choice.reason
        self.layer_digests = stack.digests
        self.digest = stack.digests[-1]
        self._numerics = tuple(self._fingerprints())

    @property
    def layer_bytes(self) -> int:
        """Bytes of the layers' weights."""
        return self._stack.layer_bytes

    @property
    def embedding_bytes(self) -> int:
        """Bytes of the embeddings' weights."""
        return self._stack.embedding_bytes

    def batch(self, ids: Sequence[NDArray[Any]], window: int = 0, seconds: Sequence[int] = ()) -> Batch:
        """Lay segments end to end; raises as `encoder.batch.lay_end_to_end` does."""
        vocabulary = self.architecture.vocabulary
        return lay_end_to_end(ids, window, seconds, vocabulary=vocabulary, max_tokens=self.max_tokens)

    def run(self, batch: Batch, start: int, stop: int) -> Batch:
        """Run a batch from layer `start` to layer `stop`; layer 0 is the embeddings' output.

        run(run(b, 0, k), k, n) equals run(b, 0, n) bit for bit. A batch without a state must start at 0; its embeddings
        are computed first.

        Raises:
            BatchError: the layers do not exist, or the state does not fit.
        """
        if not 0 <= start <= stop <= self.layers:
            raise BatchError(f"layers {start} to {stop} do not exist; the model has {self.layers}")
        if batch.state is None and start:
            raise BatchError(f"a batch needs its state to start at layer {start}")
        if batch.state is not None:
            self._check(batch.state, tokens=batch.ids.shape[0])
        with torch.inference_mode():
            if batch.state is None:
                state = self._stack.embed(batch.ids, batch.lengths, batch.seconds)
            else:
                state = batch.state.to(self.device)
            if start < stop:
                state = self._stack.layers(state, batch.lengths, batch.window, start, stop)
        return replace(batch, state=state)

    def _check(self, state: Tensor, *, tokens: int) -> None:
        if state.shape != (tokens, self.hidden):
            raise BatchError(f"state has shape {tuple(state.shape)}, not {(tokens, self.hidden)}")
        if state.dtype != self.state_type:
            raise BatchError(f"state has type {state.dtype}, not {self.state_type}")

    def numerics(self, layer: int) -> str:
        """What a state's bits at a layer depend on besides tensors, ids and window, as one line for a cache key.

        It names the arithmetic, and library versions and the instruction set where bits depend on them. A digest of a
        probe's states up to that layer detects any other change: what deviates separates itself. Higher layers
        are left out so that checkpoints with equal lower layers have equal lines.
        """
        return self._numerics[layer]

    def _fingerprints(self) -> Iterator[str]:
        batches = [self.batch([self._probe(length) for length in lengths], window) for lengths, window in _PROBES]
        total = hashlib.blake2b(digest_size=16)
        for layer in range(self.layers + 1):
            batches = [self.run(batch, max(0, layer - 1), layer) for batch in batches]
            for batch in batches:
                if batch.state is not None:
                    total.update(as_bytes(batch.state))
            yield f"{self._arithmetic}·probe={total.hexdigest()}"

    def _probe(self, length: int) -> NDArray[np.int64]:
        """Token ids by an integer hash: NumPy's generators may change between versions."""
        counted = np.arange(min(length, self.max_tokens), dtype=np.int64)
        return (counted * 2_654_435_761 >> 16) % self.architecture.vocabulary


def _arithmetic(choice: Choice, *, portable: bool) -> str:
    """Names what computes: our arithmetic alone where it is the same everywhere, else also machine and libraries."""
    if choice.operations is not None and portable:
        return f"scheme={choice.scheme}·arithmetic={choice.operations.name}"
    operations = f"·arithmetic={choice.operations.name}" if choice.operations else ""
    return f"{machine(choice.device)}·scheme={choice.scheme}{operations}·kernels={choice.kernels}"
