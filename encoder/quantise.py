"""A model in 8 bits: weights a row, a few static outlier columns beside, calibrated on a text that ships with us.

Weights are those of LLM.int8() (Dettmers et al., 2022) as bitsandbytes keeps them: int8, a row's absolute maximum over
127. What keeps their results close to fp32, by the cosine of MiniLM's segment vectors (mean; worst), which is 0.9984;
0.9977 without any of it:

- 8 outlier columns of each linear's input stay in bfloat16: those with the largest absolute value over the text. With
  16 it is 0.9996; 0.9994. Once all that follows is done 8 do as well (one less the mean: 295 millionths with 16, 296
  with 8, 307 with 4) for half the work. They are static because LLM.int8()'s threshold looks at the whole batch, so
  that a row would change with its batch-mates.
- Rows of an activation are nearly all positive (GELU is never below −0.17), so their zero point is low: half the step.
- The bias takes up the mean of each output's rounding error over the text (Nagel et al., 2019). 0.99965; 0.99955.
- Weights are rounded one after another, and later ones make up for the errors of earlier ones (GPTQ). 0.9998; 0.9997.
- Inputs that are large are scaled down and their weights up, a little (SmoothQuant, Xiao et al., 2023): an eighth less
  squared error for nothing, since a factor for each input is multiplied by anyway.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.families import Architecture
from encoder.layers import Layer, Linear, Norm, read_embeddings, read_layer
from encoder.ops import Layer8, Linear8, Operations, Quantiser
from encoder.ops.reference import activate, attention
from encoder.threads import one_thread
from encoder.weights import Checkpoint

OUTLIERS = 8
SIGNED = 128
"""Zero point of rows of either sign."""
POSITIVE = 28
"""Zero point of an activation's rows."""
_SMOOTHING = 0.25
"""Power of an input's size that goes over to its weights. Measured: nothing changes by much from 0.15 to 0.35; 0.5, as
SmoothQuant has it, makes rows of weights so uneven that results get worse than without."""
_BLOCK = 32
"""Inputs rounded before what they lost is carried to all that follow."""


@dataclass(frozen=True, slots=True)
class QuantisedLinear:
    """A linear map in 8 bits as it is kept; `encoder.ops.Linear8` is how it runs."""

    weight: Tensor
    """(outputs, inputs) int8; 0 at outlier columns."""
    scale: Tensor
    """(outputs,) float32."""
    bias: Tensor
    """(outputs,) float32."""
    columns: Tensor
    """(outliers,) int32."""
    outlier_weight: Tensor
    """(outliers, outputs) bfloat16."""
    factor: Tensor
    """(inputs,) float32 that inputs are multiplied by before rounding, and `weight` was divided by; 0 at outliers."""

    def pack(self, operations: Operations, zero: int) -> Linear8:
        """Arrange for products with rows whose zero point is `zero`."""
        return Linear8(
            packed=operations.pack(self.weight, zero),
            scale=self.scale,
            bias=self.bias,
            outlier_weight=self.outlier_weight,
            input=Quantiser(self.columns, self.factor, zero),
        )


@dataclass(frozen=True, slots=True)
class QuantisedLayer:
    """One layer; see `encoder.layers.Layer`."""

    qkv: QuantisedLinear
    mix: QuantisedLinear
    mix_norm: Norm
    up: QuantisedLinear
    down: QuantisedLinear
    down_norm: Norm

    def pack(self, operations: Operations) -> Layer8:
        """Arrange for products."""
        return Layer8(
            qkv=self.qkv.pack(operations, SIGNED),
            mix=self.mix.pack(operations, SIGNED),
            mix_norm=self.mix_norm,
            up=self.up.pack(operations, SIGNED),
            down=self.down.pack(operations, POSITIVE),
            down_norm=self.down_norm,
        )


@dataclass(frozen=True, slots=True)
class QuantisedEmbeddings:
    """The tables; see `encoder.layers.Embeddings`."""

    words: Tensor
    """(vocabulary, hidden) int8."""
    scale: Tensor
    """(vocabulary,) float32."""
    positions: Tensor
    """(max_tokens, hidden) bfloat16."""
    norm: Norm


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns) to int8 and each row's float32 scale, absolute maximum over 127."""
    scale = weight.float().abs().amax(1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return (weight.float() * inverse[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def quantise(
    checkpoint: Checkpoint, shape: Architecture, texts: Sequence[Tensor]
) -> Iterator[QuantisedEmbeddings | QuantisedLayer]:
    """Embeddings, then layer by layer, so that the original is never in memory as a whole.

    Args:
        checkpoint: the original.
        shape: its architecture.
        texts: token ids of segments to calibrate on; their states climb through the original in float32.
    """
    embeddings = read_embeddings(checkpoint, shape, torch.Tensor.float)
    words, scale = quantise_rows(embeddings.words)
    yield QuantisedEmbeddings(words, scale, embeddings.positions.bfloat16(), _own(embeddings.norm))
    states = [embeddings.norm(embeddings.words[ids] + embeddings.positions[: len(ids)]) for ids in texts]
    for index in range(shape.layers):
        layer = read_layer(checkpoint, shape, index, torch.Tensor.float)
        # One thread: the same machine finds the same columns and the same bits at every start.
        with one_thread():
            inputs, states = _climb(layer, shape, states)
            linears = (layer.qkv, layer.mix, layer.up, layer.down)
            qkv, mix, up, down = (quantise_linear(linear, x) for linear, x in zip(linears, inputs, strict=True))
        yield QuantisedLayer(qkv, mix, _own(layer.mix_norm), up, down, _own(layer.down_norm))


def _own(norm: Norm) -> Norm:
    """A copy, so that the original's file need not stay mapped."""
    return Norm(norm.weight.clone(), norm.bias.clone(), norm.eps)


def _climb(layer: Layer, shape: Architecture, states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What each of a layer's four linears reads, all segments together, and the states above the layer."""
    reads, above = [], []
    for x in states:
        context = attention(layer.qkv(x), (x.shape[0],), shape.heads, 0)
        mixed = layer.mix_norm(layer.mix(context) + x)
        wide = activate(layer.up(mixed), shape.activation)
        reads.append((x, context, mixed, wide))
        above.append(layer.down_norm(layer.down(wide) + mixed))
    return [torch.cat(parts) for parts in zip(*reads, strict=True)], above


def quantise_linear(linear: Linear, x: Tensor) -> QuantisedLinear:
    """A linear map that read x, (tokens, inputs), over the calibration text."""
    columns = x.abs().amax(0).topk(min(OUTLIERS, x.shape[1])).indices.sort().values
    outliers = linear.weight[:, columns].bfloat16()
    factor = _smoothing(x, columns)
    kept = linear.weight / torch.where(factor > 0, factor, torch.inf)
    scale = kept.abs().amax(1) / 127
    weight = _round(kept, scale, x * factor, columns)
    error = linear.weight - weight * scale[:, None] * factor
    error[:, columns] = linear.weight[:, columns] - outliers.float()
    bias = linear.bias + error @ x.mean(0)
    return QuantisedLinear(weight, scale, bias, columns.int(), outliers.t().contiguous(), factor)


def _smoothing(x: Tensor, columns: Tensor) -> Tensor:
    """(inputs,) factors that bring columns of x, (tokens, inputs), a little closer in size; 0 at outlier columns."""
    size = x.square().mean(0).sqrt()
    size = size.clamp_min(size.max() * 1e-3).clamp_min(1e-12)
    smooth = torch.ones(x.shape[1], dtype=torch.bool)
    smooth[columns] = False
    factor = torch.zeros_like(size)
    factor[smooth] = (size[smooth] / size[smooth].log().mean().exp()) ** -_SMOOTHING
    return factor


def _round(weight: Tensor, scale: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """(outputs, inputs) float32 to int8 under each row's scale, input by input: later ones make up for what one lost.

    GPTQ (Frantar et al., 2023), with the covariance of the inputs x for its Hessian, because the bias takes up their
    mean, and damped by its mean diagonal: a short text must not be trusted further. Outlier columns stay 0.
    """
    inputs = torch.ones(x.shape[1], dtype=torch.bool)
    inputs[columns] = False
    reads = x[:, inputs] - x[:, inputs].mean(0)
    covariance = reads.t() @ reads / len(reads)
    covariance.diagonal().add_(covariance.diagonal().mean().clamp_min(1e-12))
    # The upper Cholesky factor of the covariance's inverse is the inverse of its factor from the last input back.
    factor = torch.linalg.cholesky(covariance.flip(0, 1))
    spread = torch.linalg.solve_triangular(factor, torch.eye(len(factor)), upper=False).flip(0, 1)
    # Inputs are rows from here on, so that one of them lies together.
    left, steps = weight[:, inputs].t().contiguous(), torch.where(scale > 0, scale, 1)
    rounded = torch.empty_like(left)
    for first in range(0, len(left), _BLOCK):
        block = slice(first, first + _BLOCK)
        errors = torch.empty_like(left[block])
        for index in range(len(errors)):
            at = first + index
            rounded[at] = (left[at] / steps).round_().clamp_(-127, 127)
            errors[index] = (left[at] - rounded[at] * steps) / spread[at, at]
            left[block][index:].addr_(spread[at, at : first + len(errors)], errors[index], alpha=-1)
        left[first + _BLOCK :] -= spread[block, first + _BLOCK :].t() @ errors
    result = torch.zeros(weight.shape, dtype=torch.int8)
    result[:, inputs] = rounded.t().to(torch.int8)
    return result
