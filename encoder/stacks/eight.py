"""The int8 stack: runs segments laid end to end through `encoder.ops`; no segment affects another's bits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from encoder.families import Architecture
from encoder.layers import position_rows
from encoder.ops import Embeddings8, Layer8, Operations, Rows
from encoder.quantise import QuantisedLayer
from encoder.tensors import chain, held_bytes, moved
from encoder.threads import one_thread

_GROUP_TOKENS = 512
"""Rows per PyTorch operation. With more, temporaries exceed the CPU caches (measured: 230, not 80 ms per segment)."""


class EightStack:
    """A model's 8-bit layers; see `encoder.stacks.Stack`."""

    def __init__(
        self,
        parts: Iterable[Embeddings8 | QuantisedLayer],
        shape: Architecture,
        operations: Operations,
        device: torch.device,
    ) -> None:
        """Take a model's parts, embeddings first; each is released once packed."""
        self._shape, self._operations, self._device = shape, operations, device
        self._layers: list[Layer8] = []
        self.digests = chain(f"{shape.canonical()}·int8", self._take(parts))
        self.embedding_bytes = held_bytes(self._embeddings)
        self.layer_bytes = sum(map(held_bytes, self._layers))
        self._at_once = operations.stack(self._layers, shape.heads, shape.activation)
        self.portable = self._at_once is not None

    def _take(self, parts: Iterable[Embeddings8 | QuantisedLayer]) -> Iterator[Embeddings8 | QuantisedLayer]:
        for part in parts:
            yield part
            if isinstance(part, Embeddings8):
                self._embeddings = moved(part, self._device)
            else:
                self._layers.append(moved(part, self._device).pack(self._operations))

    def embed(self, ids: Tensor, lengths: Sequence[int], seconds: Sequence[int]) -> Tensor:
        """See `Stack.embed`."""
        tables, ids = self._embeddings, ids.to(self._device)
        if not any(seconds):
            return self._operations.embed(tables, ids, lengths)
        parts = zip(torch.split(ids, list(lengths)), seconds, strict=True)
        rows = ((part, position_rows(tables.positions, self._shape, len(part), second)) for part, second in parts)
        return torch.cat(
            [self._operations.embed(replace(tables, positions=own), part, (len(part),)) for part, own in rows]
        )

    def layers(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """See `Stack.layers`."""
        if self._at_once is not None:
            return self._at_once(state, lengths, window, start, stop)
        groups = _groups(lengths)
        parts = torch.split(state, [sum(group) for group in groups])
        # One thread: these operations are so small that waking a second thread costs more than it saves, above all when
        # the cores are busy (measured under load: 90 ms of CPU per segment on one thread, 370 to 790 on two).
        with one_thread():
            run = [
                self._one_by_one(part, group, window, start, stop) for part, group in zip(parts, groups, strict=True)
            ]
        return torch.cat(run)

    def _one_by_one(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """Run each operation over all rows, as described in `encoder.ops`."""
        do, heads, activation = self._operations, self._shape.heads, self._shape.activation
        rows: Rows | None = None
        for index in range(start, stop):
            layer = self._layers[index]
            above = self._layers[index + 1].qkv.input if index + 1 < stop else None
            rows = rows or do.quantise(state, layer.qkv.input)
            context = do.attention(do.linear(rows, layer.qkv), lengths, heads, window)
            mixed = do.quantise(context, layer.mix.input)
            state, rows = do.linear_norm_quantise(mixed, layer.mix, state, layer.mix_norm, layer.up.input)
            wide = do.linear_activate_quantise(cast("Rows", rows), layer.up, activation, layer.down.input)
            state, rows = do.linear_norm_quantise(wide, layer.down, state, layer.down_norm, above)
        return state


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Group adjacent segments up to `_GROUP_TOKENS`; a longer segment is its own group."""
    groups: list[list[int]] = [[]]
    for length in lengths:
        if groups[-1] and sum(groups[-1]) + length > _GROUP_TOKENS:
            groups.append([])
        groups[-1].append(length)
    return groups
