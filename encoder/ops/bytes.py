"""Attention in bytes as `encoder.native` computes it, in plain PyTorch: what its tests and the table of errors go by.

A segment's first and last token, where these models park attention that they have no use for, stay in float. Of the
inner tokens between them queries, keys and values are bytes, and so are the weights. What makes that harmless (in
brackets, from when it was chosen: millionths of one less the cosine of all-MiniLM-L6-v2's vectors, by weights alone):

- The largest weight of a row is the largest inner one. With the ends among them the others, which carry what the token
  says, would be rounded away (62 for 695).
- Weights are divided by their sum before rounding, and values are bytes around their mean, which comes back at the
  end. So what rounding drops of the weights counts as the mean, not as nothing (4 for 62).
- Keys are bytes around their mean, too. It changes all scores of a query alike, and so no weight.

SageAttention (Zhang et al., 2025) takes the keys' mean off as well.
`python -m benchmarks numerics` tells what all of it costs.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 64
"""Steps to a power of two: how finely a weight's logarithm is held."""
_LARGEST = 255
_FINE = 128
"""A weight's unit before it is rounded to a byte."""
_LEAD = 60.0
"""Powers of two that an end's weight may exceed the largest inner one by before inner ones count as nothing."""


def attention(qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
    """See `encoder.ops.Operations.attention`; (tokens, 3 * hidden) to (tokens, hidden), in float64 all through."""
    return torch.cat([_segment(segment.double(), heads, window) for segment in torch.split(qkv, list(lengths))])


def _segment(segment: Tensor, heads: int, window: int) -> Tensor:
    tokens = len(segment)
    queries, keys, values = segment.view(tokens, 3, heads, -1).permute(1, 2, 0, 3)
    ends = sorted({0, tokens - 1})
    inner = slice(1, max(tokens - 1, 1))
    key_mean, value_mean = _mean(keys[:, inner]), _mean(values[:, inner])
    per_score = math.log2(math.e) / math.sqrt(queries.shape[2])

    end_scores = queries @ (keys[:, ends] - key_mean).mT * per_score
    top = end_scores.amax(2, keepdim=True) - _LEAD
    sums, total = torch.zeros_like(queries), torch.zeros_like(top)
    if tokens > 2:  # noqa: PLR2004  the ends
        q, query_scale = _bytes(queries, (1, 2))
        k, key_scale = _bytes(keys[:, inner] - key_mean, (1, 2))
        v, value_scale = _bytes(values[:, inner] - value_mean, (1,))
        scores = q @ k.mT * (query_scale * key_scale * per_score)
        scores = scores.masked_fill(~_seen(tokens, window)[:, inner], -torch.inf)
        top = top.maximum(scores.amax(2, keepdim=True))
        below = ((top - scores) * _STEPS).round().clamp(max=2.0**16 - 1)
        fine = (_LARGEST * _FINE * 2 ** -(below % _STEPS / _STEPS)).round()
        fine = (fine / 2 ** (below // _STEPS)).floor()
        sums, total = (fine / _FINE + 0.5).floor() @ v * value_scale, fine.sum(2, keepdim=True) / _FINE
    end_weights = _LARGEST * 2 ** (end_scores - top)
    sums = sums + end_weights @ (values[:, ends] - value_mean)
    context: Tensor = value_mean + sums / (total + end_weights.sum(2, keepdim=True))
    return context.transpose(0, 1).flatten(1)


def _mean(x: Tensor) -> Tensor:
    """(heads, tokens, size) to (heads, 1, size); 0 over no tokens."""
    return x.sum(1, keepdim=True) / max(x.shape[1], 1)


def _bytes(x: Tensor, alike: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Whole numbers of at most 127, and the scale of those that lie along the dimensions `alike`."""
    scale = x.abs().amax(alike, keepdim=True) / 127
    return (x / torch.where(scale > 0, scale, 1)).round(), scale


def _seen(tokens: int, window: int) -> Tensor:
    """(tokens, tokens): which keys each query sees."""
    at = torch.arange(tokens)
    ends = (at == 0) | (at == tokens - 1)
    near = (at[:, None] - at).abs() <= (window or tokens)
    return near | ends[:, None] | ends
