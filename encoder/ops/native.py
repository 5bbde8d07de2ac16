"""The operations in C++ (`encoder/native`): embeddings, attention, fused 8-bit linear maps, and whole layers.

If a head's size is not a multiple of 16, or a row's or weight's size not a multiple of 32, the operation falls back to
PyTorch, and the model has another fingerprint.
"""

from collections.abc import Sequence
from itertools import takewhile

from torch import Tensor

from encoder.families import Activation
from encoder.layers import Linear, Norm
from encoder.native import library
from encoder.native.core import HEAD_UNIT, LANES, ROW_UNIT, Core, Scores
from encoder.native.library import NativeUnavailableError
from encoder.ops import Embeddings8, Layer8, Linear8, Quantiser, Rows
from encoder.ops.reference import Reference

__all__ = ["Native", "NativeLayers", "NativeUnavailableError", "best", "outlook"]

ARITHMETIC = "octavo-8bit-1"
"""Names the arithmetic, which all forms share bit for bit. Count up if any result changes; golden.json has the name."""

_FAST = frozenset({"amx", "avx512", "neon"})
"""Forms beside which a faster one would be of another kind of machine."""


def best(isa: str = "auto") -> "Native":
    """The native operations in the fastest form that this machine runs, or in the form named.

    Raises:
        NativeUnavailableError: there is none, or the library is not built or cannot be loaded.
    """
    library.load()
    refusals = []
    for form in library.forms() if isa == "auto" else (isa,):
        try:
            return Native(form)
        except NativeUnavailableError as error:
            refusals.append(str(error))
    raise NativeUnavailableError("; ".join(refusals) or f"there is no native core for {library.architecture()}")


def outlook(form: str) -> str:
    """Which faster forms this machine does not run; empty for those that are as fast as their architecture has them."""
    faster = list(takewhile(lambda each: each != form, library.forms()))
    if form in _FAST or not faster:
        return ""
    return f"this machine has none of {', '.join(faster)}, which would be faster"


class Native(Reference):
    """See `encoder.ops.Operations`.

    Raises:
        NativeUnavailableError: the library or the machine does not have this form.
    """

    name = ARITHMETIC

    def __init__(self, form: str) -> None:
        self._core = Core(form)
        self.form = form

    @property
    def kernels(self) -> str:
        """See `Operations.kernels`."""
        return f"native kernels for {self.form}"

    # --- Operations ---

    def embed(self, tables: Embeddings8, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `Operations.embed`."""
        if tables.words.shape[1] % ROW_UNIT:
            return super().embed(tables, ids, lengths)
        return self._core.embed(tables, ids, lengths)

    def pack(self, weight: Tensor, zero: int) -> Tensor:
        """See `Operations.pack`."""
        if any(size % ROW_UNIT for size in weight.shape):
            return super().pack(weight, zero)
        return self._core.pack(weight.contiguous(), zero)

    def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
        """See `Reference.product`."""
        if not _is_ours(packed):
            return super().product(q, packed, zero)
        return self._core.product(q.contiguous(), packed).float()

    def quantise(self, x: Tensor, to: Quantiser) -> Rows:
        """See `Operations.quantise`."""
        if x.shape[1] % ROW_UNIT:
            return super().quantise(x, to)
        return self._core.quantise(x.contiguous(), to)

    def linear(self, rows: Rows, linear: Linear8) -> Tensor:
        """See `Operations.linear`."""
        if not _is_ours(linear.packed):
            return super().linear(rows, linear)
        return self._core.linear(rows, linear)

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
        """See `Operations.attention`."""
        return self.attention_and_work(qkv, lengths, heads, window)[0]

    def attention_and_work(
        self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int
    ) -> tuple[Tensor, int | None]:
        """Attention and the number of scores computed, over all heads and including padding; None if PyTorch ran it."""
        if heads > 0 and qkv.shape[1] % (3 * heads * HEAD_UNIT):
            return super().attention(qkv, lengths, heads, window), None
        return self._core.attention(qkv.contiguous(), lengths, heads, window)

    def linear_activate_quantise(self, rows: Rows, linear: Linear8, activation: Activation, to: Quantiser) -> Rows:
        """See `Operations.linear_activate_quantise`."""
        if not _is_ours(linear.packed):
            return super().linear_activate_quantise(rows, linear, activation, to)
        return self._core.linear_activate_quantise(rows, linear, activation, to)

    def linear_norm_quantise(
        self, rows: Rows, linear: Linear8, residual: Tensor, norm: Norm, to: Quantiser | None
    ) -> tuple[Tensor, Rows | None]:
        """See `Operations.linear_norm_quantise`."""
        if not _is_ours(linear.packed):
            return super().linear_norm_quantise(rows, linear, residual, norm, to)
        return self._core.linear_norm_quantise(rows, linear, residual.contiguous(), norm, to)

    def stack(self, layers: Sequence[Layer8], heads: int, activation: Activation) -> "NativeLayers | None":
        """See `Operations.stack`; None if a size is not supported."""
        linears = [linear for layer in layers for linear in (layer.qkv, layer.mix, layer.up, layer.down)]
        hidden = layers[0].qkv.input.factor.shape[0] if layers else 0
        if heads <= 0 or hidden % (heads * HEAD_UNIT) or not all(_is_ours(linear.packed) for linear in linears):
            return None
        return NativeLayers(self._core, layers, heads, activation)

    def scores(self, linear: Linear) -> Scores | None:
        """See `Operations.scores`."""
        return None if linear.weight.shape[1] % LANES else self._core.scores(linear)


class NativeLayers:
    """A model's layers, converted once. A run is one call into C++ instead of seven per layer."""

    def __init__(self, core: Core, layers: Sequence[Layer8], heads: int, activation: Activation) -> None:
        self._core = core
        self._layers = [core.layer(layer, heads, activation) for layer in layers]

    def __call__(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """See `encoder.ops.Layers`."""
        return self._core.layers(self._layers[start:stop], state.contiguous(), lengths, window)


def _is_ours(packed: Tensor) -> bool:
    """Whether `Native.pack` packed it: the native layout is flat."""
    return packed.dim() == 1
