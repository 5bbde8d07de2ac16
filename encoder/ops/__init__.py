"""The operations seam: the few functions that an 8-bit layer is made of.

One layer, rows of tokens laid end to end (`encoder.stacks.eight` is the caller):

    rows    = quantise(state)                          unless the layer below has left them
    qkv     = linear(rows, layer.qkv)
    context = attention(qkv)
    state   = linear_norm_quantise(quantise(context), layer.mix, state)       and its rows
    wide    = linear_activate_quantise(rows, layer.up)
    state   = linear_norm_quantise(wide, layer.down, state)                   and the next layer's rows

`encoder.ops.reference` has them in plain PyTorch, `encoder.ops.onednn` with oneDNN's integer products,
`encoder.ops.native` in C++, `encoder.ops.cuda` for CUDA. Two forms agree within rounding, not bit for bit; each alone
keeps this promise:

**A row of any result depends, bit for bit, on that row of its inputs alone** (in attention: on its segment), whatever
rows lie beside it and however many threads run. So integer products are exact, outlier columns are added in a fixed
order, and no kernel changes its arithmetic with the number of rows.

What a linear computes, t a token, n an output, k an input, o an outlier column:

    y[t, n] = scale[t] · linear.scale[n] · Σₖ (q[t, k] − zero) · weight[n, k]
            + Σₒ outliers[t, o] · outlier_weight[o, n] + bias[n]

The first sum is exact in int32. All else is float32, or rounded to bfloat16 where an implementation must keep it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from encoder.families import Activation
from encoder.layers import Norm


@dataclass(frozen=True, slots=True)
class Quantiser:
    """How rows are brought to 8 bits before a linear: its own, chosen when the model is quantised."""

    columns: Tensor
    """(outliers,) int32, ascending, possibly none: columns that are kept in bfloat16 beside (LLM.int8(), Dettmers et
    al., 2022), static so that a row does not depend on its batch-mates."""
    factor: Tensor
    """(inputs,) float32 that each row is multiplied by first: 0 at outlier columns."""
    zero: int
    """The byte that stands for 0, in 1 to 254: 128, or less for rows that are mostly positive (an activation's)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in 8 bits.

    For a row x: v = x · factor, scale = max(max(v) / (255 − zero), −min(v) / zero), q = rint(v / scale) + zero, held
    within 0 to 255. A row of zeros has scale 0 and q = zero throughout.
    """

    q: Tensor
    """(tokens, inputs) uint8. At outlier columns it is `zero`."""
    scale: Tensor
    """(tokens,) float32."""
    outliers: Tensor
    """(tokens, outliers) bfloat16: x at the quantiser's columns, not multiplied by anything."""


@dataclass(frozen=True, slots=True)
class Linear8:
    """A linear map in 8 bits."""

    packed: Tensor
    """(outputs, inputs) int8 as `Operations.pack` arranged it; 0 at outlier columns."""
    scale: Tensor
    """(outputs,) float32, row-wise absolute maximum over 127."""
    bias: Tensor
    """(outputs,) float32."""
    outlier_weight: Tensor
    """(outliers, outputs) bfloat16."""
    input: Quantiser
    """How the rows it reads were quantised."""


@dataclass(frozen=True, slots=True)
class Layer8:
    """One layer, packed; see `encoder.layers.Layer`."""

    qkv: Linear8
    mix: Linear8
    mix_norm: Norm
    up: Linear8
    down: Linear8
    down_norm: Norm


class Layers(Protocol):
    """A model's layers, ready to run in one call."""

    def __call__(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """The state at layer `start` to that at layer `stop`, (tokens, hidden) bfloat16."""
        ...


class Operations(Protocol):
    """One form of the operations. Stateless after `__init__`, and safe to call from many threads.

    Tensors are contiguous. States, `qkv` and contexts are bfloat16; rounding to bfloat16 is to nearest even.
    """

    @property
    def name(self) -> str:
        """For people and for fingerprints: which kernels, for which instruction set."""
        ...

    @property
    def build(self) -> str:
        """For fingerprints alone: a digest of the kernels' source and the compiler, where they are ours."""
        ...

    def pack(self, weight: Tensor, zero: int) -> Tensor:
        """Arrange (outputs, inputs) int8 for products with rows whose zero point is `zero`."""
        ...

    def quantise(self, x: Tensor, to: Quantiser) -> Rows:
        """(tokens, inputs) bfloat16 to 8 bits."""
        ...

    def linear(self, rows: Rows, linear: Linear8) -> Tensor:
        """The linear map, (tokens, outputs) bfloat16."""
        ...

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
        """Softmax attention within each segment: (tokens, 3 * hidden) to (tokens, hidden), both bfloat16.

        Queries, keys and values lie side by side, heads within each; scores are scaled by the square root of the head
        size. `window` is the half width in tokens, 0 for none; a segment's two end tokens see and are seen by all of
        it. Which blocks are computed: `encoder.ops.blocks`.
        """
        ...

    def linear_activate_quantise(self, rows: Rows, linear: Linear8, activation: Activation, to: Quantiser) -> Rows:
        """Quantise the activation of the linear map; neither is rounded before."""
        ...

    def linear_norm_quantise(
        self, rows: Rows, linear: Linear8, residual: Tensor, norm: Norm, to: Quantiser | None
    ) -> tuple[Tensor, Rows | None]:
        """The norm of residual + linear map, (tokens, outputs) bfloat16, and its rows under `to`.

        Rows are those of the rounded state: a state that was kept and comes back later quantises to the same bits.
        `norm` has float32 vectors.
        """
        ...

    def stack(self, layers: Sequence[Layer8], heads: int, activation: Activation) -> Layers | None:
        """Layers that run in one call, with the bits of the operations one by one; None where there is no such form."""
        ...
