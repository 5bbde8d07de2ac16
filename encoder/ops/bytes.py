"""Byte attention as `encoder.native` computes it, in plain PyTorch, for tests and the table of errors.

A segment's first and last tokens, the models' attention sinks, stay in float. Queries, keys, values and weights of the
inner tokens are bytes. Three measures keep the error small (in brackets: 1 − cosine of all-MiniLM-L6-v2's vectors, in
millionths, from rounding the weights alone, as measured when this was chosen):

- A row's weights are scaled to the largest inner weight. Scaled to the ends' weights, the inner ones, which carry the
  content, would be rounded away (62 instead of 695).
- Weights are divided by their sum before rounding, and values are bytes around their mean, which is added back at the
  end. So the weight lost in rounding counts as the mean, not as zero (4 instead of 62).
- Keys are bytes around their mean, which shifts all scores of a query equally and so changes no weight.

SageAttention (Zhang et al., 2025) also subtracts the keys' mean. `python -m benchmarks numerics` measures the error.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_STEPS = 64
"""Steps per power of two in the logarithm of a weight."""
_LARGEST = 255
_FINE = 128
"""Units of a weight per unit of its byte, before it is rounded."""
_LEAD = 60.0
"""Powers of two by which an end's weight may exceed the largest inner one before inner ones become zero."""


def attention(qkv: Tensor, lengths: Sequence[int], heads: int, window: int) -> Tensor:
    """See `encoder.ops.Operations.attention`; (tokens, 3 * hidden) to (tokens, hidden), in float64 throughout."""
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
    """(heads, tokens, size) to (heads, 1, size); 0 if there are no tokens."""
    return x.sum(1, keepdim=True) / max(x.shape[1], 1)


def _bytes(x: Tensor, alike: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Whole numbers of at most 127, and their scale, shared along the dimensions `alike`."""
    scale = x.abs().amax(alike, keepdim=True) / 127
    return (x / torch.where(scale > 0, scale, 1)).round(), scale


def _seen(tokens: int, window: int) -> Tensor:
    """(tokens, tokens) mask: which keys each query attends to."""
    at = torch.arange(tokens)
    ends = (at == 0) | (at == tokens - 1)
    near = (at[:, None] - at).abs() <= (window or tokens)
    return near | ends[:, None] | ends
