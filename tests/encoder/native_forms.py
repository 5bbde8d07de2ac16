"""What the native core's tests share: the forms that can run here, and a number of threads."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch

from encoder.native import library
from encoder.native.core import runs_here
from encoder.ops.native import Native

LENGTHS = (1, 5, 33, 77, 301, 453, 511, 512)


def forms() -> list[object]:
    """Every form that can run here, emulated ones among them, or one case that says why there is none."""
    try:
        return [form for form in library.FORMS.get(library.architecture(), ()) if runs_here(form)]
    except library.NativeUnavailableError as error:
        return [pytest.param("none", marks=pytest.mark.skip(reason=str(error)))]


def fastest() -> list[object]:
    """The fastest form that may serve here. What holds for its results holds for all: test_same_bits.py."""
    return [form for form in forms() if form not in library.EMULATED][:1]


@cache
def native(form: str) -> Native:
    """The operations in one form."""
    return Native(form)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run on so many threads, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
