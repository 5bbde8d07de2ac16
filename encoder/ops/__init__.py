"""The operations interface: the functions that an 8-bit layer consists of.

One layer over rows of tokens laid end to end (called by `encoder.stacks.eight`):

    state   = embed(ids)                               before the first layer
    rows    = quantise(state)                          unless the layer below returned them
    qkv     = linear(rows, layer.qkv)
    context = attention(qkv)
    state   = linear_norm_quantise(quantise(context), layer.mix, state)       and its rows
    wide    = linear_activate_quantise(rows, layer.up)
    state   = linear_norm_quantise(wide, layer.down, state)                   and the next layer's rows

Implementations: `encoder.ops.reference` in plain PyTorch, `encoder.ops.native` in C++, `encoder.ops.cuda` for CUDA.
They agree within rounding; all forms of the native one agree bit for bit. Each guarantees:

**Each row of a result depends, bit for bit, only on that row of its inputs** (in attention: on its segment), whatever
the other rows and the number of threads. So integer products are exact, outlier columns are added in a fixed order, and
no kernel changes its arithmetic with the number of rows.

A linear map computes, for token t, output n, input k and outlier column o:

    y[t, n] = scale[t] · linear.scale[n] · Σₖ (q[t, k] − zero) · weight[n, k]
            + Σₒ outliers[t, o] · outlier_weight[o, n] + bias[n]

The first sum is exact in int32. Everything else is float32, or rounded to bfloat16 where it must be stored.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from encoder.families import Activation
from encoder.layers import Linear, Norm


@dataclass(frozen=True, slots=True)
class Quantiser:
    """How the inputs of one linear map are quantised; chosen when the model is quantised.

    Attributes:
        columns: (outliers,) int32, ascending, possibly empty: columns that are also kept in bfloat16 (LLM.int8(),
            Dettmers et al., 2022). They are static so that a row does not depend on others in its batch.
        factor: (inputs,) float32 that each row is first multiplied by; 0 at outlier columns.
        zero: the zero point, 1 to 254: 128, or less for mostly positive rows (after an activation).
    """

    columns: Tensor
    factor: Tensor
    zero: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Quantised rows.

    For a row x: v = x · factor, scale = max(max(v) / (255 − zero), −min(v) / zero), q = rint(v / scale) + zero, clamped
    to 0 to 255. A row of zeros has scale 0 and q = zero.

    Attributes:
        q: (tokens, inputs) uint8; `zero` at outlier columns.
        scale: (tokens,) float32.
        outliers: (tokens, outliers) bfloat16: x at the quantiser's columns, unscaled.
    """

    q: Tensor
    scale: Tensor
    outliers: Tensor


@dataclass(frozen=True, slots=True)
class Linear8:
    """An 8-bit linear map.

    Attributes:
        packed: (outputs, inputs) int8 in the layout of `Operations.pack`; 0 at outlier columns.
        scale: (outputs,) float32: each row's absolute maximum divided by 127.
        bias: (outputs,) float32.
        outlier_weight: (outliers, outputs) bfloat16.
        input: how its input rows are quantised.
    """

    packed: Tensor
    scale: Tensor
    bias: Tensor
    outlier_weight: Tensor
    input: Quantiser


@dataclass(frozen=True, slots=True)
class Embeddings8:
    """8-bit embedding tables; see `encoder.layers.Embeddings`.

    Attributes:
        words: (vocabulary, hidden) int8.
        scale: (vocabulary,) float32.
        positions: (types * max_tokens, hidden) bfloat16.
    """

    words: Tensor
    scale: Tensor
    positions: Tensor
    norm: Norm


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
    """A model's layers, run in one call."""

    def __call__(self, state: Tensor, lengths: Sequence[int], window: int, start: int, stop: int) -> Tensor:
        """Compute the state at layer `stop` from that at layer `start`; both (tokens, hidden) bfloat16."""
        ...


class Operations(Protocol):
    """An implementation of the operations. Stateless after `__init__` and thread-safe.

    Tensors are contiguous. States, `qkv` and contexts are bfloat16, rounded to nearest even.
    """

    @property
    def name(self) -> str:
        """Names the arithmetic; part of fingerprints."""
        ...

    @property
    def kernels(self) -> str:
        """Which kernels, for which instruction set; shown to people."""
        ...

    def embed(self, tables: Embeddings8, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """Normalise words + positions, which count within each segment: (tokens,) to (tokens, hidden) bfloat16."""
        ...

    def pack(self, weight: Tensor, zero: int) -> Tensor:
        """Pack (outputs, inputs) int8 for products with rows whose zero point is `zero`."""
        ...

    def quantise(self, x: Tensor, to: Quantiser) -> Rows:
        """Quantise (tokens, inputs) bfloat16."""
        ...

    def linear(self, rows: Rows, linear: Linear8) -> Tensor:
        """Apply the linear map: (tokens, outputs) bfloat16."""
        ...

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
        """Softmax attention within each segment: (tokens, 3 * hidden) to (tokens, hidden), both bfloat16.

        A row holds queries, keys and values in that order, each split into heads; scores are divided by the square root
        of the head size. `window` is the half width in tokens, or 0 for full attention; a segment's first and last
        tokens attend to, and are attended by, all of it. `encoder.ops.blocks` plans which blocks are computed.
        """
        ...

    def linear_activate_quantise(self, rows: Rows, linear: Linear8, activation: Activation, to: Quantiser) -> Rows:
        """Apply the linear map and the activation, then quantise, without rounding in between."""
        ...

    def linear_norm_quantise(
        self, rows: Rows, linear: Linear8, residual: Tensor, norm: Norm, to: Quantiser | None
    ) -> tuple[Tensor, Rows | None]:
        """Normalise residual + linear map: (tokens, outputs) bfloat16, and that quantised under `to`.

        The rounded state is what is quantised, so a state read from the cache quantises to the same bits. `norm` has
        float32 vectors.
        """
        ...

    def stack(self, layers: Sequence[Layer8], heads: int, activation: Activation) -> Layers | None:
        """Layers that run in one call, with the same bits as the separate operations; None if not supported.

        Their bits and those of `embed` depend on no machine and no library.
        """
        ...

    def scores(self, linear: Linear) -> Callable[[Tensor, int], Callable[[], Tensor]] | None:
        """A trained head's linear map of states: (tokens, hidden) bfloat16 to (tokens, labels) float32.

        It begins, with so many threads, and returns what waits for the result. None if not supported. Its bits depend
        on no machine and no library.
        """
        ...
