"""The operations in C++ (`encoder/native`): attention, fused 8-bit linear maps, and whole layers.

If a head's size is not a multiple of 16, or a row's or weight's size not a multiple of 32, the operation falls back to
oneDNN and PyTorch.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from encoder.families import Activation
from encoder.layers import Norm
from encoder.native import library
from encoder.native.library import NativeUnavailableError
from encoder.ops import Layer8, Linear8, Quantiser, Rows
from encoder.ops.onednn import OneDnn

__all__ = ["Native", "NativeLayers", "NativeUnavailableError", "best"]

_HEAD_UNIT = 16
_ROW_UNIT = 32


def best() -> "Native":
    """The native operations on the fastest instruction set that the processor and settings allow.

    Raises:
        NativeUnavailableError: none is allowed, or the library is not built or cannot be loaded.
    """
    refusals = []
    for name in library.permitted_sets():
        try:
            return Native(name)
        except ValueError as error:  # Linux refuses access to the tile registers
            refusals.append(str(error))
    raise NativeUnavailableError("; ".join(refusals))


class Native(OneDnn):
    """See `encoder.ops.Operations`.

    Raises:
        NativeUnavailableError: the library is not built or cannot be loaded.
        ValueError: the library or the machine does not offer this instruction set.
    """

    def __init__(self, instruction_set: str) -> None:
        self._module: Any = library.load()
        self._core = self._module.Core(instruction_set)
        self.instruction_set = instruction_set

    @cached_property
    def name(self) -> str:  # type: ignore[override]
        """See `Operations.name`."""
        return f"native kernels for {self.instruction_set}"

    @property
    def build(self) -> str:  # type: ignore[override]
        """See `Operations.build`."""
        return f"{library.key()} {library.compiler()}"

    # --- Operations ---

    def pack(self, weight: Tensor, zero: int) -> Tensor:
        """See `Operations.pack`."""
        if any(size % _ROW_UNIT for size in weight.shape):
            return super().pack(weight, zero)
        packed: Tensor = self._core.pack(weight.contiguous(), zero)
        return packed

    def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
        """See `Reference.product`."""
        if not _is_ours(packed):
            return super().product(q, packed, zero)
        exact: Tensor = self._core.product(q.contiguous(), packed)
        return exact.float()

    def quantise(self, x: Tensor, to: Quantiser) -> Rows:
        """See `Operations.quantise`."""
        if x.shape[1] % _ROW_UNIT:
            return super().quantise(x, to)
        return Rows(*self._core.quantise(x.contiguous(), self._quantiser(to)))

    def linear(self, rows: Rows, linear: Linear8) -> Tensor:
        """See `Operations.linear`."""
        if not _is_ours(linear.packed):
            return super().linear(rows, linear)
        y: Tensor = self._core.linear(_triple(rows), self._linear(linear))
        return y

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
        """See `Operations.attention`."""
        return self.attention_and_work(qkv, lengths, heads, window)[0]

    def attention_and_work(
        self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int
    ) -> tuple[Tensor, int | None]:
        """Attention and the number of scores computed, over all heads and including padding; None if PyTorch ran it."""
        if qkv.shape[1] % (3 * heads * _HEAD_UNIT):
            return super().attention(qkv, lengths, heads, window), None
        context, work = self._core.attention(qkv.contiguous(), list(lengths), heads, window)
        return context, work

    def linear_activate_quantise(self, rows: Rows, linear: Linear8, activation: Activation, to: Quantiser) -> Rows:
        """See `Operations.linear_activate_quantise`."""
        if not _is_ours(linear.packed):
            return super().linear_activate_quantise(rows, linear, activation, to)
        triple = _triple(rows)
        return Rows(*self._core.linear_activate_quantise(triple, self._linear(linear), activation, self._quantiser(to)))

    def linear_norm_quantise(
        self, rows: Rows, linear: Linear8, residual: Tensor, norm: Norm, to: Quantiser | None
    ) -> tuple[Tensor, Rows | None]:
        """See `Operations.linear_norm_quantise`."""
        if not _is_ours(linear.packed):
            return super().linear_norm_quantise(rows, linear, residual, norm, to)
        quantiser = None if to is None else self._quantiser(to)
        state, made = self._core.linear_norm_quantise(
            _triple(rows), self._linear(linear), residual.contiguous(), self._norm(norm), quantiser
        )
        return state, None if made is None else Rows(*made)

    def stack(self, layers: Sequence[Layer8], heads: int, activation: Activation) -> "NativeLayers | None":
        """See `Operations.stack`; None if a size is not supported."""
        linears = [linear for layer in layers for linear in (layer.qkv, layer.mix, layer.up, layer.down)]
        hidden = layers[0].qkv.input.factor.shape[0] if layers else 0
        if hidden % (heads * _HEAD_UNIT) or not all(_is_ours(linear.packed) for linear in linears):
            return None
        return NativeLayers(self._core, [self._layer(layer, heads, activation) for layer in layers])

    # --- Conversions to C++ types ---

    def _quantiser(self, to: Quantiser) -> Any:
        return self._module.Quantiser(to.columns, to.factor, to.zero)

    def _linear(self, linear: Linear8) -> Any:
        parts = (linear.packed, linear.scale, linear.bias, linear.outlier_weight)
        return self._module.Linear(*parts, self._quantiser(linear.input))

    def _norm(self, norm: Norm) -> Any:
        return self._module.Norm(norm.weight, norm.bias, norm.eps)

    def _layer(self, layer: Layer8, heads: int, activation: Activation) -> Any:
        mix = (self._linear(layer.qkv), self._linear(layer.mix), self._norm(layer.mix_norm))
        feed = (self._linear(layer.up), self._linear(layer.down), self._norm(layer.down_norm))
        return self._module.Layer(heads, activation, *mix, *feed)


class NativeLayers:
    """A model's layers, converted once. A run is one call into C++ instead of seven per layer."""

    def __init__(self, core: Any, layers: list[Any]) -> None:
        self._core, self._layers = core, layers

    def __call__(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """See `encoder.ops.Layers`."""
        out: Tensor = self._core.layers(self._layers[start:stop], state.contiguous(), list(lengths), window)
        return out


def _is_ours(packed: Tensor) -> bool:
    """Whether `Native.pack` packed it: our layout is flat, oneDNN's is not."""
    return packed.dtype == torch.int8 and packed.layout == torch.strided and packed.dim() == 1


def _triple(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.q.contiguous(), rows.scale.contiguous(), rows.outliers.contiguous()
