"""Quantises a model to 8 bits, with a scale per row and static outlier columns, calibrated on a text that we ship.

Weights are as in LLM.int8() (Dettmers et al., 2022) and bitsandbytes: int8, scaled by a row's absolute maximum over
127. The following measures keep results close to fp32. Figures are the cosine of MiniLM's segment vectors (mean;
worst), which without any of them is 0.9984; 0.9977:

- 8 outlier columns of each linear map's input stay in bfloat16: those with the largest absolute value over the text.
  With 16 the cosine is 0.9996; 0.9994. With the measures below, 8 are as good (1 − mean in millionths: 295 with 16, 296
  with 8, 307 with 4) for half the work. They are static because LLM.int8()'s threshold looks at the whole batch, so
  that a row would depend on others in its batch.
- Rows after an activation are nearly all positive (GELU is never below −0.17), so a low zero point halves the step.
- The bias corrects the mean of each output's rounding error over the text (Nagel et al., 2019). 0.99965; 0.99955.
- Weights are rounded in sequence, and later ones compensate for the errors of earlier ones (GPTQ). 0.9998; 0.9997.
- Large inputs are scaled down a little and their weights up (SmoothQuant, Xiao et al., 2023): an eighth less squared
  error at no cost, since inputs are multiplied by a factor anyway.

All sums are in float64 and their results are rounded to float32 or less. The order in which a library adds follows the
processor, but sums then differ by so little (an estimate: 1e-15; 1e-11 where errors are compensated for) that one of
MiniLM's eleven million numbers crosses a boundary of rounding in one of some thousand models. So all machines get the
same weights; `server/fetch/manifest.toml` has the digest of the default model's.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from encoder.families import Architecture
from encoder.layers import Layer, Linear, Norm, read_embeddings, read_layer
from encoder.ops import Embeddings8, Layer8, Linear8, Operations, Quantiser
from encoder.ops.reference import activate, attention
from encoder.threads import one_thread
from encoder.weights import Checkpoint

OUTLIERS = 8
SIGNED = 128
"""Zero point of rows with both signs."""
POSITIVE = 28
"""Zero point of rows after an activation."""
_SMOOTHING = 0.25
"""Power of an input's size that moves to its weights. Measured: results are similar from 0.15 to 0.35; with
SmoothQuant's 0.5, rows of weights become so uneven that results are worse than without."""
_BLOCK = 32
"""Inputs rounded before their errors are applied to all later ones."""


@dataclass(frozen=True, slots=True)
class QuantisedLinear:
    """A stored 8-bit linear map; `encoder.ops.Linear8` is its form for running.

    Attributes:
        weight: (outputs, inputs) int8; 0 at outlier columns.
        scale: (outputs,) float32.
        bias: (outputs,) float32.
        columns: (outliers,) int32.
        outlier_weight: (outliers, outputs) bfloat16.
        factor: (inputs,) float32 that inputs are multiplied by before rounding, and that `weight` was divided by; 0 at
            outliers.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor
    columns: Tensor
    outlier_weight: Tensor
    factor: Tensor

    def pack(self, operations: Operations, zero: int) -> Linear8:
        """Pack for products with rows whose zero point is `zero`."""
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
        """Pack for products."""
        return Layer8(
            qkv=self.qkv.pack(operations, SIGNED),
            mix=self.mix.pack(operations, SIGNED),
            mix_norm=self.mix_norm,
            up=self.up.pack(operations, SIGNED),
            down=self.down.pack(operations, POSITIVE),
            down_norm=self.down_norm,
        )


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise (rows, columns) to int8 with a float32 scale per row, its absolute maximum over 127."""
    scale = weight.float().abs().amax(1) / 127
    inverse = torch.where(scale > 0, 1 / scale, 0)
    return (weight.float() * inverse[:, None]).round_().clamp_(-127, 127).to(torch.int8), scale


def quantise(
    checkpoint: Checkpoint, shape: Architecture, texts: Sequence[Tensor]
) -> Iterator[Embeddings8 | QuantisedLayer]:
    """Quantise embeddings, then layer by layer, so that the original is never completely in memory.

    Args:
        checkpoint: the original.
        shape: its architecture.
        texts: token ids of segments to calibrate on, which run through the original in float64.
    """
    embeddings = read_embeddings(checkpoint, shape, torch.Tensor.float)
    words, scale = quantise_rows(embeddings.words)
    yield Embeddings8(words, scale, embeddings.positions.bfloat16(), _own(embeddings.norm))
    norm = Norm(embeddings.norm.weight.double(), embeddings.norm.bias.double(), shape.eps)
    states = [norm(embeddings.words[ids].double() + embeddings.positions[: len(ids)].double()) for ids in texts]
    for index in range(shape.layers):
        layer = read_layer(checkpoint, shape, index, torch.Tensor.double)
        with one_thread():  # so that the same machine gets the same bits at every start
            inputs, states = _climb(layer, shape, states)
            linears = (layer.qkv, layer.mix, layer.up, layer.down)
            qkv, mix, up, down = (quantise_linear(linear, x) for linear, x in zip(linears, inputs, strict=True))
        yield QuantisedLayer(qkv, mix, _own(layer.mix_norm), up, down, _own(layer.down_norm))


def _own(norm: Norm) -> Norm:
    """Copy a norm in float32, so that the original's file need not stay mapped."""
    return Norm(norm.weight.float().clone(), norm.bias.float().clone(), norm.eps)


def _climb(layer: Layer, shape: Architecture, states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs of a layer's four linear maps, over all segments, and the states above the layer."""
    reads, above = [], []
    for x in states:
        context = attention(layer.qkv(x), (x.shape[0],), shape.heads, 0)
        mixed = layer.mix_norm(layer.mix(context) + x)
        wide = activate(layer.up(mixed), shape.activation)
        reads.append((x, context, mixed, wide))
        above.append(layer.down_norm(layer.down(wide) + mixed))
    return [torch.cat(parts) for parts in zip(*reads, strict=True)], above


def quantise_linear(linear: Linear, x: Tensor) -> QuantisedLinear:
    """Quantise a linear map whose inputs over the calibration text are x, (tokens, inputs)."""
    original, x = linear.weight.double(), x.double()
    columns = x.abs().amax(0).topk(min(OUTLIERS, x.shape[1])).indices.sort().values
    outliers = original[:, columns].bfloat16()
    factor = _stored(_smoothing(x, columns))
    kept = original / torch.where(factor > 0, factor, torch.inf)
    scale = _stored(kept.abs().amax(1) / 127)
    weight = _round(kept, scale, x * factor, columns)
    error = original - weight * scale[:, None] * factor
    error[:, columns] = original[:, columns] - outliers.double()
    bias = (linear.bias.double() + error @ x.mean(0)).float()
    return QuantisedLinear(weight, scale.float(), bias, columns.int(), outliers.t().contiguous(), factor.float())


def _stored(x: Tensor) -> Tensor:
    """Float64 numbers as float32 stores them."""
    return x.float().double()


def _smoothing(x: Tensor, columns: Tensor) -> Tensor:
    """(inputs,) factors that make columns of x, (tokens, inputs), more similar in size; 0 at outlier columns."""
    size = x.square().mean(0).sqrt()
    size = size.clamp_min(size.max() * 1e-3).clamp_min(1e-12)
    smooth = torch.ones(x.shape[1], dtype=torch.bool)
    smooth[columns] = False
    factor = torch.zeros_like(size)
    factor[smooth] = (size[smooth] / size[smooth].log().mean().exp()) ** -_SMOOTHING
    return factor


def _round(weight: Tensor, scale: Tensor, x: Tensor, columns: Tensor) -> Tensor:
    """Round (outputs, inputs) float64 to int8 with each row's scale, input by input, compensating for earlier errors.

    GPTQ (Frantar et al., 2023). Its Hessian is the covariance of the inputs x, because the bias corrects their mean,
    damped by its mean diagonal, because the text is short. Outlier columns stay 0.
    """
    inputs = torch.ones(x.shape[1], dtype=torch.bool)
    inputs[columns] = False
    reads = x[:, inputs] - x[:, inputs].mean(0)
    covariance = reads.t() @ reads / len(reads)
    covariance.diagonal().add_(covariance.diagonal().mean().clamp_min(1e-12))
    # The upper Cholesky factor of the inverse is the inverse of the Cholesky factor with inputs in reverse order.
    factor = torch.linalg.cholesky(covariance.flip(0, 1))
    spread = torch.linalg.solve_triangular(factor, torch.eye(len(factor)), upper=False).flip(0, 1)
    # From here on inputs are rows, so that each is contiguous.
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
