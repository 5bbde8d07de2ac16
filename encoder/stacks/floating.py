"""The fp32 and bf16 stack. Each segment runs alone, on one thread.

The bits of floating-point products depend on the other rows and on the number of threads. Measured: a product of 1536
by 384 with 453 rows, bf16 or fp32, differs between one thread and two, and between alone and in a batch. The same shape
on one thread, in equally aligned memory, always gives the same bits.
"""

from collections.abc import Callable, Sequence
from itertools import repeat

import torch
from torch import Tensor
from torch.nn import functional

from encoder.families import Architecture
from encoder.layers import Layer, position_rows, read_embeddings, read_layer
from encoder.ops import reference
from encoder.tensors import chain, held_bytes
from encoder.threads import one_thread
from encoder.weights import Checkpoint


class FloatingStack:
    """A model's layers in fp32 or bf16; see `encoder.stacks.Stack`."""

    portable = False

    def __init__(self, checkpoint: Checkpoint, shape: Architecture, dtype: torch.dtype, device: torch.device) -> None:
        self._shape = shape

        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype)

        self._embeddings = read_embeddings(checkpoint, shape, cast)
        self._layers = [read_layer(checkpoint, shape, index, cast) for index in range(shape.layers)]
        self.digests = chain(f"{shape.canonical()}·{dtype}", [self._embeddings, *self._layers])
        self.embedding_bytes = held_bytes(self._embeddings)
        self.layer_bytes = sum(map(held_bytes, self._layers))

    def embed(self, ids: Tensor, lengths: Sequence[int], seconds: Sequence[int]) -> Tensor:
        """See `Stack.embed`."""
        parts = torch.split(ids.to(self._embeddings.words.device), list(lengths))
        with one_thread():
            return torch.cat([self._embed(*each) for each in zip(parts, seconds or repeat(0), strict=False)])

    def layers(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """See `Stack.layers`."""

        def run(x: Tensor) -> Tensor:
            for layer in self._layers[start:stop]:
                x = self._layer(layer, x, window)
            return x

        return _each(run, state, lengths)

    def _embed(self, ids: Tensor, second: int) -> Tensor:
        tables = self._embeddings
        rows = position_rows(tables.positions, self._shape, len(ids), second)
        return tables.norm(functional.embedding(ids.clone(), tables.words) + rows)

    def _layer(self, layer: Layer, x: Tensor, window: int) -> Tensor:
        context = reference.attention(layer.qkv(x), (x.shape[0],), self._shape.heads, window)
        x = layer.mix_norm(layer.mix(context) + x)
        wide = reference.activate(layer.up(x), self._shape.activation)
        return layer.down_norm(layer.down(wide) + x)


def _each(function: Callable[[Tensor], Tensor], x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Apply a function to each segment alone, on one thread, in freshly allocated (so equally aligned) memory."""
    with one_thread():
        return torch.cat([function(segment.clone()) for segment in torch.split(x, list(lengths))])
