"""The operations on CUDA: bitsandbytes' 8-bit products, PyTorch's varlen and flex attention, otherwise the reference.

The guarantee of `encoder.ops` is weaker here: products are exact, but attention may vary with the batch, within
rounding. A stored result is still served unchanged.
"""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate
from typing import Any, cast

import torch
from bitsandbytes.functional import int8_linear_matmul
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from encoder.ops.reference import Reference


class Cuda(Reference):
    """See `encoder.ops.Operations`."""

    name = "bitsandbytes products, PyTorch attention"

    def product(self, q: Tensor, packed: Tensor, zero: int) -> Tensor:
        """See `Reference.product`; exact in int32. Our outlier columns replace bitsandbytes' threshold."""
        # Bitsandbytes takes signed bytes, so q is shifted by 128; the sums of the weights correct for the difference to
        # the zero point.
        signed = (q.to(torch.int16) - 128).to(torch.int8)
        exact: Tensor = int8_linear_matmul(signed, packed)
        return (exact + (128 - zero) * packed.sum(1, dtype=torch.int32)).float()

    def attention(self, qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
        """See `Operations.attention`."""
        split = qkv.view(qkv.shape[0], 3, heads, -1)
        if window == 0 or window >= max(lengths) - 2:
            return _whole(split, lengths).flatten(1)
        return windowed(split, lengths, window, _compiled_flex()).flatten(1)


def _whole(split: Tensor, lengths: Sequence[int]) -> Tensor:
    """Full attention: (tokens, 3, heads, head size) to (tokens, heads, head size)."""
    bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=split.device)
    longest = max(lengths)
    queries, keys, values = split.unbind(1)
    context = varlen_attn(queries, keys, values, bounds, bounds, longest, longest)
    return cast("Tensor", context)


def windowed(split: Tensor, lengths: Sequence[int], window: int, flex: Callable[..., Any]) -> Tensor:
    """Windowed attention with a block mask: fully masked blocks are skipped. Shapes as in `_whole`."""
    device = split.device
    sizes = torch.tensor(lengths, device=device)
    segment = torch.repeat_interleave(torch.arange(len(lengths), device=device), sizes)
    ends = sizes.cumsum(0)
    first, last = (ends - sizes)[segment], (ends - 1)[segment]

    def sees(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        near = (query - key).abs() <= window
        end = (query == first[query]) | (query == last[query]) | (key == first[key]) | (key == last[key])
        return (segment[query] == segment[key]) & (near | end)

    tokens = split.shape[0]
    mask = create_block_mask(sees, None, None, tokens, tokens, device=str(device))
    queries, keys, values = (part.transpose(0, 1)[None] for part in split.unbind(1))
    context: Tensor = flex(queries, keys, values, block_mask=mask)
    return context[0].transpose(0, 1)


@cache
def _compiled_flex() -> Callable[..., Any]:
    """Flex attention is a fused kernel only when compiled; dynamic shapes avoid recompiling for each length."""
    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled
