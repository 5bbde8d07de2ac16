"""Nested dataclasses of tensors: list by name, move, count bytes, digest."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


def named(part: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a part with dotted names, in field order."""
    for field in fields(part):
        value, name = getattr(part, field.name), prefix + field.name
        if isinstance(value, Tensor):
            yield name, value
        elif is_dataclass(value):
            yield from named(value, f"{name}.")


def moved(part: Part, device: torch.device) -> Part:
    """A copy of the part with its tensors on a device."""
    changes: dict[str, Any] = {}
    for field in fields(part):  # type: ignore[arg-type]
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = value.to(device)
        elif is_dataclass(value):
            changes[field.name] = moved(value, device)
    return replace(part, **changes)  # type: ignore[type-var]


def held_bytes(part: Any) -> int:
    """Bytes of all tensors of a part."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in named(part))


def chain(seed: str, parts: Iterable[Any]) -> tuple[str, ...]:
    """One hex digest per part, over the seed and all parts up to it: equal lower layers have equal digests."""
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
    """A tensor's bytes, row-major; a view if it is contiguous on the CPU."""
    return tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
