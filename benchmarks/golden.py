"""Golden states of the 8-bit arithmetic: models and segments from an integer hash, and the digests of their states.

No number here comes from a random generator, a library's rounding or a file: every processor makes the same ones.
`golden.json` beside this file has the digests; `python -m benchmarks.golden` computes them anew with the generic form.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoder.families import Activation
from encoder.layers import Norm
from encoder.ops import Embeddings8, Operations
from encoder.ops.native import Native
from encoder.quantise import QuantisedLayer, QuantisedLinear
from encoder.tensors import as_bytes

FILE = Path(__file__).with_name("golden.json")
WINDOWS = (0, 64, 128)
_OUTLIERS = 8


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's sizes."""

    hidden: int
    heads: int
    wide: int
    layers: int
    vocabulary: int
    activation: Activation


SHAPES = {
    "minilm": Shape(384, 12, 1536, 6, 30_522, "gelu"),
    "base": Shape(768, 12, 3072, 2, 30_522, "gelu_tanh"),
    "xlm-r": Shape(384, 12, 1536, 3, 250_037, "gelu"),
    "odd": Shape(96, 2, 160, 2, 1_000, "relu"),
    "two": Shape(384, 12, 1536, 2, 1_000, "gelu"),
    "wide-heads": Shape(160, 2, 96, 1, 1_000, "gelu_tanh"),
}


def _hash(count: int, seed: int) -> NDArray[np.uint32]:
    """MurmurHash3's finaliser of a counter."""
    x = np.arange(count, dtype=np.uint32) + np.uint32(seed * 0x9E3779B1 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        x = (x ^ x >> np.uint32(shift)) * np.uint32(factor)
    return x ^ x >> np.uint32(16)


def _integers(shape: Sequence[int], seed: int, most: int) -> Tensor:
    """Whole numbers from -most to most."""
    drawn = _hash(int(np.prod(shape)), seed) % np.uint32(2 * most + 1)
    return torch.from_numpy(drawn.astype(np.int32) - most).reshape(*shape)


class _Draw:
    """Tensors of a model, each from the next seed. Scales are powers of two, so that floats are exact."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def integers(self, *shape: int, most: int = 127) -> Tensor:
        self._seed += 1
        return _integers(shape, self._seed, most)

    def floats(self, *shape: int, unit: int, most: int = 127) -> Tensor:
        """Multiples of 2 ** unit."""
        return self.integers(*shape, most=most).float() * 2.0**unit

    def norm(self, size: int) -> Norm:
        return Norm(1 + self.floats(size, unit=-9), self.floats(size, unit=-9), 1e-12)

    def linear(self, outputs: int, inputs: int) -> QuantisedLinear:
        weight = self.integers(outputs, inputs).to(torch.int8)
        columns = torch.arange(_OUTLIERS, dtype=torch.int32) * (inputs // _OUTLIERS) + 3
        weight[:, columns] = 0
        factor = 1 + self.floats(inputs, unit=-10)
        factor[columns] = 0
        spread = -6 - (inputs.bit_length() // 2)  # so that outputs are about as large as inputs
        return QuantisedLinear(
            weight=weight,
            scale=(1 + self.floats(outputs, unit=-8)) * 2.0**spread,
            bias=self.floats(outputs, unit=-10),
            columns=columns,
            outlier_weight=self.floats(_OUTLIERS, outputs, unit=-11).bfloat16(),
            factor=factor,
        )

    def layer(self, shape: Shape) -> QuantisedLayer:
        return QuantisedLayer(
            qkv=self.linear(3 * shape.hidden, shape.hidden),
            mix=self.linear(shape.hidden, shape.hidden),
            mix_norm=self.norm(shape.hidden),
            up=self.linear(shape.wide, shape.hidden),
            down=self.linear(shape.hidden, shape.wide),
            down_norm=self.norm(shape.hidden),
        )

    def embeddings(self, shape: Shape) -> Embeddings8:
        return Embeddings8(
            words=self.integers(shape.vocabulary, shape.hidden).to(torch.int8),
            scale=(1 + self.floats(shape.vocabulary, unit=-8)) * 2.0**-7,
            positions=self.floats(512, shape.hidden, unit=-8).bfloat16(),
            norm=self.norm(shape.hidden),
        )


def lengths_of(segments: int) -> list[int]:
    """Lengths from 1 to 512, short ones more often; the shortest and the longest are among them."""
    longest = np.uint32(512) >> _hash(segments, 98) % np.uint32(3)
    drawn = (1 + _hash(segments, 99) % longest).tolist()
    return [*[1, 2, 3, 512][:segments], *drawn[4:]]


@dataclass(frozen=True, slots=True)
class Case:
    """A model and segments for it."""

    shape: Shape
    embeddings: Embeddings8
    layers: Sequence[QuantisedLayer]
    ids: Tensor
    lengths: Sequence[int]


def case(name: str, segments: int) -> Case:
    """The model of a shape, with so many segments."""
    shape, draw, lengths = SHAPES[name], _Draw(1_000 * (1 + list(SHAPES).index(name))), lengths_of(segments)
    embeddings = draw.embeddings(shape)
    ids = _hash(sum(lengths), 7) % np.uint32(shape.vocabulary)
    layers = [draw.layer(shape) for _ in range(shape.layers)]
    return Case(shape, embeddings, layers, torch.from_numpy(ids.astype(np.int64)), lengths)


def states(operations: Operations, given: Case) -> Iterator[tuple[int, Tensor]]:
    """For each window the last layer's state: (tokens, hidden) bfloat16."""
    shape = given.shape
    packed = [layer.pack(operations) for layer in given.layers]
    layers = operations.stack(packed, shape.heads, shape.activation)
    if layers is None:
        raise ValueError(f"{operations.kernels} cannot run this shape")
    state = operations.embed(given.embeddings, given.ids, given.lengths)
    for window in WINDOWS:
        yield window, layers(state, given.lengths, window, 0, shape.layers)


def digest(state: Tensor) -> str:
    """A digest of a state's bits."""
    return hashlib.blake2b(as_bytes(state), digest_size=16).hexdigest()


def digests(operations: Operations, name: str, segments: int) -> dict[str, str]:
    """A digest of the states for each window."""
    return {f"{name}.{segments}.{window}": digest(state) for window, state in states(operations, case(name, segments))}


def golden() -> dict[str, str]:
    """The digests that every form must give, and the arithmetic's name as `arithmetic`."""
    stored: dict[str, str] = json.loads(FILE.read_text("utf-8"))
    return stored


CASES = (("odd", 16), ("two", 16), ("wide-heads", 16), ("minilm", 200), ("base", 200), ("xlm-r", 200))
"""Names of shapes, and segments."""


def main(arguments: Sequence[str]) -> None:
    """Print the digests of a form, of all cases or of those with at most so many segments."""
    form, most = arguments[0] if arguments else "generic", int(arguments[1]) if len(arguments) > 1 else 200
    operations: Any = Native(form)
    made = {"arithmetic": operations.name}
    for name, segments in CASES:
        if segments <= most:
            made |= digests(operations, name, segments)
    print(json.dumps(made, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
