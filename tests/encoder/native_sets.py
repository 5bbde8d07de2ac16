"""What the native core's tests share: the instruction sets that can run here, and a number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from encoder.native import library
from encoder.ops.native import Native

LENGTHS = (1, 5, 33, 77, 301, 453, 511, 512)


def instruction_sets() -> list[object]:
    """Every instruction set that can run here, emulated tiles among them, or one case that says why there is none."""
    try:
        permitted = library.permitted_sets()
        library.find()
    except library.NativeUnavailableError as error:
        return [pytest.param("none", marks=pytest.mark.skip(reason=str(error)))]
    return [*permitted, *(["amx_emulated"] if "bf16" in permitted else [])]


@cache
def native(name: str) -> Native:
    """The operations on one instruction set."""
    return Native(name)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run on so many threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
