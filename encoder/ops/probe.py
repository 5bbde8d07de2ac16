"""Checks at start whether 8-bit products are exact on this machine, against 64-bit integers on extreme values.

A product that adds pairs in 16 bits, as AVX2's vpmaddubsw does, saturates and is silently wrong.
"""

import torch
from torch import Tensor

from encoder.ops.reference import Reference

_INPUTS, _OUTPUTS = 256, 64
_TOKENS = (1, 5, 77)
_ZEROS = (128, 28)


def exact(operations: Reference, device: str = "cpu") -> bool:
    """Whether products equal those of 64-bit integers, rounded once to float32."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (_OUTPUTS, _INPUTS), generator=draw).to(torch.int8)
    weight[0], weight[1] = 127, -127  # sums of pairs overflow 16 bits
    for zero in _ZEROS:
        packed = operations.pack(weight.to(device), zero)
        for tokens in _TOKENS:
            q = torch.randint(0, 256, (tokens, _INPUTS), generator=draw).to(torch.uint8)
            q[0] = 255
            if not _same(operations.product(q.to(device), packed, zero).cpu(), q, weight, zero):
                return False
    return True


def _same(product: Tensor, q: Tensor, weight: Tensor, zero: int) -> bool:
    return torch.equal(product, ((q.long() - zero) @ weight.long().t()).float())
