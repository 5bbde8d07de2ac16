"""The operations in plain PyTorch: correct on any machine, and the reference for all other implementations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoder.families import Activation
from encoder.layers import Linear, Norm
from encoder.ops import Embeddings8, Layer8, Layers, Linear8, Quantiser, Rows
from encoder.ops.blocks import Block, plan
from encoder.threads import one_thread


class Reference:
    """See `encoder.ops.Operations`.

    A PyTorch kernel's vector and scalar code may round differently, and how threads split the work decides which code a
    number goes through. So everything inexact runs on one thread; the integer products, which cost most, need not.
    """

    name = "PyTorch reference"

    @property
    def kernels(self) -> str:
        """See `Operations.kernels`."""
        return self.name

    def embed(self, tables: Embeddings8, ids: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `Operations.embed`."""
        positions = torch.cat([tables.positions[:length] for length in lengths]).float()
        words = functional.embedding(ids, tables.words) * tables.scale[ids, None]
        with one_thread():
            return tables.norm(words + positions).bfloat16()

    def pack(self, weight: Tensor, zero: int) -> Tensor:  # noqa: ARG002 (part of the interface)
        """See `Operations.pack`."""
        return weight.contiguous()

    def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
        """(tokens, inputs) uint8 times packed weights: exact integers rounded once to (tokens, outputs) float32.

        Computed in float64, which is exact: 255 · 127 · inputs is far below 2 ** 53.
        """
        return ((q.double() - zero) @ packed.double().t()).float()

    def quantise(self, x: Tensor, to: Quantiser) -> Rows:
        """See `Operations.quantise`."""
        return _quantise(x.float(), to)

    def linear(self, rows: Rows, linear: Linear8) -> Tensor:
        """See `Operations.linear`."""
        return self._affine(rows, linear).bfloat16()

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
        """See `Operations.attention`."""
        with one_thread():
            return attention(qkv, lengths, heads, window)

    def linear_activate_quantise(self, rows: Rows, linear: Linear8, activation: Activation, to: Quantiser) -> Rows:
        """See `Operations.linear_activate_quantise`."""
        y = self._affine(rows, linear)
        # Pad rows to multiples of 64, so that only a number's position in its row decides which code it goes through.
        padded = functional.pad(y, (0, -y.shape[1] % 64))
        with one_thread():
            wide = activate(padded, activation)[:, : y.shape[1]]
        return _quantise(wide, to)

    def linear_norm_quantise(
        self, rows: Rows, linear: Linear8, residual: Tensor, norm: Norm, to: Quantiser | None
    ) -> tuple[Tensor, Rows | None]:
        """See `Operations.linear_norm_quantise`."""
        state = norm(self._affine(rows, linear) + residual.float()).bfloat16()
        return state, None if to is None else self.quantise(state, to)

    def stack(self, layers: Sequence[Layer8], heads: int, activation: Activation) -> Layers | None:  # noqa: ARG002
        """See `Operations.stack`."""
        return None

    def scores(self, linear: Linear) -> Callable[[Tensor, int], Callable[[], Tensor]] | None:  # noqa: ARG002
        """See `Operations.scores`."""
        return None

    def _affine(self, rows: Rows, linear: Linear8) -> Tensor:
        """The linear map in float32."""
        y = self.product(rows.q, linear.packed, linear.input.zero)
        y = y.mul_(linear.scale).mul_(rows.scale[:, None])
        with one_thread():
            for column, weight in zip(rows.outliers.float().unbind(1), linear.outlier_weight.float(), strict=True):
                y.addcmul_(column[:, None], weight)
        return y.add_(linear.bias)


def _quantise(x: Tensor, to: Quantiser) -> Rows:
    v = x * to.factor
    scale = torch.maximum(v.amax(1) / (255 - to.zero), -v.amin(1) / to.zero)
    inverse = torch.where(scale > 0, 1 / scale, 0)
    q = (v * inverse[:, None]).round_().add_(to.zero).clamp_(0, 255).to(torch.uint8)
    return Rows(q, scale, x[:, to.columns].bfloat16())


def attention(qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
    """Softmax attention within each segment, limited to a window; see `encoder.ops.blocks`.

    Args:
        qkv: (tokens, 3 * hidden): queries, keys and values, each split into heads.
        lengths: tokens of each segment.
        heads: attention heads; scores are divided by the square root of the head size, hidden / heads.
        window: half width in tokens, 0 for full attention.

    Returns:
        (tokens, hidden), of the same type as `qkv`.
    """
    contexts = []
    for segment in torch.split(qkv, list(lengths)):
        # (3, heads, tokens, head size)
        queries, keys, values = segment.view(segment.shape[0], 3, heads, -1).permute(1, 2, 0, 3)
        blocks = [_block(queries, keys, values, block, window) for block in plan(segment.shape[0], window)]
        contexts.append(torch.cat(blocks, dim=1).transpose(0, 1).flatten(1))
    return torch.cat(contexts)


def _block(queries: Tensor, keys: Tensor, values: Tensor, block: Block, window: int) -> Tensor:
    """Attention of one block: (heads, queries, head size)."""
    length = queries.shape[1]
    reads = torch.arange(block.low, block.high, device=queries.device)
    if block.head:
        reads = torch.cat([reads.new_zeros(1), reads])
    if block.tail:
        reads = torch.cat([reads, reads.new_full((1,), length - 1)])
    rows = torch.arange(block.first, block.last, device=queries.device)[:, None]
    mask = None
    if window and window < length - 1:
        ends = (reads == 0) | (reads == length - 1) | (rows == 0) | (rows == length - 1)
        mask = (((rows - reads).abs() <= window) | ends)[None]
    if block.head or block.tail:
        keys, values = keys[:, reads], values[:, reads]
    else:
        keys, values = keys[:, block.low : block.high], values[:, block.low : block.high]
    taken = queries[None, :, block.first : block.last]
    return functional.scaled_dot_product_attention(taken, keys[None], values[None], attn_mask=mask)[0]


def activate(x: Tensor, activation: Activation) -> Tensor:
    """The feed-forward block's activation."""
    if activation == "relu":
        return functional.relu(x)
    return functional.gelu(x, approximate="tanh" if activation == "gelu_tanh" else "none")
