"""Digests of tensors: what a state below a layer boundary depends on."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor


def chain(seed: str, parts: Sequence[Sequence[Tensor]]) -> tuple[str, ...]:
    """A hex digest a part, each over the seed and all parts up to it: equal lower layers have equal digests."""
    link = hashlib.blake2b(seed.encode(), digest_size=32).digest()
    links = []
    for tensors in parts:
        total = hashlib.blake2b(link, digest_size=32)
        for tensor in tensors:
            total.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(as_bytes(tensor))
        link = total.digest()
        links.append(link.hex())
    return tuple(links)


def as_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bits, row-major; a view where it lies so in the CPU's memory."""
    return tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
