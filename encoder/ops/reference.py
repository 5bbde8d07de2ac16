"""The operations in plain PyTorch: right on any machine, and what every other form is held to."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from encoder.families import Activation
from encoder.ops.blocks import Block, plan


def attention(qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
    """Softmax attention within each segment, limited to a window; see `encoder.ops.blocks`.

    Args:
        qkv: (tokens, 3 * hidden), queries, keys and values side by side, heads within each.
        lengths: tokens of each segment.
        heads: attention heads; head size is hidden / heads, and scores are scaled by its square root.
        window: half width in tokens, 0 for none.

    Returns:
        (tokens, hidden), of the type of `qkv`.
    """
    contexts = []
    for segment in torch.split(qkv, list(lengths)):
        # (3, heads, tokens, head size)
        queries, keys, values = segment.view(segment.shape[0], 3, heads, -1).permute(1, 2, 0, 3)
        blocks = [_block(queries, keys, values, block, window) for block in plan(segment.shape[0], window)]
        contexts.append(torch.cat(blocks, dim=1).transpose(0, 1).flatten(1))
    return torch.cat(contexts)


def _block(queries: Tensor, keys: Tensor, values: Tensor, block: Block, window: int) -> Tensor:
    """One block's queries over the keys that it may read: (heads, queries, head size)."""
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
