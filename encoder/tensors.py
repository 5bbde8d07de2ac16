"""Dataclasses of tensors, nested: all of them by name, moved, counted, digested."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


def named(part: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a part with its dotted name, in the order of the fields."""
    for field in fields(part):
        value, name = getattr(part, field.name), prefix + field.name
        if isinstance(value, Tensor):
            yield name, value
        elif is_dataclass(value):
            yield from named(value, f"{name}.")


def moved(part: Part, device: torch.device) -> Part:
    """The same part with its tensors on a device."""
    changes: dict[str, Any] = {}
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = value.to(device)
        elif is_dataclass(value):
            changes[field.name] = moved(value, device)
    return replace(part, **changes)  # type: ignore[type-var]


def held_bytes(part: Any) -> int:
    """Bytes of all tensors of a part. What oneDNN packed counts as the numbers it holds."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in named(part))


def chain(seed: str, parts: Iterable[Any]) -> tuple[str, ...]:
    """A hex digest a part, each over the seed and all parts up to it: equal lower layers have equal digests."""
    link = hashlib.blake2b(seed.encode(), digest_size=32).digest()
    links = []
    for part in parts:
        total = hashlib.blake2b(link, digest_size=32)
        for name, tensor in named(part):
            total.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
            total.update(as_bytes(tensor))
        link = total.digest()
        links.append(link.hex())
    return tuple(links)


def as_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bits, row-major; a view where it lies so in the CPU's memory."""
    return tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
