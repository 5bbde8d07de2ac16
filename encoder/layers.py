"""Floating-point layers and how they are read from a checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from encoder.families import FAMILIES, Architecture
from encoder.weights import Checkpoint

Cast = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x weightᵀ + bias.

    Attributes:
        weight: (outputs, inputs).
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        return functional.linear(x, self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation over the hidden size."""

    weight: Tensor
    bias: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """Apply to the last dimension."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer's tensors.

    Attributes:
        qkv: queries, keys and values, stacked in that order.
    """

    qkv: Linear
    mix: Linear
    mix_norm: Norm
    up: Linear
    down: Linear
    down_norm: Norm


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Embedding tables.

    Attributes:
        words: (vocabulary, hidden).
        positions: (types * max_tokens, hidden), starting at a segment's first token; includes the embedding of token
            type 0, and then again with that of type 1, if the model uses it.
    """

    words: Tensor
    positions: Tensor
    norm: Norm


def read_embeddings(checkpoint: Checkpoint, shape: Architecture, cast: Cast) -> Embeddings:
    """Read a checkpoint's embeddings; tensors stay memory-mapped unless `cast` copies them."""
    prefix = checkpoint.prefix(("", FAMILIES[shape.family].prefix), "embeddings.word_embeddings.weight") + "embeddings."
    words = checkpoint.get(prefix + "word_embeddings.weight", (shape.vocabulary, shape.hidden))
    positions = checkpoint.get(prefix + "position_embeddings.weight", (shape.positions, shape.hidden))
    types = checkpoint.get(prefix + "token_type_embeddings.weight", (shape.token_types, shape.hidden))
    used = positions[shape.first_position : shape.first_position + shape.max_tokens].float()
    typed = torch.cat([used + each.float() for each in types[: shape.types]])
    return Embeddings(cast(words), cast(typed), _read_norm(checkpoint, prefix + "LayerNorm", shape, cast))


def position_rows(positions: Tensor, shape: Architecture, tokens: int, second: int) -> Tensor:
    """The rows of `Embeddings.positions` for a segment, whose tokens from `second` on are of type 1, unless it is 0."""
    if not second or shape.types == 1:
        return positions[:tokens]
    return torch.cat([positions[:second], positions[shape.max_tokens + second : shape.max_tokens + tokens]])


def read_layer(checkpoint: Checkpoint, shape: Architecture, index: int, cast: Cast) -> Layer:
    """Read one layer of a checkpoint."""
    prefix = checkpoint.prefix(("", FAMILIES[shape.family].prefix), "embeddings.word_embeddings.weight")
    prefix += f"encoder.layer.{index}."

    def linear(name: str, outputs: int, inputs: int) -> Linear:
        weight = checkpoint.get(f"{prefix}{name}.weight", (outputs, inputs))
        return Linear(cast(weight), cast(checkpoint.get(f"{prefix}{name}.bias", (outputs,))))

    hidden, wide = shape.hidden, shape.intermediate
    parts = [linear(f"attention.self.{part}", hidden, hidden) for part in ("query", "key", "value")]
    return Layer(
        qkv=Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        mix=linear("attention.output.dense", hidden, hidden),
        mix_norm=_read_norm(checkpoint, f"{prefix}attention.output.LayerNorm", shape, cast),
        up=linear("intermediate.dense", wide, hidden),
        down=linear("output.dense", hidden, wide),
        down_norm=_read_norm(checkpoint, f"{prefix}output.LayerNorm", shape, cast),
    )


def _read_norm(checkpoint: Checkpoint, name: str, shape: Architecture, cast: Cast) -> Norm:
    weight, bias = (cast(checkpoint.get(f"{name}.{part}", (shape.hidden,))) for part in ("weight", "bias"))
    return Norm(weight, bias, shape.eps)
